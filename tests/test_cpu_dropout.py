"""Dropout on a CPU: fair and reproducible draws, and an attention that agrees with its equation, gradients too."""

from __future__ import annotations

import pytest
import torch
from small_models import make_bart, make_t5
from torch.nn import functional

from hyperpelt.cpu_dropout import CpuDropout, kept
from hyperpelt.model import TunedModel

P = 0.25


def test_every_lane_of_a_draw_keeps_its_share():
    mask = kept((100_000, 4), 0.1).double()
    assert mask.mean(0) == pytest.approx([0.9] * 4, abs=0.005)
    assert torch.corrcoef(mask.T).sub(torch.eye(4)).abs().max() < 0.02


@pytest.mark.parametrize("shape", [(3,), (5, 7), (2, 3, 4)])
def test_dropout_scales_what_it_keeps_and_its_gradient_alike(shape):
    x = torch.randn(shape, requires_grad=True)
    with CpuDropout():
        torch.manual_seed(1)
        out = functional.dropout(x, P, training=True)
        assert functional.dropout(x, P, training=False) is x
    out.sum().backward()
    torch.manual_seed(1)
    factor = kept(shape, P) / (1 - P)
    torch.testing.assert_close(out, x * factor)
    torch.testing.assert_close(x.grad, factor)


def masks():
    seen = torch.ones(2, 1, 5, 6, dtype=torch.bool)
    seen[1, :, :, :3] = False
    return {"none": None, "bool": seen, "bias": torch.randn(1, 3, 5, 6), "causal": "causal"}


@pytest.mark.parametrize("name", list(masks()))
def test_attention_agrees_with_its_equation(name):
    mask = masks()[name]
    options = {"is_causal": True} if name == "causal" else {"attn_mask": mask}
    q, k, v = (torch.randn(2, 3, n, 4, requires_grad=True) for n in (5, 6, 6))
    weight = torch.randn(2, 3, 5, 4)
    with CpuDropout():
        torch.manual_seed(2)
        out = functional.scaled_dot_product_attention(q, k, v, dropout_p=P, scale=0.7, **options)
    gradients = torch.autograd.grad((out * weight).sum(), (q, k, v))
    exact = [t.detach().double().requires_grad_() for t in (q, k, v)]
    scores = 0.7 * exact[0] @ exact[1].transpose(2, 3)
    if name == "causal":
        mask = torch.ones(5, 6, dtype=torch.bool).tril()
    if mask is not None:
        scores = scores.masked_fill(~mask, -torch.inf) if mask.dtype == torch.bool else scores + mask
    torch.manual_seed(2)
    expected = (scores.softmax(-1) * kept((6, 5, 6), P).view(2, 3, 5, 6) / (1 - P)) @ exact[2]
    torch.testing.assert_close(out.double(), expected, atol=1e-5, rtol=1e-5)
    for mine, theirs in zip(gradients, torch.autograd.grad((expected * weight).sum(), exact), strict=True):
        torch.testing.assert_close(mine.double(), theirs, atol=1e-5, rtol=1e-5)


def test_a_query_that_may_see_nothing_is_left_to_pytorch():
    q, k, v = (torch.randn(1, 1, 3, 4) for _ in range(3))
    mask = torch.zeros(1, 1, 3, 3, dtype=torch.bool)
    with CpuDropout():
        assert not functional.scaled_dot_product_attention(q, k, v, mask, P).any()


def step(model: TunedModel) -> tuple[torch.Tensor, list[torch.Tensor]]:
    ids = torch.arange(3, 19).view(2, 8)
    torch.manual_seed(3)
    loss = model(ids, labels=ids[:, :3], task_ids=torch.tensor([0, 1])).loss
    loss.backward()
    gradients = [p.grad for _, p in model.trainable_parameters()]
    model.zero_grad(set_to_none=True)
    return loss.detach(), gradients


@pytest.mark.parametrize("make", [lambda: make_t5(dropout_rate=0.2), lambda: make_bart(dropout=0.2)])
def test_a_training_step_draws_the_same_again_when_layers_are_recomputed(make):
    model = TunedModel.build(make(), method="hyperpelt", tasks=["a", "b"]).train()
    with torch.profiler.profile() as seen:
        loss, gradients = step(model)
    assert "aten::random_" in {event.key for event in seen.key_averages()}
    assert "aten::bernoulli_" not in {event.key for event in seen.key_averages()}
    model.gradient_checkpointing_enable()
    again, recomputed = step(model)
    torch.testing.assert_close(again, loss, rtol=0, atol=0)
    for first, second in zip(gradients, recomputed, strict=True):
        torch.testing.assert_close(second, first)


def test_nothing_is_taken_over_outside_of_a_pass_and_in_evaluation():
    backbone = make_t5(dropout_rate=0.2)
    model = TunedModel.build(backbone, method="hyperpelt", tasks=["a"]).train()
    with model.running(torch.zeros(1, dtype=torch.long), None, None):
        torch.manual_seed(4)
        mine = functional.dropout(torch.ones(64), P)
    torch.manual_seed(4)
    assert torch.equal(mine, kept((64,), P) / (1 - P))
    torch.manual_seed(4)
    assert not torch.equal(mine, functional.dropout(torch.ones(64), P))
