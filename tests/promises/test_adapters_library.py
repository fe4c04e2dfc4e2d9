"""Promise 9, methods that the `adapters` library has on BART: its tensors give its logits, in float64.

The library wants an older transformers, so what it computes was recorded by scripts/reference_adapters.py, which says
what of its UniPELT is left out.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor
from transformers import BartConfig, BartForConditionalGeneration

sys.path.insert(0, str(Path(__file__).parents[2] / "scripts"))

import reference_adapters

from hyperpelt import methods
from hyperpelt.export.baking import bake
from hyperpelt.methods import Method
from hyperpelt.model.tuned import TunedModel
from hyperpelt.tuners import Gate

RECORDED = load_file(Path(__file__).with_name("adapters_library.safetensors"))
PREFIX = {"prefix_length": reference_adapters.ROWS}
SPECS = {
    "compacter": {"bottleneck": 4, "divisions": 2, "rank": 2, "activation": "gelu", "train_norms": False},
    "compacter++": {"bottleneck": 4, "divisions": 2, "rank": 2, "activation": "gelu", "train_norms": False},
    "prefix-tuning": PREFIX,
    "mam": {**PREFIX, "prefix_hidden": 5, "bottleneck": 4},
    "unipelt": {**PREFIX, "prefix_hidden": 5, "bottleneck": 4, "rank": 2},
}
# Where the library keeps what it puts at an operation of ours: `encoder.0.self_attention.q`, ...
MODULES = {
    "self_attention": ("attention_adapters.adapters.{}", "self_attn.prefix_tuning.prefix_gates.{}"),
    "cross_attention": ("encoder_attn.prefix_tuning.prefix_gates.{}",),
    "feed_forward": ("output_adapters.adapters.{}",),
    "self_attention.q": ("self_attn.q_proj.loras.{}",),
    "self_attention.v": ("self_attn.v_proj.loras.{}",),
    "cross_attention.q": ("encoder_attn.q_proj.loras.{}",),
    "cross_attention.v": ("encoder_attn.v_proj.loras.{}",),
}
PHM = {
    "adapter_down.0.W_left": "down_left", "adapter_down.0.W_right": "down_right", "adapter_down.0.b": "down_bias",
    "adapter_up.W_left": "up_left", "adapter_up.W_right": "up_right", "adapter_up.b": "up_bias",
}  # fmt: skip
TURNED = {  # matrices that the library keeps as PyTorch's Linear does
    "adapter_down.0.weight": "down", "adapter_up.weight": "up", "lora_A": "down", "lora_B": "up", "gate.weight": "gate",
    "weight": "gate",
}  # fmt: skip
BIASES = {
    "adapter_down.0.bias": "down_bias",
    "adapter_up.bias": "up_bias",
    "gate.bias": "gate_bias",
    "bias": "gate_bias",
}


def spec(name: str) -> Method:
    """The method; UniPELT's adapter reads what this library's does on BART where it can."""
    made = methods.get({"name": name, **SPECS[name]})
    if name != "unipelt":
        return made
    parts = [
        replace(part, tuner=Gate(tuner=replace(part.tuner.tuner, reads="output"))) if part.name == "adapter" else part
        for part in made.parts
    ]
    return replace(made, parts=tuple(parts))


def theirs(name: str, operation: str) -> dict[str, Tensor]:
    """Our name of a tensor -> the library's values of it at one operation."""
    stack, layer, kind = operation.split(".", 2)
    start = f"{name}/tensors.model.{stack}.layers.{layer}."
    found = {}
    for module in MODULES[kind]:
        for label, values in RECORDED.items():
            if label.startswith(start + module.format(name) + "."):
                tail = label.removeprefix(start + module.format(name) + ".")
                turned = tail in TURNED
                found[(PHM | TURNED | BIASES)[tail]] = values.T if turned else values
    place = {"encoder.self_attention": "encoder", "decoder.self_attention": "self", "decoder.cross_attention": "cross"}
    rows = f"{name}/rows.{place.get(f'{stack}.{kind}')}_prefix.{layer}."
    found |= {what: RECORDED[rows + what] for what in ("keys", "values") if rows + what in RECORDED}
    rule = f"{name}/tensors.model.shared_parameters.{name}.phm_rule"
    return found | ({"rule": RECORDED[rule]} if rule in RECORDED else {})


@torch.no_grad()
def fill(model: TunedModel, name: str) -> set[str]:
    """Put the library's tensors into a baked model; the labels of those that found a place."""
    used = set()
    for source in model.sources.of_tasks():
        for key, group in source.groups.items():
            values = source.get_parameter(f"tensors.{key.replace('.', '__')}")
            for index, place in enumerate(group.places):
                for operation in place:
                    given = theirs(name, operation.name)[group.tensor]
                    values[0, index] = given.reshape(values.shape[2:])
                    used.add(f"{operation.name}.{group.tensor}")
    return used


def recorded(name: str) -> Mapping[str, Tensor]:
    return {key.removeprefix(f"{name}/"): value for key, value in RECORDED.items() if key.startswith(f"{name}/")}


@pytest.mark.parametrize("name", SPECS)
def test_a_method_on_bart_is_that_of_the_adapters_library(name):
    backbone = BartForConditionalGeneration(BartConfig(**reference_adapters.SIZES)).eval()
    reference_adapters.backbone_values(backbone)
    model = bake(TunedModel.build(backbone.double(), method=spec(name), tasks=["a"]), "a")
    model.sources.double()
    there = recorded(name)
    used = fill(model, name)
    per_operation = [
        key for key in there if key.startswith(("tensors.model.encoder", "tensors.model.decoder", "rows."))
    ]
    assert len({label for label in used if not label.endswith(".rule")}) == len(per_operation)
    inputs = {key: there[key] for key in ("input_ids", "attention_mask", "decoder_input_ids")}
    with torch.no_grad():
        bare = backbone(**inputs).logits
        got = model(**inputs, task_ids=torch.zeros(3, dtype=torch.long)).logits
    wanted = there["logits"]
    assert (wanted - bare).abs().max() > 1e-3
    assert (got - wanted).abs().max() < 1e-10 * wanted.abs().max()


def test_the_recorded_tensors_are_of_the_librarys_own_kind():
    assert {re.match("[^/]+", key)[0] for key in RECORDED} == set(SPECS)
    assert sum(value.numel() * value.element_size() for value in RECORDED.values()) < 80_000
