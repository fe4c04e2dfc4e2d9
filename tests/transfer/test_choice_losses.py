"""T-Few's losses: against a float64 transcription, whatever the micro-batches, and on every kind of choice."""

from __future__ import annotations

import math

import pytest
import torch
from small_models import make_bart, make_t5
from support import describe
from transfer_runs import trained_run

from hyperpelt import tasks as registry
from hyperpelt.data import Choices, MicroBatches, TokenizedSet
from hyperpelt.model.choice_losses import WrongChoices, length_normalised, unlikelihood
from hyperpelt.model.inputs import inputs_of
from hyperpelt.model.outputs import token_losses
from hyperpelt.model.tuned import TunedModel
from hyperpelt.training.objective import total_loss
from hyperpelt.transfer.shots import ShotSampler

WRONG = WrongChoices(torch.tensor([[7, 8, 1], [9, 1, -100], [10, 11, 12]]), torch.tensor([0, 0, 2]))


def one_batch() -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    ids = torch.randint(3, 128, (3, 6), generator=generator)
    labels = torch.tensor([[5, 6, 1], [4, 1, -100], [3, 1, -100]])
    return {"input_ids": ids, "labels": labels, "task_ids": torch.tensor([0, 1, 0])}


def model_of(family: str, method: object = "ia3") -> TunedModel:
    model = TunedModel.build(make_t5() if family == "t5" else make_bart(), method=method, tasks=["a", "b"]).eval()
    generator = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for _, parameter in model.trainable_parameters():
            parameter.add_(torch.randn(parameter.shape, generator=generator) * 0.3)
    return model


def log_probs_alone(model: TunedModel, batch, row: int, target: list[int]) -> torch.Tensor:
    """log p of each token of one candidate of one row, by a forward pass of its own, in float64."""
    ids, task = batch["input_ids"][row : row + 1], batch["task_ids"][row : row + 1]
    logits = model(ids, labels=torch.tensor([target]), task_ids=task).logits[0].double()
    return logits.log_softmax(-1)[range(len(target)), target]


def test_a_rows_choices_are_compared_under_the_same_weights():
    """Where an embedding made of words stands in for a task, it does so for all choices of a row or for none."""
    model = describe(model_of("t5", {"name": "hyper-lora", "hypernetwork": {"description_dropout": 0.5}})).train()
    wrong = WrongChoices(torch.tensor([[5, 6, 1], [5, 6, 1], [3, 1, -100]]), torch.tensor([0, 0, 2]))
    losses = set()
    with torch.no_grad():
        for seed in range(8):
            torch.manual_seed(seed)
            output = model(**one_batch(), wrong=wrong)
            alike = torch.tensor([math.log(3), 0.0, math.log(2)])
            torch.testing.assert_close(output.row_length_normalised, alike, rtol=1e-4, atol=1e-4)
            losses.add(round(float(output.row_loss[0]), 3))
    assert len(losses) > 1, "what stands for the task has changed between passes"


@pytest.mark.parametrize("family", ["t5", "bart"])
@pytest.mark.parametrize("method", ["ia3", "prompt-tuning", "mam"])
def test_the_three_terms_are_the_papers(family, method):
    model, batch = model_of(family, method), one_batch()
    with torch.no_grad():
        output = model(**batch, wrong=WRONG)
        for row, wrong in enumerate([[[7, 8, 1], [9, 1]], [], [[10, 11, 12]]]):
            right = [token for token in batch["labels"][row].tolist() if token >= 0]
            betas = [log_probs_alone(model, batch, row, target).mean() for target in (right, *wrong)]
            normalised = -torch.stack(betas).log_softmax(0)[0]
            p = [log_probs_alone(model, batch, row, target).exp() for target in wrong]
            unlikely = sum((-(1 - each + 0.01).log()).sum() for each in p) if wrong else torch.zeros(())
            torch.testing.assert_close(
                output.row_length_normalised[row].double(), normalised.double(), rtol=1e-4, atol=1e-5
            )
            torch.testing.assert_close(output.row_unlikelihood[row].double(), unlikely.double(), rtol=1e-4, atol=1e-5)
        plain = model(**batch)
    tokens = (WRONG.labels >= 0).sum()
    whole = plain.loss + output.row_length_normalised.mean() + output.row_unlikelihood.sum() / tokens
    torch.testing.assert_close(output.loss, whole)
    assert torch.equal(output.logits, plain.logits)


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_without_logits_the_losses_and_gradients_are_the_same(smoothing):
    model, batch = model_of("bart", "mam"), one_batch()
    batch["labels"] = torch.nn.functional.pad(batch["labels"], (0, 2), value=-100)
    batch["row_weights"] = torch.tensor([1.0, 2.0, 0.5])
    found = []
    for keep in (True, False):
        output = model(**batch, wrong=WRONG, smoothing=smoothing, keep_logits=keep)
        output.loss.backward()
        assert (output.logits is not None) == keep
        terms = (output.row_loss, output.row_length_normalised, output.row_unlikelihood)
        found.append([*terms, *(p.grad for _, p in model.trainable_parameters())])
        model.zero_grad(set_to_none=True)
    torch.testing.assert_close(*found, atol=1e-6, rtol=1e-4)


def test_a_model_that_knows_nothing_pays_log_c_and_certainty_stays_finite():
    labels = torch.tensor([[4, 1]])
    wrong = WrongChoices(torch.tensor([[5, 1], [6, 7]]), torch.tensor([0, 0]))
    same = -token_losses(torch.zeros(3, 2, 8), torch.cat([labels, wrong.labels]))
    torch.testing.assert_close(length_normalised(same[:1], labels, same[1:], wrong), torch.tensor([math.log(3)]))
    sure = unlikelihood(torch.zeros(2, 2), wrong, 1)
    torch.testing.assert_close(sure, torch.tensor([-4 * math.log(0.01)]))


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    with trained_run(tmp_path_factory.mktemp("run")) as folder:
        yield folder


def tokens_of(name: str, tokenizer) -> TokenizedSet:
    lengths = {"max_source_length": 32, "max_target_length": 8}
    return TokenizedSet.load_or_build(registry.get(name), "train", tokenizer, **lengths)


def test_wrong_choices_are_the_fixed_ones_the_rows_own_ones_or_none(run, tiny_tokenizer):
    named = {name: registry.get(name) for name in ("toy/word", "toy/pick", "toy/echo")}
    choices = Choices(named, tiny_tokenizer, 8)

    def texts(name: str, row: int) -> list[str]:
        found = choices.wrong(tokens_of(name, tiny_tokenizer), row)
        return [tiny_tokenizer.decode(ids, skip_special_tokens=True).strip() for ids in found]

    assert [texts("toy/word", row) for row in (0, 1)] == [["good"], ["bad"]]
    assert [texts("toy/pick", row) for row in (0, 1)] == [["true of"], ["true of", "maybe"]]
    assert texts("toy/echo", 0) == []


@pytest.mark.parametrize("name", ["toy/word", "toy/pick", "toy/echo"])
def test_micro_batches_and_processes_add_up_to_the_gradient_of_one_batch(run, tiny_tokenizer, name):
    """The terms are sums over what the whole global batch holds, also where rows have different numbers of choices."""
    tokens, choices = tokens_of(name, tiny_tokenizer), Choices({name: registry.get(name)}, tiny_tokenizer, 8)
    model = TunedModel.build(make_bart(), method="lora", tasks=[name]).eval()
    sampler = ShotSampler(name, list(range(12)), 8, seed=3)

    def gradients(num_micro: int, world: int) -> torch.Tensor:
        model.zero_grad()
        for rank in range(world):
            parts = {"num_micro": num_micro, "rank": rank, "world": world, "choices": choices}
            batches = MicroBatches(sampler, {name: tokens}, task_ids={name: 0}, pad_token_id=0, **parts)
            for micro in range(num_micro):
                batch = batches[2 * num_micro + micro]  # the third step
                total_loss(model(**inputs_of(batch, model.device)), batch).backward()
        return torch.cat([parameter.grad.flatten() for _, parameter in model.trainable_parameters()])

    whole = gradients(1, 1)
    assert whole.abs().max() > 0
    for num_micro, world in ((4, 1), (2, 2)):
        torch.testing.assert_close(gradients(num_micro, world), whole, rtol=1e-4, atol=1e-6)
