"""`loss: ranking`: a float64 transcription, the scores that answers are found by, whatever the micro-batches."""

from __future__ import annotations

import pytest
import torch
from small_models import make_bart, make_t5

from hyperpelt import Example, Generator
from hyperpelt.data import Batch, Choices, MicroBatches, MixtureSampler, Ranking, TokenizedSet, lengths_of
from hyperpelt.data.candidates import Candidate, lay_out, share
from hyperpelt.model.inputs import inputs_of, ranking_of
from hyperpelt.model.scoring import NORMALISATIONS
from hyperpelt.model.tuned import TunedModel
from hyperpelt.tasks import Task
from hyperpelt.training.objective import total_loss

WORDS = ("good", "bad", "bad yes", "true false maybe", "no")


def rows_of(split: str) -> list[dict[str, int]]:
    return [{"n": n} for n in range(12)]


def pick(row: dict[str, int]) -> Example:
    """Choices of different lengths and numbers, one of which begins with another."""
    n = row["n"]
    choices = WORDS[: 2 + n % 4]
    return Example(input=f"a sentence {WORDS[n % 5]}", choices=choices, label=n % len(choices))


def tell(row: dict[str, int]) -> Example:
    return Example(input=f"the sentence {WORDS[row['n'] % 5]}", target="true maybe yes")


PICK = Task(name="unit/pick", source=Generator(rows_of), render=pick)
TELL = Task(name="unit/tell", source=Generator(rows_of), render=tell, kind="generation", metrics=("exact_match",))
TASKS = {task.name: task for task in (PICK, TELL)}


def model_of(family: str, method: str, tokenizer) -> TunedModel:
    backbone = make_t5() if family == "t5" else make_bart()
    model = TunedModel.build(backbone, method=method, tasks=list(TASKS), tokenizer=tokenizer).eval()
    generator = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for _, parameter in model.trainable_parameters():
            parameter.add_(torch.randn(parameter.shape, generator=generator) * 0.3)
    return model


def batches_of(model: TunedModel, rule: str, folder, *, most: int = 32, **parts: int) -> MicroBatches:
    """Batches of sixteen rows of both tasks."""
    lengths = {"max_source_length": 32, "max_target_length": 8}
    sets = {
        name: TokenizedSet.load_or_build(task, "train", model.tokenizer, **lengths, cache_dir=folder)
        for name, task in TASKS.items()
    }
    sampler = MixtureSampler(dict.fromkeys(TASKS, 0.5), lengths_of(sets), batch_size=16, seed=3, window=1)
    ranking = ranking_of(model, Choices(TASKS, model.tokenizer, 8), rule, most=most)
    ids = {name: model.task_id(name) for name in TASKS}
    return MicroBatches(sampler, sets, task_ids=ids, pad_token_id=0, ranking=ranking, **parts)


def examples_of(batch: Batch) -> list[tuple[str, Example]]:
    """Each row's task and example, found by its name."""
    named = [(name.split()[0], int(name.rpartition(" ")[2])) for name in batch["row_names"]]
    return [(task, TASKS[task].examples("train")[row]) for task, row in named]


def expected(model: TunedModel, task: str, example: Example, rule: str) -> torch.Tensor:
    """The loss of one row in float64, each candidate scored by a forward pass of its own."""
    ids = torch.tensor([model.tokenizer(example.input)["input_ids"]])
    task_ids = torch.tensor([model.task_id(task)])

    def log_p(answer: str) -> torch.Tensor:
        target = [*model.tokenizer(answer, add_special_tokens=False)["input_ids"], model.tokenizer.eos_token_id]
        logits = model(ids, labels=torch.tensor([target]), task_ids=task_ids).logits[0].double()
        return logits.log_softmax(-1)[range(len(target)), target]

    if example.choices is None:
        return -log_p(example.target).mean()
    rules = {
        "sum": lambda answer: log_p(answer)[:-1].sum(),
        "token": lambda answer: log_p(answer).mean(),
        "character": lambda answer: log_p(answer)[:-1].sum() / len(answer),
    }
    scores = torch.stack([rules[rule](answer) for answer in example.choices])
    return -scores.log_softmax(0)[example.choices.index(example.target)]


@pytest.mark.parametrize(("family", "method"), [("t5", "ia3"), ("bart", "mam"), ("t5", "prompt-tuning")])
@pytest.mark.parametrize("rule", NORMALISATIONS)
def test_each_row_pays_for_the_choices_beside_its_own(family, method, rule, tiny_tokenizer, tmp_path):
    model = model_of(family, method, tiny_tokenizer)
    batch = batches_of(model, rule, tmp_path)[0]
    with torch.no_grad():
        output = model(**inputs_of(batch, model.device))
        wanted = [expected(model, *each, rule) for each in examples_of(batch)]
    torch.testing.assert_close(output.row_loss.double(), torch.stack(wanted), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(output.loss, output.row_loss.mean())
    assert output.row_tokens.tolist() == [1] * 16
    assert 0 < int(batch["candidates"].open.sum()) < 16, "both kinds of rows are there"


@pytest.mark.parametrize("rule", NORMALISATIONS)
def test_what_is_trained_are_the_scores_that_answers_are_found_by(rule, tiny_tokenizer, tmp_path):
    model = model_of("t5", "lora", tiny_tokenizer)
    batch = batches_of(model, rule, tmp_path)[0]
    with torch.no_grad():
        losses = model(**inputs_of(batch, model.device)).row_loss
    for (task, example), loss in zip(examples_of(batch), losses, strict=True):
        if task == PICK.name:
            (scores,) = model.score([example.input], list(example.choices), task=task, normalisation=rule)
            log_shares = torch.tensor(scores, dtype=torch.float64).log_softmax(0)
            right = -log_shares[example.choices.index(example.target)]
            assert float(loss) == pytest.approx(float(right), rel=1e-4, abs=1e-5)


def test_candidates_that_begin_alike_read_one_sequence():
    alike = ((5,), (6,), (7,))
    assert share(alike) == (((),), (0, 0, 0))
    reads, which = share(((5, 6, 7), (5, 6, 8), (5, 9), (4,), (5,), (9, 9)))
    assert reads == ((5, 6), (9,))
    assert which == (0, 0, 0, 0, 0, 1)
    found = lay_out([[Candidate(ids, 1) for ids in alike], [Candidate((5, 6), 2)]], start=2, pad=1)
    assert found.decoder_input_ids.tolist() == [[2, 1], [2, 5]]
    assert found.sequence_rows.tolist() == [0, 1]
    assert found.places.tolist() == [0, 2, 3]
    assert found.at.tolist() == [0, 0, 0, 1, 2]
    assert found.open.tolist() == [False, True]


def test_of_many_choices_some_are_drawn_by_seed_step_and_row_alone(tiny_tokenizer, tmp_path):
    words = tuple(f"choice {n}" for n in range(40))
    task = Task(
        name="unit/many", choices=words, source=Generator(lambda split: [{"n": n} for n in range(16)]),
        render=lambda row: Example(input="a", label=row["n"]),
    )  # fmt: skip
    tokens = TokenizedSet.load_or_build(
        task, "train", tiny_tokenizer, max_source_length=8, max_target_length=16, cache_dir=tmp_path
    )
    ids = {"eos_token_id": tiny_tokenizer.eos_token_id, "start_token_id": 0, "pad_token_id": 0}
    ranking = Ranking(choices=Choices({task.name: task}, tiny_tokenizer, 16), normalisation="sum", most=7, **ids)

    def drawn(row: int, seed: int, step: int) -> list[list[int]]:
        found = ranking.candidates([(tokens, row, tokens[row])], seed=seed, step=step)
        return [found.tokens[found.owners == number].tolist() for number in range(len(found.rows))]

    first = drawn(3, 0, 0)
    assert len(first) == 8
    assert first[0] == tokens[3].labels.tolist()[:-1], "the right one is always there, and first"
    assert len({tuple(each) for each in first}) == 8
    assert drawn(3, 0, 0) == first
    both = ranking.candidates([(tokens, row, tokens[row]) for row in (5, 3)], seed=0, step=0)
    assert both.tokens[both.owners >= 8].tolist() == [token for ids in first for token in ids], (
        "whatever other rows are in the batch"
    )
    assert len({str(drawn(3, *moment)[1:]) for moment in ((0, 0), (0, 1), (1, 0))}) == 3
    seen = {str(each) for step in range(30) for each in drawn(3, 0, step)[1:]}
    assert len(seen) == 39, "every wrong choice gets its turn"


@pytest.mark.parametrize("family", ["t5", "bart"])
def test_micro_batches_and_processes_add_up_to_the_gradient_of_one_batch(family, tiny_tokenizer, tmp_path):
    model = model_of(family, "hyper-lora", tiny_tokenizer)

    def gradients(num_micro: int, world: int) -> torch.Tensor:
        model.zero_grad()
        for rank in range(world):
            rows = batches_of(model, "token", tmp_path, most=2, num_micro=num_micro, rank=rank, world=world)
            for micro in range(num_micro):
                batch = rows[2 * num_micro + micro]  # the third step
                total_loss(model(**inputs_of(batch, model.device)), batch).backward()
        return torch.cat([parameter.grad.flatten() for _, parameter in model.trainable_parameters()])

    whole = gradients(1, 1)
    assert whole.abs().max() > 0
    for num_micro, world in ((4, 1), (2, 2)):
        torch.testing.assert_close(gradients(num_micro, world), whole, rtol=1e-4, atol=5e-6)


def test_scoring_reads_one_sequence_for_choices_that_begin_alike_whatever_their_lengths(tiny_tokenizer):
    model = model_of("t5", "lora", tiny_tokenizer)
    ids = torch.tensor([[5, 6, 7, 1], [8, 9, 1, 0]])
    labels = torch.tensor([[5, -100, -100], [6, -100, -100], [7, 8, 9], [4, -100, -100], [3, -100, -100]])
    rows, sizes = torch.tensor([0, 0, 0, 1, 1]), []
    hook = model.backbone.get_decoder().register_forward_pre_hook(
        lambda module, args, kwargs: sizes.append(len(kwargs["input_ids"])), with_kwargs=True
    )
    found = model.token_log_probs(ids, (ids != 0).long(), torch.tensor([0, 1]), labels, rows)
    hook.remove()
    assert sizes == [3], "row 0: the start alone, and 7 8; row 1: the start alone"
    with torch.no_grad():
        for label, row, scores in zip(labels, rows, found, strict=True):
            target = label[label != -100]
            batch = {"input_ids": ids[row : row + 1], "attention_mask": (ids[row : row + 1] != 0).long()}
            logits = model(**batch, labels=target[None], task_ids=row[None]).logits[0]
            alone = logits.log_softmax(-1)[range(len(target)), target]
            torch.testing.assert_close(scores[: len(target)], alone, atol=1e-5, rtol=1e-4)
