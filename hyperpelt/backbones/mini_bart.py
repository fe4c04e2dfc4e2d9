"""A BART that reads its layer norms' epsilon from its configuration, as BERT does.

transformers' BART builds them with PyTorch's default of 1e-5 and has no setting for it; MiniLM's weights were trained
with 1e-12, and the other value moves its hidden states by 1e-3. As a class of its own, the epsilon survives every way a
model is made again: `from_pretrained`, `type(model)(config)`, a copy.
"""

from __future__ import annotations

from torch import nn
from transformers import BartConfig, BartForConditionalGeneration


class MiniBart(BartForConditionalGeneration):
    """`BartForConditionalGeneration` with `config.layer_norm_eps`."""

    def __init__(self, config: BartConfig) -> None:
        super().__init__(config)
        for module in self.modules():
            if isinstance(module, nn.LayerNorm):
                module.eps = config.layer_norm_eps
