"""Tuners: what is done at an operation. One file a family; pure functions of (input, output, tensors)."""

from __future__ import annotations

from hyperpelt.tuners.adapter import Adapter
from hyperpelt.tuners.base import Init, Site, TensorSpec, Tuner, tuner_from_dict, tuner_type, tuner_types
from hyperpelt.tuners.memory import Memory
from hyperpelt.tuners.parallel import Gate, ParallelRows
from hyperpelt.tuners.prefix import Prefix, PrefixRows
from hyperpelt.tuners.projection import Bias, LoRA, Norm, Scale
from hyperpelt.tuners.vectors import Prompt, SpecialTokens

__all__ = [
    "Adapter",
    "Bias",
    "Gate",
    "Init",
    "LoRA",
    "Memory",
    "Norm",
    "ParallelRows",
    "Prefix",
    "PrefixRows",
    "Prompt",
    "Scale",
    "Site",
    "SpecialTokens",
    "TensorSpec",
    "Tuner",
    "tuner_from_dict",
    "tuner_type",
    "tuner_types",
]
