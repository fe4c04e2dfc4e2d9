"""Attention in narrow types on a CPU goes back by products of ours, which are no further from the truth than SDPA's."""

from __future__ import annotations

import pytest
import torch
from small_models import make_bart, make_t5
from torch.nn import functional as F

from hyperpelt.attachment import cpu_attention, joined_attention
from hyperpelt.model.tuned import TunedModel

FORWARD = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu
BACKWARD = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward


def nothing(rows: int, queries: int, keys: int) -> None:
    return None


def padded(rows: int, queries: int, keys: int) -> torch.Tensor:
    """The last row sees half of its keys, and its last query none."""
    mask = torch.zeros(rows, 1, queries, keys)
    mask[-1, :, :, keys // 2 :] = -torch.inf
    mask[-1, :, -1] = -torch.inf
    return mask


def biased(rows: int, queries: int, keys: int) -> torch.Tensor:
    return torch.randn(1, 4, queries, keys)


@pytest.mark.parametrize("at_once", [2**18, 2**9, 1], ids=["whole", "some heads", "one head"])
@pytest.mark.parametrize("sharp", [1.0, 4.0])
@pytest.mark.parametrize(
    ("made", "causal", "queries", "keys"),
    [(nothing, False, 5, 24), (padded, False, 24, 24), (biased, False, 16, 24), (nothing, True, 24, 24)],
    ids=["open", "padded", "biased", "causal"],
)
def test_products_are_as_near_to_float64_as_the_kernel(made, causal, queries, keys, sharp, at_once, monkeypatch):
    monkeypatch.setattr(cpu_attention, "AT_ONCE", at_once)
    torch.manual_seed(0)
    # As projections write them: heads side by side within a position.
    q, k, v, seen = (
        (torch.randn(3, n, 4, 8) * sharp).bfloat16().transpose(1, 2) for n in (queries, keys, keys, queries)
    )
    mask = made(3, queries, keys)
    mask = None if mask is None else mask.bfloat16()
    out, total = FORWARD(q, k, v, 0.0, causal, attn_mask=mask, scale=0.5)
    given = (seen, q, k, v, out, total, 0.0, causal)
    mine, kernel = (f(*given, attn_mask=mask, scale=0.5) for f in (cpu_attention.by_products, BACKWARD))
    exact = [t.double().requires_grad_() for t in (q, k, v)]
    whole = F.scaled_dot_product_attention(
        *exact, attn_mask=None if mask is None else mask.double(), is_causal=causal, scale=0.5
    )
    true = torch.autograd.grad(whole, exact, seen.double())
    for own, other, like, wanted in zip(mine, kernel, (q, k, v), true, strict=True):
        assert own.dtype == like.dtype
        assert own.stride() == like.stride()
        assert off(own, wanted) < 1.1 * off(other, wanted) + 5e-4


def off(found: torch.Tensor, true: torch.Tensor) -> float:
    return float((found.double() - true).norm() / true.norm())


@pytest.mark.parametrize("method", ["hyperblock", "hyperpelt", "full"])
@pytest.mark.parametrize("make", [make_t5, make_bart], ids=["t5", "bart"])
def test_every_attention_of_a_model_in_bfloat16_goes_back_so(make, method, monkeypatch):
    model = TunedModel.build(make().bfloat16(), method=method, tasks=["a", "b"]).train()
    for module in model.backbone.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
        elif isinstance(getattr(module, "dropout", None), float):
            module.dropout = 0.0
    ids, calls, own = torch.arange(3, 35).view(2, 16), [], cpu_attention.by_products
    mask = torch.ones_like(ids)
    mask[1, 9:] = 0

    def step() -> list[torch.Tensor]:
        loss = model(ids, mask, labels=ids[:, :6], task_ids=torch.tensor([0, 1])).loss
        found = torch.autograd.grad(loss, [p for _, p in model.trainable_parameters()], allow_unused=True)
        return [gradient for gradient in found if gradient is not None]

    monkeypatch.setattr(cpu_attention, "by_products", lambda *a, **b: calls.append(a[1].shape) or own(*a, **b))
    mine = step()
    # A T5 that is trained whole trains what it adds to scores, whose gradient the kernel does not make.
    biased = method == "full" and make is make_t5
    assert len(calls) == (2 if biased else 6)
    monkeypatch.setattr(joined_attention, "NARROW", ())
    monkeypatch.setattr(cpu_attention, "NARROW", ())
    calls.clear()
    plain = step()
    assert not calls
    # All as one: what is zero but for rounding (of biases of keys) is never the same.
    assert off(torch.cat([t.flatten() for t in mine]), torch.cat([t.flatten() for t in plain]).double()) < 0.02


def test_going_back_within_autocast_is_as_exact():
    torch.manual_seed(0)
    leaves = [torch.randn(2, 4, 16, 8).bfloat16().requires_grad_() for _ in range(3)]

    def gradients(within: bool) -> tuple[torch.Tensor, ...]:
        out = cpu_attention.JoinedAttention.apply(*leaves, None, None, None, 4.0)
        with torch.autocast("cpu", torch.bfloat16, enabled=within):
            return torch.autograd.grad(out.float().square().sum(), leaves)

    for inside, outside in zip(gradients(True), gradients(False), strict=True):
        assert torch.equal(inside, outside)


def test_long_attention_and_float32_keep_the_kernel(monkeypatch):
    monkeypatch.setattr(cpu_attention, "by_products", None)  # would raise if called
    q = torch.randn(1, 1, 300, 8, dtype=torch.bfloat16, requires_grad=True)
    cpu_attention.JoinedAttention.apply(q, q, q, None, None, None, 1.0).sum().backward()
    assert q.grad is not None
    model = TunedModel.build(make_bart(), method="hyperpelt", tasks=["a"]).train()
    ids = torch.arange(3, 19).view(2, 8)
    model(ids, labels=ids[:, :3], task_ids=torch.tensor([0, 0])).loss.backward()
