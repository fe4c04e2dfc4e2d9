"""At inference the tensors of a task are made once and kept, until the weights change by whatever means."""

from __future__ import annotations

import pytest
import torch
from comparison import make_batch
from small_models import make_t5

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
