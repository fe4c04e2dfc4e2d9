"""Bottleneck adapters, sequential and parallel, against float64 transcriptions (promise 9)."""

from __future__ import annotations

import pytest
import torch
from comparison import BACKBONES, assert_agrees, make_rough, make_tuned, tensors_of
from reference_backbones import Reference, gelu, gelu_tanh

from hyperpelt.errors import UserError
from hyperpelt.tuners import Adapter, tuner_from_dict

PHI = {
    "relu": lambda z: torch.where(z > 0, z, 0.0),
    "gelu": gelu,
    "gelu_new": gelu_tanh,
    "silu": lambda z: z / (1 + torch.exp(-z)),
    "tanh": lambda z: (torch.exp(z) - torch.exp(-z)) / (torch.exp(z) + torch.exp(-z)),
    "identity": lambda z: z,
}


class Adapted(Reference):
    """OP(x) + s (phi(z D + b_D) U + b_U), where z is x, OP(x), h or their sum; with gamma, LN of the whole."""

    reads = "output"
    phi = "relu"
    scale = 1.0

    def sublayer(self, name, x, h, out):
        return out + self.adapter(
            name, {"input": x, "output": out, "residual": h, "output+residual": out + h}[self.reads]
        )

    def block(self, name, read, written):
        return written + self.adapter(name, {"input": read, "output": written}.get(self.reads))

    def adapter(self, name, z):
        t = self.tensors.get(name)
        if t is None:
            return 0
        made = PHI[self.phi](z @ t["down"] + t["down_bias"]) @ t["up"] + t["up_bias"]
        if "gamma" in t:
            centred = made - made.mean(-1, keepdim=True)
            made = t["gamma"] * centred / (centred.pow(2).mean(-1, keepdim=True) + 1e-5).sqrt() + t["beta"]
        return made * t.get("scale", self.scale)


def check(kind: str, at: object, **settings: object) -> None:
    backbone = make_rough(kind)
    tuner = {"type": "adapter", "bottleneck": 5, **settings}
    model = make_tuned(backbone, {"parts": [{"tuner": tuner, "at": at}]})
    own = {"reads": settings.get("reads", "output"), "phi": settings.get("activation", "relu")}
    own["scale"] = settings.get("scale", 1.0)
    assert_agrees(model, [Adapted(backbone, tensors_of(model, task), **own) for task in range(2)])


@pytest.mark.parametrize("reads", ["input", "output", "residual", "output+residual"])
@pytest.mark.parametrize("kind", BACKBONES)
def test_adapter_reads_what_it_says_at_attentions_and_feed_forward(kind, reads):
    # On pre-norm models `input` is the normed state and `residual` the un-normed one; on BART they are the same.
    check(kind, ["attention", "feed_forward"], reads=reads)


@pytest.mark.parametrize("kind", BACKBONES)
def test_conditional_norm_follows_the_up_projection(kind):
    check(kind, ["self_attention", "feed_forward"], norm=True, activation="gelu_new")


@pytest.mark.parametrize("reads", ["input", "output"])
@pytest.mark.parametrize("kind", BACKBONES)
def test_adapter_of_a_whole_block(kind, reads):
    check(kind, "block", reads=reads)


@pytest.mark.parametrize("phi", PHI)
def test_activation_is_the_one_named(phi):
    check("t5", "feed_forward", activation=phi)


@pytest.mark.parametrize("learned", [False, True])
def test_scale_multiplies_the_whole_delta(learned):
    check("bart", "feed_forward", scale=4.0, learned_scale=learned, reads="input")


def test_a_learned_scale_starts_at_its_setting():
    backbone = make_rough("t5")
    tuner = {"type": "adapter", "bottleneck": 5, "scale": 4.0, "learned_scale": True}
    model = make_tuned(backbone, {"parts": [{"tuner": tuner, "at": "feed_forward"}]}, size=0.0)
    assert all(t["scale"].item() == 4.0 for t in tensors_of(model).values())


def test_parallel_and_sequential_adapters_agree_when_nothing_is_read():
    """D = 0: what is added no longer depends on what is read."""
    backbone, logits = make_rough("t5"), []
    for reads in ("input", "output"):
        model = make_tuned(backbone, {"parts": [{"tuner": {"type": "adapter", "reads": reads}, "at": "feed_forward"}]})
        with torch.no_grad():
            for name, parameter in model.trainable_parameters():
                if name.endswith("__down"):
                    parameter.zero_()
            logits.append(
                model(torch.tensor([[5, 6, 1]]), labels=torch.tensor([[4, 1]]), task_ids=torch.tensor([1])).logits
            )
        model.detach()
    assert torch.equal(*logits)


def test_misspelt_settings_name_the_nearest():
    with pytest.raises(UserError, match=r"setting of tuner 'adapter': 'botleneck'.*'bottleneck'"):
        tuner_from_dict({"type": "adapter", "botleneck": 8})
    with pytest.raises(UserError, match=r"activation of an adapter 'gelo'.*'gelu'"):
        Adapter(activation="gelo")
    with pytest.raises(UserError, match=r"`reads` of an adapter 'outputs'.*'output'"):
        Adapter(reads="outputs")
    with pytest.raises(UserError, match="at least 1, got 0"):
        Adapter(bottleneck=0)
