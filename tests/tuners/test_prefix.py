"""Prefixes in every kind of attention, plain and gated, against float64 transcriptions (promise 9)."""

from __future__ import annotations

import pytest
import torch
from comparison import BACKBONES, assert_agrees, make_batch, make_rough, make_tuned, tensors_of
from reference_backbones import Reference, linear, softmax
from small_models import make_bart, make_t5
from torch import Tensor

from hyperpelt.backbones import load_backbone, load_tokenizer
from hyperpelt.errors import UserError
from hyperpelt.model.tuned import TunedModel

SITES = ["encoder.*.self_attention", "decoder.*.self_attention", "decoder.*.cross_attention", "attention"]


def in_heads(rows: Tensor, heads: int) -> Tensor:
    """[N Hk] -> [1 H N k]: head h owns columns h k .. (h + 1) k."""
    width = rows.shape[-1] // heads
    return torch.stack([rows[:, h * width : (h + 1) * width] for h in range(heads)])[None]


class Joined(Reference):
    """K' = [P_k; K], V' = [P_v; V]; no mask and no position bias for the prefix."""

    def attend(self, name, x, q, k, v, bias):
        rows = self.tensors.get(name)
        if rows is None:
            return super().attend(name, x, q, k, v, bias)
        keys, values = (in_heads(rows[n], q.shape[1]).expand(len(q), -1, -1, -1) for n in ("keys", "values"))
        scores = torch.einsum("bhqd,bhnd->bhqn", q, k) + bias
        scores = torch.cat([torch.einsum("bhqd,bhnd->bhqn", q, keys), scores], dim=-1)
        return torch.einsum("bhqn,bhnd->bhqd", softmax(scores), torch.cat([values, v], dim=2))


class Mixed(Reference):
    """U-Tuning: (1 - w) Attn(Q, K, V) + w Attn(Q, P_k, P_v), w the softmax mass of the prefix."""

    def attend(self, name, x, q, k, v, bias):
        own = super().attend(name, x, q, k, v, bias)
        rows = self.tensors.get(name)
        if rows is None:
            return own
        keys, values = (in_heads(rows[n], q.shape[1]).expand(len(q), -1, -1, -1) for n in ("keys", "values"))
        prefix_scores = torch.einsum("bhqd,bhnd->bhqn", q, keys)
        of_prefix = prefix_scores.exp().sum(-1, keepdim=True)
        of_own = (torch.einsum("bhqd,bhnd->bhqn", q, k) + bias).exp().sum(-1, keepdim=True)
        w = of_prefix / (of_prefix + of_own)
        return (1 - w) * own + w * torch.einsum("bhqn,bhnd->bhqd", softmax(prefix_scores), values)


def prefix_at(at: str, **settings: object) -> dict[str, object]:
    return {"parts": [{"tuner": {"type": "prefix", "length": 3, "init": "normal", **settings}, "at": at}]}


@pytest.mark.parametrize("at", SITES)
@pytest.mark.parametrize("kind", BACKBONES)
def test_prefix_joins_keys_and_values_with_padding_bias_and_causal_mask(kind, at):
    backbone = make_rough(kind)
    model = make_tuned(backbone, prefix_at(at))
    for form in (Joined, Mixed):
        assert_agrees(model, [form(backbone, tensors_of(model, task)) for task in range(2)])


@pytest.mark.parametrize("kind", ["t5", "bart"])
def test_order_of_prefix_rows_changes_nothing(kind):
    model = make_tuned(make_rough(kind), prefix_at("attention"))
    batch = make_batch()
    with torch.no_grad():
        before = model(**batch).logits
        for _, parameter in model.trainable_parameters():
            parameter.copy_(parameter[:, :, [2, 0, 1]])
        torch.testing.assert_close(model(**batch).logits, before, rtol=1e-12, atol=1e-12)


def test_two_prefixes_at_one_attention_are_one_longer_prefix():
    backbone = make_rough("t5")
    parts = [
        {"name": name, "tuner": {"type": "prefix", "length": length, "init": "normal"}, "at": at}
        for name, length, at in (("first", 2, "attention"), ("second", 3, "encoder.*.self_attention"))
    ]
    model = make_tuned(backbone, {"parts": parts})
    references = []
    for task in range(2):
        first, second = (tensors_of(model, task, part=name) for name in ("first", "second"))
        for op, rows in second.items():
            first[op] = {name: torch.cat([first[op][name], rows[name]]) for name in rows}
        references.append(Joined(backbone, first))
    assert_agrees(model, references)


class Gated(Reference):
    """UniPELT: P_k and P_v times g = sigma(x w + c); its mean over real positions, in the decoder by query."""

    def attend(self, name, x, q, k, v, bias):
        rows = self.tensors[name]
        gate = 1 / (1 + torch.exp(-linear(x, rows["gate"].T, rows["gate_bias"])))
        if name.startswith("encoder"):
            means = [g[real].mean(0, keepdim=True) for g, real in zip(gate, self.mask, strict=True)]
            gate = torch.stack(means).expand_as(gate)
        keys, values = (in_heads(rows[n], q.shape[1])[0] for n in ("keys", "values"))
        out = torch.empty_like(q)
        for b in range(q.shape[0]):
            for h in range(q.shape[1]):
                for t in range(q.shape[2]):
                    unseen = bias.expand(*q.shape[:3], -1)[b, h, t]
                    prefix_keys, prefix_values = gate[b, t] * keys[h], gate[b, t] * values[h]
                    weights = softmax(torch.cat([prefix_keys @ q[b, h, t], k[b, h] @ q[b, h, t] + unseen]))
                    out[b, h, t] = weights @ torch.cat([prefix_values, v[b, h]])
        return out


@pytest.mark.parametrize("kind", BACKBONES)
def test_gated_prefix_scales_its_rows_by_sequence_in_the_encoder_and_by_query_in_the_decoder(kind):
    backbone = make_rough(kind)
    gated = {"type": "gate", "tuner": {"type": "prefix", "length": 3, "init": "normal"}}
    model = make_tuned(backbone, {"parts": [{"tuner": gated, "at": "attention"}]})
    assert_agrees(model, [Gated(backbone, tensors_of(model, task)) for task in range(2)])


def test_prefix_of_another_place_or_of_negative_length_is_refused():
    backbone = make_rough("t5")
    with pytest.raises(UserError, match=r"an attention, not at 'encoder\.0\.feed_forward'"):
        TunedModel.build(backbone, method=prefix_at("feed_forward"), tasks=["a"])
    with pytest.raises(UserError, match="must not be negative, got -1"):
        TunedModel.build(backbone, method=prefix_at("attention", length=-1), tasks=["a"])
    with pytest.raises(UserError, match="'activations', 'quiet', 'normal', 'zeros', got 'real'"):
        TunedModel.build(backbone, method=prefix_at("attention", init="real"), tasks=["a"])


def test_a_prefix_beside_one_that_is_gated_per_position_is_refused():
    gated = {"type": "gate", "tuner": {"type": "prefix", "length": 3}}
    parts = [
        {"name": "a", "tuner": gated, "at": "attention"},
        {"name": "b", "tuner": {"type": "prefix"}, "at": "attention"},
    ]
    with pytest.raises(UserError, match="gated"):
        TunedModel.build(make_rough("t5"), method={"parts": parts}, tasks=["a"])


def test_a_long_quiet_prefix_hardly_disturbs_a_real_backbone():
    """Nats a token of text that mini-bart writes again: bare, with 49 quiet rows, with 49 rows like real keys."""
    tokenizer = load_tokenizer("mini-bart")
    texts = ["The cat sat on the mat and looked out of the window.", "Paris is the capital and largest city of France."]
    batch = tokenizer(texts, padding=True, return_tensors="pt")
    labels = batch["input_ids"][:, 1:].masked_fill(batch["attention_mask"][:, 1:] == 0, -100)
    losses = {}
    for init, length in {"nothing": 0, "quiet": 49, "activations": 49}.items():
        tuner = {"type": "prefix", "length": length, "init": init if length else "quiet"}
        method = {"parts": [{"tuner": tuner, "at": "attention"}]}
        model = TunedModel.build(load_backbone("mini-bart"), method=method, tasks=["a"]).eval()
        with torch.no_grad():
            losses[init] = float(model(**{n: batch[n] for n in ("input_ids", "attention_mask")}, labels=labels).loss)
    assert losses["quiet"] - losses["nothing"] < 0.5 * (losses["activations"] - losses["nothing"]), losses


@pytest.mark.parametrize("make", [make_t5, make_bart], ids=["t5", "bart"])
def test_prefixes_train_under_autocast(make):
    """The backbone's keys are bfloat16 there, its own dtype is not."""
    rates = {"dropout_rate": 0.1} if make is make_t5 else {"dropout": 0.1, "attention_dropout": 0.1}
    model = TunedModel.build(make(**rates), method={"name": "prefix-tuning", "prefix_length": 3}, tasks=["a"]).train()
    ids, found = torch.tensor([[5, 6, 7, 1], [8, 9, 1, 0]]), []
    for autocast in (False, True):
        torch.manual_seed(0)
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=autocast):
            loss = model(ids, (ids != 0).long(), ids).loss
        loss.backward()
        found.append(torch.cat([p.grad.flatten() for _, p in model.trainable_parameters()]))
        model.zero_grad()
    assert torch.cosine_similarity(*found, dim=0) > 0.95
