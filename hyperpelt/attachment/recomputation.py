"""Activation checkpointing of a backbone, on and off again without a trace."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import nn
from transformers import PreTrainedModel

from hyperpelt.operations import ATTENTIONS, list_operations

_MARKS = ("gradient_checkpointing", "_gradient_checkpointing_func")
Marks = list[tuple[nn.Module, dict[str, Any]]]


def start_recomputing(backbone: PreTrainedModel, function: Callable[..., Any]) -> Marks:
    """Let the backbone's layers recompute their activations through `function`; returns what `stop_recomputing` needs.

    T5's attentions, told so too, ask for a gradient of their constant position bias (reentrant checkpointing needs one;
    ours is not). SDPA then takes a slower kernel that rounds otherwise. Layers are what is recomputed, so they are not.
    """
    marks = [(m, {name: vars(m)[name] for name in _MARKS if name in vars(m)}) for m in backbone.modules()]
    # Not `activation_checkpointing_enable`: its hooks ask for gradients of the embedded input too, and stay.
    backbone._set_gradient_checkpointing(enable=True, gradient_checkpointing_func=function)
    for operation in list_operations(backbone):
        if operation.kind in ATTENTIONS:
            vars(backbone.get_submodule(operation.path))["gradient_checkpointing"] = False
    return marks


def stop_recomputing(backbone: PreTrainedModel, marks: Marks) -> None:
    """As it was before `start_recomputing`; transformers' own way back leaves its functions on the modules."""
    for module, before in marks:
        for name in _MARKS:
            if name in before:
                setattr(module, name, before[name])
            else:
                vars(module).pop(name, None)
