"""U-Tuning's parallel rows, and gates around tuners, against float64 transcriptions (promise 9)."""

from __future__ import annotations

import math

import pytest
import torch
from comparison import BACKBONES, assert_agrees, make_rough, make_tuned, tensors_of
from reference_backbones import Reference, linear, softmax

from hyperpelt.errors import UserError
from hyperpelt.model.tuned import TunedModel
from hyperpelt.tuners import Gate, tuner_types


class Rows(Reference):
    """OP(x) + s Attn(x, P_k, P_v) for each head, scaled by 1/sqrt(k); the prompt form has P_k = P_v and trains s."""

    num_rows_heads = 2
    scale = 1.0

    def sublayer(self, name, x, h, out):
        return out + self.attended(name, x)

    def block(self, name, read, written):
        return written + self.attended(name, read)

    def attended(self, name, x):
        t = self.tensors.get(name)
        if t is None:
            return 0
        keys, values = t.get("keys", t.get("rows")), t.get("values", t.get("rows"))
        width, made = x.shape[-1] // self.num_rows_heads, []
        for head in range(self.num_rows_heads):
            own = slice(head * width, (head + 1) * width)
            weights = softmax(x[..., own] @ keys[:, own].T / math.sqrt(width))
            made.append(weights @ values[:, own])
        return torch.cat(made, dim=-1) * t.get("scale", 1.0) * self.scale


@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize("kind", BACKBONES)
def test_parallel_rows_attend_from_what_the_operation_reads(kind, tied):
    backbone = make_rough(kind)
    tuner = {"type": "parallel_rows", "length": 3, "num_heads": 2, "tied": tied, "scale": 0.5}
    model = make_tuned(backbone, {"parts": [{"tuner": tuner, "at": ["attention", "feed_forward", "block"]}]})
    assert_agrees(model, [Rows(backbone, tensors_of(model, task), scale=0.5) for task in range(2)])


def test_parallel_rows_refuse_heads_that_do_not_divide_the_width():
    method = {"parts": [{"tuner": {"type": "parallel_rows", "num_heads": 5}, "at": "feed_forward"}]}
    with pytest.raises(UserError, match="num_heads=5 does not divide the width 32"):
        TunedModel.build(make_rough("t5"), method=method, tasks=["a"])


def gate_of(t, x, mask):
    """sigma(x w + c); its mean over the real positions of each row where a mask is given."""
    gate = 1 / (1 + torch.exp(-(x @ t["gate"] + t["gate_bias"])))
    if mask is None:
        return gate
    return torch.stack([g[real].mean(0, keepdim=True) for g, real in zip(gate, mask, strict=True)])


class GatedAdapter(Reference):
    def sublayer(self, name, x, h, out):
        t = self.tensors.get(name)
        if t is None:
            return out
        z = {"input": x, "output": out, "output+residual": out + h}[self.reads]
        gate = gate_of(t, z, self.mask if name.startswith("encoder") else None)
        return out + gate * (torch.clamp(z @ t["down"] + t["down_bias"], min=0) @ t["up"] + t["up_bias"])


@pytest.mark.parametrize("kind", BACKBONES)
def test_a_gate_reads_what_its_adapter_reads_and_averages_over_real_positions_in_the_encoder_only(kind):
    backbone = make_rough(kind)
    for reads in ("input", "output", "output+residual"):
        gate = {"type": "gate", "tuner": {"type": "adapter", "bottleneck": 5, "reads": reads}}
        model = make_tuned(backbone, {"parts": [{"tuner": gate, "at": ["attention", "feed_forward"]}]})
        assert_agrees(model, [GatedAdapter(backbone, tensors_of(model, task), reads=reads) for task in range(2)])
        model.detach()


class GatedLoRA(Reference):
    def linear(self, path, x):
        names = {p: n for n, p in self.projections().items()}
        t = self.tensors.get(names.get(path, ""))
        if t is None:
            return super().linear(path, x)
        gate = gate_of(t, x, self.mask if names[path].startswith("encoder") else None)
        return super().linear(path, x) + gate * linear(linear(x, t["down"].T), t["up"].T)


@pytest.mark.parametrize("kind", BACKBONES)
def test_gated_lora_at_every_projection(kind):
    backbone = make_rough(kind)
    gate = {"type": "gate", "tuner": {"type": "lora", "rank": 2}}
    model = make_tuned(backbone, {"parts": [{"tuner": gate, "at": "projections"}]})
    assert_agrees(model, [GatedLoRA(backbone, tensors_of(model, task)) for task in range(2)])


def test_a_gate_around_a_prompt_is_refused():
    with pytest.raises(UserError, match="a prompt stands before all"):
        TunedModel.build(
            make_rough("t5"),
            method={"parts": [{"tuner": {"type": "gate", "tuner": {"type": "prompt"}}, "at": "encoder.embedding"}]},
            tasks=["a"],
        )


def test_a_gate_around_nothing_has_no_tensors():
    """A prefix of no rows is not attached, and neither is its gate."""
    gate = {"type": "gate", "tuner": {"type": "prefix", "length": 0}}
    model = TunedModel.build(make_rough("t5"), method={"parts": [{"tuner": gate, "at": "attention"}]}, tasks=["a"])
    assert model.num_trainable() == 0


DECLARED = (
    "point", "replaces", "projects", "uncompilable", "named_tokens", "needs_residual", "needs_first", "looks_back",
    "penalties",
)  # fmt: skip


@pytest.mark.parametrize("name", sorted(tuner_types()))
def test_a_gate_says_of_itself_what_its_tuner_says(name):
    given = {"tokens": ("a", "b")} if name == "token_rows" else {}
    inner = tuner_types()[name](**given)
    if inner.point == "rows":
        return  # refused
    gate = Gate(tuner=inner)
    assert {key: getattr(gate, key) for key in DECLARED} == {key: getattr(inner, key) for key in DECLARED}


def test_a_gate_around_what_stands_in_the_backbones_place_or_names_tokens(tiny_tokenizer, tmp_path):
    """What the model does for such a tuner (other modules, further tokens) it does for a gated one."""
    parts = [
        {"tuner": {"type": "gate", "tuner": {"type": kind, **more}}, "at": at, "name": kind}
        for kind, more, at in (("code_scale", {"bits": 2}, "q"), ("token_rows", {"tokens": ["<select>"]}, "embedding"))
    ]
    backbone = make_rough("t5")
    model = TunedModel.build(backbone, method={"parts": parts}, tasks=["a"], tokenizer=tiny_tokenizer).eval()
    assert model.replaced
    ids = model.tokenizer(["<select> good"], return_tensors="pt")["input_ids"]
    assert model.method.parts[1].tuner.ids == (int(ids[0, 0]),)
    with torch.no_grad():
        before = model(input_ids=ids, labels=ids).logits
        for _, parameter in model.trainable_parameters():
            parameter.add_(0.5)
        after = model(input_ids=ids, labels=ids).logits
        assert not torch.equal(before, after)
        model.save_pretrained(tmp_path)
        again = TunedModel.from_pretrained(tmp_path, backbone=backbone, tokenizer=tiny_tokenizer)
        assert torch.equal(again(input_ids=ids, labels=ids).logits, after)
