"""mini-bart: a BART whose encoder *is* MiniLM's.

A BART encoder is, operation for operation, a BERT encoder (post-norm, learned positions, GELU), so the published
weights load exactly: the positions move by BART's offset of two, BERT's segment-0 embedding is added to them (every
token is segment 0), and the layer norms take BERT's epsilon. The decoder is ours (`scripts/pretrain`), shares the
frozen embeddings and positions, and ships in `hyperpelt/assets/mini-bart`.

transformers' BART builds its layer norms with PyTorch's epsilon of 1e-5 and has no setting for it; MiniLM's weights
were trained with 1e-12, and the other value moves its hidden states by 1e-3. As a class of its own, the epsilon
survives every way a model is made again: `from_pretrained`, `type(model)(config)`, a copy.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from transformers import BartConfig, BartForConditionalGeneration

from hyperpelt.backbones.minilm import CLS, LAYER_NORM_EPS, PAD, SEP, filled, minilm_state


class MiniBart(BartForConditionalGeneration):
    """`BartForConditionalGeneration` with `config.layer_norm_eps`."""

    def __init__(self, config: BartConfig) -> None:
        super().__init__(config)
        for module in self.modules():
            if isinstance(module, nn.LayerNorm):
                module.eps = config.layer_norm_eps


def mini_bart_config(*, decoder_layers: int = 2, decoder_ffn_dim: int = 1536) -> BartConfig:
    """MiniLM's shape as a BART; the decoder has MiniLM's width and heads."""
    # Keys that BartConfig keeps without declaring them: MiniBart reads the one, nothing is forced by the other.
    undeclared: dict[str, Any] = {"forced_bos_token_id": None, "layer_norm_eps": LAYER_NORM_EPS}
    return BartConfig(
        vocab_size=30522,
        d_model=384,
        encoder_layers=6,
        encoder_attention_heads=12,
        encoder_ffn_dim=1536,
        decoder_layers=decoder_layers,
        decoder_attention_heads=12,
        decoder_ffn_dim=decoder_ffn_dim,
        activation_function="gelu",
        max_position_embeddings=512,
        dropout=0.0,
        scale_embedding=False,
        pad_token_id=PAD,
        bos_token_id=CLS,
        eos_token_id=SEP,
        decoder_start_token_id=CLS,
        forced_eos_token_id=None,
        **undeclared,
    )


def assemble_mini_bart(config: BartConfig, decoder: dict[str, Tensor]) -> MiniBart:
    """MiniLM's encoder joined with a decoder (names as in `BartForConditionalGeneration.state_dict()`), in float32."""
    with torch.device("meta"):
        model = MiniBart(config)
    state = {f"model.{name}": tensor for name, tensor in minilm_state().items()}
    return filled(model, state | decoder, shared="model.shared.weight")
