"""Tuners: what is done at an operation. One file a family; pure functions of (input, output, tensors)."""

from __future__ import annotations

from hyperpelt.tuners.adapter import Adapter
from hyperpelt.tuners.base import Init, Site, TensorSpec, Tuner, tuner_from_dict, tuner_type, tuner_types
from hyperpelt.tuners.codes import CodeScale
from hyperpelt.tuners.convolution import Convolution
from hyperpelt.tuners.delta import Delta, Entries
from hyperpelt.tuners.kronecker import Kronecker, PHMAdapter
from hyperpelt.tuners.low_rank import SVD, VeRA
from hyperpelt.tuners.memory import Memory
from hyperpelt.tuners.parallel import Gate, ParallelRows
from hyperpelt.tuners.prefix import Prefix, PrefixRows
from hyperpelt.tuners.prefix_forms import AdaptivePrefix, BottleneckPrefix
from hyperpelt.tuners.projection import Bias, LoRA, Norm, Scale
from hyperpelt.tuners.self_prompt import SelfPrompt
from hyperpelt.tuners.vectors import Prompt, SpecialTokens, TokenRows

__all__ = [
    "SVD",
    "Adapter",
    "AdaptivePrefix",
    "Bias",
    "BottleneckPrefix",
    "CodeScale",
    "Convolution",
    "Delta",
    "Entries",
    "Gate",
    "Init",
    "Kronecker",
    "LoRA",
    "Memory",
    "Norm",
    "PHMAdapter",
    "ParallelRows",
    "Prefix",
    "PrefixRows",
    "Prompt",
    "Scale",
    "SelfPrompt",
    "Site",
    "SpecialTokens",
    "TensorSpec",
    "TokenRows",
    "Tuner",
    "VeRA",
    "tuner_from_dict",
    "tuner_type",
    "tuner_types",
]
