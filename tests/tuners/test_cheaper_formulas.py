"""Formulas that save time or memory give what the plain ones give, gradients too."""

from __future__ import annotations

import pytest
import torch
from small_models import make_bart, make_t5

from hyperpelt.attachment import joined_attention
from hyperpelt.model.tuned import TunedModel
from hyperpelt.tuners.projection import Norm

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


def moved(make) -> TunedModel:
    """A model in training whose tensors are not where they start, so that every formula counts."""
    model = TunedModel.build(make(), method="hyperpelt", tasks=["a", "b"]).train()
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
def test_attention_with_dropout_draws_and_computes_what_sdpa_does(make, monkeypatch):
    model, calls = moved(make), []
    own = joined_attention._DroppingAttention.apply
    monkeypatch.setattr(joined_attention._DroppingAttention, "apply", lambda *a: calls.append(a) or own(*a))

    def plain() -> None:
        assert len(calls) == 6
        monkeypatch.setattr(joined_attention._Joined, "_drops_on_cpu", lambda *_: False)

    check_same(model, plain)


@pytest.mark.parametrize("make", BACKBONES.values(), ids=BACKBONES)
def test_a_trained_norm_in_one_formula_is_the_sum_of_two(make, monkeypatch):
    model, calls, own = moved(make), [], Norm.whole
    monkeypatch.setattr(Norm, "whole", lambda *a: calls.append(own(*a)) or calls[-1])

    def plain() -> None:
        assert len(calls) > 10
        assert all(isinstance(made, torch.Tensor) for made in calls)
        monkeypatch.setattr(Norm, "whole", lambda *_: None)

    check_same(model, plain)
