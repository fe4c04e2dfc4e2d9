"""Small real models, made from configurations; also for processes of their own, where no test fixtures are."""

from __future__ import annotations

import torch
from transformers import BartConfig, BartForConditionalGeneration, T5Config, T5ForConditionalGeneration

VOCABULARY = 128


def make_t5(seed: int = 0, **settings: object) -> T5ForConditionalGeneration:
    """A random T5 of width 32 in evaluation mode."""
    torch.manual_seed(seed)
    sizes = {"vocab_size": VOCABULARY, "d_model": 32, "d_ff": 64, "d_kv": 8, "num_layers": 2, "num_heads": 4}
    config = T5Config(**(sizes | {"dropout_rate": 0.0, "decoder_start_token_id": 0} | settings))
    return T5ForConditionalGeneration(config).eval()


def make_bart(seed: int = 0, **settings: object) -> BartForConditionalGeneration:
    """A random BART of width 32 in evaluation mode; weights large enough that differences show."""
    torch.manual_seed(seed)
    sizes = {
        "vocab_size": VOCABULARY,
        "d_model": 32,
        "encoder_ffn_dim": 64,
        "decoder_ffn_dim": 48,
        "encoder_layers": 2,
        "decoder_layers": 2,
        "encoder_attention_heads": 4,
        "decoder_attention_heads": 4,
        "max_position_embeddings": 256,
        "dropout": 0.0,
        "init_std": 0.2,
    }
    return BartForConditionalGeneration(BartConfig(**(sizes | settings))).eval()
