"""Several tuners at one place: each sees what those before it left, on every family alike (promise 9)."""

from __future__ import annotations

import pytest
import torch
from comparison import BACKBONES, assert_agrees, make_rough, make_tuned, tensors_of
from reference_backbones import Reference

from hyperpelt.model.tuned import TunedModel

PARTS = [
    {"tuner": {"type": "adapter", "bottleneck": 4}, "at": ["feed_forward", "self_attention"]},
    {"tuner": {"type": "lora", "rank": 2}, "at": ["projections"]},
    {"tuner": {"type": "scale"}, "at": ["v", "hidden", "wo", "o"]},
    {"name": "second", "tuner": {"type": "adapter", "bottleneck": 3, "reads": "input"}, "at": ["feed_forward"]},
]


class Together(Reference):
    """Projections first (LoRA, then its scale), then the adapter that reads what they gave, then the parallel one."""

    def sublayer(self, name, x, h, out):
        for table, z in ((self.first, out), (self.second, x)):
            t = table.get(name)
            if t is not None:
                out = out + torch.clamp(z @ t["down"] + t["down_bias"], min=0) @ t["up"] + t["up_bias"]
        return out


def merged(backbone, model: TunedModel, task: int) -> Together:
    parts = {name: tensors_of(model, task, part=name) for name in ("adapter", "lora", "scale", "second")}
    reference = Together(backbone, first=parts["adapter"], second=parts["second"])
    for name, path in reference.projections().items():
        weight = reference.weights[f"{path}.weight"] + (parts["lora"][name]["down"] @ parts["lora"][name]["up"]).T
        if name.endswith(".wo"):
            weight = weight * (1 + parts["scale"][name[:-2] + "hidden"]["shift"])
        scale = 1 + parts["scale"][name]["shift"] if name in parts["scale"] else torch.ones(len(weight))
        reference.weights[f"{path}.weight"] = weight * scale[:, None]
        if f"{path}.bias" in reference.weights:
            reference.weights[f"{path}.bias"] = reference.weights[f"{path}.bias"] * scale
    return reference


@pytest.mark.parametrize("kind", BACKBONES)
def test_tuners_of_projections_come_before_those_of_the_sub_layer(kind):
    """BART's feed-forward network is no module of its own: it ends with the very module that is `wo`."""
    backbone = make_rough(kind)
    model = make_tuned(backbone, {"parts": PARTS})
    assert_agrees(model, [merged(backbone, model, task) for task in range(2)])


@pytest.mark.parametrize("kind", ["t5", "bart"])
def test_the_order_does_not_depend_on_what_was_attached_before(kind):
    backbone = make_rough(kind)
    for early in (["wo"], ["o", "q"], ["wi"]):
        TunedModel.build(backbone, method={"name": "lora", "at": early}, tasks=["a"])
        model = make_tuned(backbone, {"parts": PARTS})
        assert_agrees(model, [merged(backbone, model, task) for task in range(2)])
        model.detach()
