"""Formulas that save time or memory give what the plain ones give, gradients too."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
from small_models import make_bart, make_t5
from transformers.models.t5.modeling_t5 import T5LayerNorm

from hyperpelt.attachment import cpu_attention, joined_attention
from hyperpelt.attachment.cpu_attention import DroppingAttention, JoinedAttention
from hyperpelt.model.tuned import TunedModel
from hyperpelt.operations import PROJECTIONS, list_operations
from hyperpelt.tuners import adapter, delta, prefix, projection, remade
from hyperpelt.tuners.projection import Norm, _RMSNorm
from hyperpelt.weights import heads, layers, trunk

BACKBONES = {
    "t5": lambda: make_t5(dropout_rate=0.2),
    "bart": lambda: make_bart(dropout=0.2, attention_dropout=0.2),
}


def step(model: TunedModel) -> tuple[torch.Tensor, list[torch.Tensor]]:
    ids = torch.arange(3, 19).view(2, 8)
    mask = torch.ones_like(ids)
    mask[1, 5:] = 0
    torch.manual_seed(3)
    loss = model(ids, mask, labels=ids[:, :3], task_ids=torch.tensor([0, 1])).loss
    loss.backward()
    gradients = [p.grad for _, p in model.trainable_parameters()]
    model.zero_grad(set_to_none=True)
    return loss.detach(), gradients


def moved(make, method="hyperpelt") -> TunedModel:
    """A model in training whose tensors are not where they start, so that every formula counts."""
    model = TunedModel.build(make(), method=method, tasks=["a", "b"]).train()
    with torch.no_grad():
        for _, parameter in model.trainable_parameters():
            parameter.add_(0.05 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(1)))
    return model


def check_same(model: TunedModel, change) -> None:
    loss, gradients = step(model)
    change()
    plain_loss, plain_gradients = step(model)
    torch.testing.assert_close(loss, plain_loss, rtol=1e-5, atol=0)
    for mine, plain in zip(gradients, plain_gradients, strict=True):
        torch.testing.assert_close(mine, plain, rtol=1e-4, atol=1e-5 * plain.abs().max().item())


@pytest.mark.parametrize("make", BACKBONES.values(), ids=BACKBONES)
def test_attention_with_dropout_computes_what_the_formula_says_of_what_was_drawn(make, monkeypatch):
    model, calls = moved(make), []
    own = DroppingAttention.apply
    monkeypatch.setattr(DroppingAttention, "apply", lambda *a: calls.append(a) or own(*a))

    def formula(query, key, value, mask, dropout, scaling):
        weights = (query * scaling @ key.mT + (0 if mask is None else mask)).softmax(-1)
        here, share = cpu_attention.drawn(weights, dropout)
        return (weights * here / share) @ value

    def plain() -> None:
        assert len(calls) == 6
        monkeypatch.setattr(DroppingAttention, "apply", formula)

    check_same(model, plain)


@pytest.mark.parametrize("dropout", [0.1, 0.999999, 1e-9])
def test_of_what_is_dropped_the_mean_stays(dropout):
    torch.manual_seed(0)
    here, share = cpu_attention.drawn(torch.empty(701, 703), dropout)
    assert abs(share - (1 - dropout)) < 2**-15
    assert abs(here.double().mean().item() - share) < 5 * (share * (1 - share) / here.numel()) ** 0.5 + 1e-12
    if dropout == 0.1:  # nor is any place of a row, or any row, dropped more often than others
        for means in (here.double().mean(0), here.double().mean(1)):
            assert (means - share).abs().max() < 6 * (0.1 * 0.9 / 701) ** 0.5


UNDROPPED = {"t5": lambda: make_t5(dropout_rate=0.0), "bart": lambda: make_bart(dropout=0.2)}


@pytest.mark.parametrize("make", UNDROPPED.values(), ids=UNDROPPED)
def test_attention_that_joins_again_in_backward_computes_what_sdpa_does(make, monkeypatch):
    model, calls = moved(make), []
    own = JoinedAttention.apply
    monkeypatch.setattr(JoinedAttention, "apply", lambda *a: calls.append(a) or own(*a))

    def plain() -> None:
        assert len(calls) == 6
        monkeypatch.setattr(joined_attention, "_on_cpu", lambda *_: False)

    check_same(model, plain)


@pytest.mark.parametrize(("method", "less"), [("hyperpelt", 1.1), ("hyperblock", 1.05)])
@pytest.mark.parametrize("make", UNDROPPED.values(), ids=UNDROPPED)
def test_what_is_cheap_to_make_again_is_not_kept_and_gives_the_same_gradients(make, method, less, monkeypatch):
    model = moved(make, method)
    before = kept(model)

    def plain() -> None:
        for room in (remade, prefix, adapter, projection):
            monkeypatch.setattr(room, "noted", lambda made, *_: made)
        monkeypatch.setattr(heads, "TwoLayers", SimpleNamespace(apply=layers.two_layers))
        monkeypatch.setattr(trunk, "Mixed", SimpleNamespace(apply=layers.mixed))
        assert kept(model) > less * before

    check_same(model, plain)


def test_rows_without_padding_have_no_mask_to_keep():
    model, ids = moved(UNDROPPED["bart"]), torch.arange(3, 19).view(2, 8)
    model(ids, labels=ids[:, :3], task_ids=torch.tensor([0, 1])).loss.backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for _, p in model.trainable_parameters())


def kept(model: TunedModel) -> int:
    """Bytes of the tensors that a step keeps for backward and that are not the model's own."""
    own = {tensor.untyped_storage().data_ptr() for tensor in [*model.parameters(), *model.buffers()]}
    found = {}

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in own:
            found[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        step(model)
    return sum(found.values())


@pytest.mark.parametrize("make", BACKBONES.values(), ids=BACKBONES)
def test_a_trained_norm_in_one_formula_is_the_sum_of_two(make, monkeypatch):
    model, calls, own = moved(make), [], Norm.whole
    monkeypatch.setattr(Norm, "whole", lambda *a: calls.append(own(*a)) or calls[-1])

    def plain() -> None:
        assert len(calls) > 10
        assert all(isinstance(made, torch.Tensor) for made in calls)
        monkeypatch.setattr(Norm, "whole", lambda *_: None)

    check_same(model, plain)


def test_a_trained_rms_norm_in_bfloat16_starts_as_t5s_and_swallows_no_small_shift():
    drawn = torch.Generator().manual_seed(0)
    norm = T5LayerNorm(64).bfloat16()
    norm.weight.data.copy_(torch.rand(64, generator=drawn) + 0.5)
    x, seen = (torch.randn(4, 9, 64, generator=drawn).bfloat16() for _ in range(2))
    frozen = norm(x)
    assert torch.equal(_RMSNorm.apply(x, norm.weight.float(), 1e-6, torch.bfloat16), frozen)
    small = torch.full((64,), 2e-3)  # half of what bfloat16 tells apart at 1
    weight = norm.weight.detach().float().add(small).requires_grad_()
    leaves = [x.requires_grad_(), weight]
    mine = _RMSNorm.apply(*leaves, 1e-6, torch.bfloat16)
    exact = [x.detach().double().requires_grad_(), weight.detach().double().requires_grad_()]
    whole = exact[1] * exact[0] * torch.rsqrt(exact[0].pow(2).mean(-1, keepdim=True) + 1e-6)
    moved, x_hat = (mine.detach() - frozen.detach()).double(), (whole / exact[1]).detach()
    assert float((moved * x_hat).sum() / x_hat.square().sum()) == pytest.approx(2e-3, rel=0.2)  # on average it is there
    torch.testing.assert_close(mine.double(), whole, atol=0.02, rtol=0.01)
    for own, other in zip(
        torch.autograd.grad((mine * seen).float().sum(), leaves),
        torch.autograd.grad((whole * seen.double()).sum(), exact),
        strict=True,
    ):
        torch.testing.assert_close(own.double(), other, atol=0.03 * float(other.abs().max()), rtol=0.02)


@pytest.mark.parametrize("sets", [1, 3], ids=["shared", "each row's own"])
def test_a_conditional_norm_keeps_its_input_alone_or_what_that_is_made_of_and_has_the_plain_gradients(sets):
    drawn = torch.Generator().manual_seed(0)
    narrow, up, gamma, beta, seen = (
        torch.randn(shape, generator=drawn, dtype=torch.float64)
        for shape in ((3, 5, 2), (2, 8), (sets, 8), (sets, 8), (3, 5, 8))
    )
    x = narrow @ up
    leaves = [tensor.requires_grad_() for tensor in (x, gamma, beta)]
    kept: list[torch.Tensor] = []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: kept.append(t) or t, lambda t: t):
        mine = adapter._conditional_norm(x, gamma, beta, 1e-5)
    assert [t.numel() for t in kept if t.numel() >= x.numel()] == [x.numel()]
    spread = x.var(-1, correction=0, keepdim=True).add(1e-5).sqrt()
    plain = (x - x.mean(-1, keepdim=True)) / spread * gamma[:, None] + beta[:, None]
    torch.testing.assert_close(mine, plain)
    own = torch.autograd.grad((mine * seen).sum(), leaves)
    torch.testing.assert_close(own, torch.autograd.grad((plain * seen).sum(), leaves))
    kept.clear()
    with torch.autograd.graph.saved_tensors_hooks(lambda t: kept.append(t) or t, lambda t: t):
        again = adapter._conditional_norm(remade.noted(x * 1, torch.matmul, narrow, up), gamma, beta, 1e-5)
    assert x.numel() not in [t.numel() for t in kept]
    torch.testing.assert_close(torch.autograd.grad((again * seen).sum(), leaves), own)


ENTRIES = [{"tuner": {"type": "entries", "share": 0.01}, "at": ["projections"], "source": "per_task"}]


@pytest.mark.parametrize("places", [1, 3], ids=["one set of places", "each row's own"])
@pytest.mark.parametrize("has_bias", [True, False])
def test_entries_column_by_column_are_those_of_the_matrix(places, has_bias):
    drawn = torch.Generator().manual_seed(0)
    here = list_operations(make_bart())
    operation = replace(next(op for op in here if op.kind in PROJECTIONS), d_in=6, d_out=8, has_bias=has_bias)
    size = 48 + 8 * has_bias
    positions = torch.stack([torch.randperm(size, generator=drawn)[:9] for _ in range(places)])
    x, values, seen = (torch.randn(s, generator=drawn, dtype=torch.float64) for s in ((3, 5, 6), (3, 9), (3, 5, 8)))
    found = []
    for formula in (delta._SparseLinear, delta._DenseLinear):
        leaves = [tensor.clone().requires_grad_() for tensor in (x, values)]
        made = formula.apply(*leaves, positions, operation)
        found.append([made.detach(), *torch.autograd.grad((made * seen).sum(), leaves)])
    for own, other in zip(*found, strict=True):
        torch.testing.assert_close(own, other)


def test_few_entries_of_a_mixed_batch_make_no_matrix(monkeypatch):
    made = []
    model = TunedModel.build(make_bart(), method={"parts": ENTRIES, "sources": {}}, tasks=["a", "b"]).train()
    monkeypatch.setattr(delta, "_dense", lambda *a, own=delta._dense: made.append(a) or own(*a))
    step(model)
    assert not made
