"""The backbone's own dropout, which a frozen model does not need to be kept from overfitting but is trained under."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from transformers import PreTrainedModel

# Where families keep probabilities that are no `nn.Dropout` modules, in their configurations and in their layers.
_NAMES = ("dropout", "dropout_rate", "attention_dropout", "activation_dropout")


def set_dropout(model: PreTrainedModel, probability: float) -> None:
    """Let every dropout of a backbone have this probability in training: on states, attention and activations."""
    from torch import nn

    for name in _NAMES:
        if isinstance(getattr(model.config, name, None), float):
            setattr(model.config, name, probability)
    for module in model.modules():
        if isinstance(module, nn.Dropout):
            module.p = probability
        for name in _NAMES:
            if isinstance(getattr(module, name, None), float):
                setattr(module, name, probability)
