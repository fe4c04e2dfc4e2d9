"""Backbones of published shapes with random weights: speed does not depend on what they learned.

Imported in environments of other libraries too, where hyperpelt is not: nothing of it is imported here.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from transformers import BartConfig, BartForConditionalGeneration, PreTrainedModel, T5Config, T5ForConditionalGeneration

T5 = {"vocab_size": 32128, "d_kv": 64, "decoder_start_token_id": 0}
SHAPES: dict[str, tuple[type[T5Config | BartConfig], dict[str, Any]]] = {
    "t5-tiny": (
        T5Config,
        {**T5, "d_model": 64, "d_ff": 128, "num_layers": 2, "num_heads": 2, "vocab_size": 512, "d_kv": 32},
    ),
    "t5-small": (T5Config, {**T5, "d_model": 512, "d_ff": 2048, "num_layers": 6, "num_heads": 8}),
    "t5-base": (T5Config, {**T5, "d_model": 768, "d_ff": 3072, "num_layers": 12, "num_heads": 12}),
    "t5-large": (T5Config, {**T5, "d_model": 1024, "d_ff": 4096, "num_layers": 24, "num_heads": 16}),
    "bart-base": (
        BartConfig,
        {
            "d_model": 768,
            "encoder_layers": 6,
            "decoder_layers": 6,
            "encoder_ffn_dim": 3072,
            "decoder_ffn_dim": 3072,
            "encoder_attention_heads": 12,
            "decoder_attention_heads": 12,
        },
    ),
    "mini-bart": (
        BartConfig,
        {
            "vocab_size": 30522,
            "dropout": 0.0,
            "d_model": 384,
            "encoder_layers": 6,
            "decoder_layers": 2,
            "encoder_ffn_dim": 1536,
            "decoder_ffn_dim": 1536,
            "encoder_attention_heads": 12,
            "decoder_attention_heads": 12,
        },
    ),
}


def make(
    shape: str,
    *,
    seed: int = 0,
    dtype: torch.dtype = torch.float32,
    device: str = "cpu",
    dropout: float | None = None,
) -> PreTrainedModel:
    """A randomly initialised backbone of a published shape, in training mode (**dropout** None: as configured).

    Raises KeyError for an unknown shape.
    """
    config_type, settings = SHAPES[shape]
    if dropout is not None:
        settings = settings | {"dropout_rate" if config_type is T5Config else "dropout": dropout}
    config = config_type(**settings)
    torch.manual_seed(seed)
    with torch.device(device):  # drawn where they are used: a large shape takes a CPU half a minute
        t5 = isinstance(config, T5Config)
        model = T5ForConditionalGeneration(config) if t5 else BartForConditionalGeneration(config)
    nn.Module.to(model, device, dtype)  # in place; transformers' own `to` is typed otherwise
    return model.train()


def batch(
    *, rows: int, source: int, target: int, num_tasks: int, vocabulary: int, device: str, seed: int = 0
) -> dict[str, torch.Tensor]:
    """Full-length rows; tasks go round, so that a batch mixes as many as it can."""
    generator = torch.Generator().manual_seed(seed)

    def ids(length: int) -> torch.Tensor:
        return torch.randint(3, vocabulary, (rows, length), generator=generator).to(device)

    inputs = ids(source)
    return {
        "input_ids": inputs,
        "attention_mask": torch.ones_like(inputs),
        "labels": ids(target),
        "task_ids": (torch.arange(rows) % num_tasks).to(device),
    }
