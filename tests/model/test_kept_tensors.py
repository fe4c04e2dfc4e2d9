"""At inference the tensors of a task are made once and kept, until the weights change by whatever means."""

from __future__ import annotations

import pytest
import torch
from comparison import make_batch
from small_models import make_t5
from support import describe

from hyperpelt.model.tuned import TunedModel

SMALL = {"name": "hyperpelt", "prefix_length": 3, "bottleneck": 4, "prefix_hidden": 8}


def build(seed: int = 0) -> TunedModel:
    return TunedModel.build(make_t5(), method=SMALL, tasks=["a", "b"], seed=seed).eval()


@torch.no_grad()
def logits(model: TunedModel) -> torch.Tensor:
    return model(**make_batch()).logits


def count_makings(model: TunedModel) -> list[torch.Tensor]:
    """The tasks that the hypernetwork is asked for, from now on."""
    asked: list[torch.Tensor] = []
    model.sources["hypernetwork"].register_forward_hook(lambda _m, args, _o: asked.append(args[0].tolist()))
    return asked


def test_tensors_are_made_once_a_set_of_tasks_at_inference_and_every_time_in_training():
    model = build()
    asked = count_makings(model)
    ids, mask = (make_batch()[name] for name in ("input_ids", "attention_mask"))
    for _ in range(3):
        logits(model)
        model.generate(ids, attention_mask=mask, task="b", max_new_tokens=2)
    assert asked == [[0, 1], [1]]
    for _ in range(2):
        model(**make_batch())
    assert asked == [[0, 1], [1], [0, 1], [0, 1]]


@pytest.mark.parametrize("mode", ["train", "eval"])
@pytest.mark.parametrize("kind", [{"foreach": True}, {"foreach": False}, {"fused": True}], ids=str)
def test_kept_tensors_end_with_a_step_of_any_optimiser(kind, mode):
    """A fused optimiser changes parameters without telling PyTorch's version counters."""
    model, fresh = build(), build(seed=1)
    before = logits(model)
    optimiser = torch.optim.AdamW(model.sources.parameters(), lr=0.05, **kind)
    for _ in range(2):
        model.train(mode == "train")
        batch = make_batch()
        model(**{**batch, "labels": batch["decoder_input_ids"]}).loss.backward()
        optimiser.step()
        after = logits(model.eval())
        assert not torch.equal(after, before), "the tensors of before the step were used"
        fresh.load_method_state(model.method_state())
        assert torch.equal(logits(fresh), after)
        before = after


def test_kept_tensors_end_when_others_are_loaded_or_a_source_is_replaced():
    model, other = build(), build(seed=1)
    first, second = logits(model), logits(other)
    assert not torch.equal(first, second)
    model.load_method_state(other.method_state())
    assert torch.equal(logits(model), second)
    model.sources["hypernetwork"] = build().sources["hypernetwork"]
    model.sources["shared"] = build().sources["shared"]
    assert torch.equal(logits(model), first)


def test_kept_tensors_serve_no_gradient():
    model = build()
    logits(model)
    model(**{**make_batch(), "labels": make_batch()["decoder_input_ids"]}).loss.backward()
    assert all(p.grad is not None for p in model.sources.parameters())


def scaled_in_place(model: TunedModel, by: float) -> None:
    with torch.inference_mode():
        for parameter in model.sources.parameters():
            parameter.mul_(by)


def assigned_as_data(model: TunedModel, by: float) -> None:
    for parameter in model.sources.parameters():
        parameter.data = parameter.data * by


def written_from_a_vector(model: TunedModel, by: float) -> None:
    parameters = list(model.sources.parameters())
    torch.nn.utils.vector_to_parameters(torch.nn.utils.parameters_to_vector(parameters) * by, parameters)


def loaded_by_assignment(model: TunedModel, by: float) -> None:
    # Tensors as old as those that they replace, by the count of changes.
    model.load_state_dict({name: values.detach() * by for name, values in model.state_dict().items()}, assign=True)


@pytest.mark.parametrize(
    "change", [scaled_in_place, assigned_as_data, written_from_a_vector, loaded_by_assignment], ids=lambda f: f.__name__
)
def test_kept_tensors_end_when_parameters_are_changed_or_replaced(change):
    model, factors = build(), (1.5, 0.5, 1.5, 0.5)  # two states in turn: what was freed may lie where it lay before
    found = []
    for by in factors:
        change(model, by)
        found.append(logits(model))
        model._made = type(model._made)()
        assert torch.equal(logits(model), found[-1]), "tensors of other values were used"
    assert not torch.equal(found[0], found[1])


def test_what_was_drawn_in_training_is_not_kept_for_evaluation():
    model = TunedModel.build(make_t5(), method={**SMALL, "description_dropout": 1.0}, tasks=["a", "b"]).eval()
    describe(model)
    before = logits(model)
    model.train()
    assert not torch.equal(logits(model), before)
    model.eval()
    assert torch.equal(logits(model), before)
    model.train(), logits(model)
    with model.evaluating():
        assert torch.equal(logits(model), before)


def test_a_model_made_in_inference_mode_answers():
    with torch.inference_mode():
        model = build()
        before = logits(model)
        model.load_method_state({name: values * 1.5 for name, values in model.method_state().items()})
        assert not torch.equal(logits(model), before)
        assert model.generate(make_batch()["input_ids"], task="a", max_new_tokens=2).shape == (4, 3)
