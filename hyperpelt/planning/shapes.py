"""Published backbones by their configuration, so that a plan needs no network.

From the models' own `config.json` files on the hub. Any other hub id must be in the hub's cache or within reach; a
folder or an embedded name is read.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers import AutoModelForSeq2SeqLM, BartConfig, PreTrainedConfig, PreTrainedModel, T5Config

from hyperpelt.backbones import embedded, load_backbone, resolve_dtype
from hyperpelt.backbones.moving import moved
from hyperpelt.errors import UserError

Sizes = tuple[int, int, int, int, int]  # d_model, d_ff, layers of a stack, heads, width of a head

T5: dict[str, Sizes] = {
    "t5-small": (512, 2048, 6, 8, 64),
    "t5-base": (768, 3072, 12, 12, 64),
    "t5-large": (1024, 4096, 24, 16, 64),
    "t5-3b": (1024, 16384, 24, 32, 128),
    "t5-11b": (1024, 65536, 24, 128, 128),
}
T5_GATED: dict[str, Sizes] = {  # v1.1 and FLAN
    "small": (512, 1024, 8, 6, 64),
    "base": (768, 2048, 12, 12, 64),
    "large": (1024, 2816, 24, 16, 64),
    "xl": (2048, 5120, 24, 32, 64),
    "xxl": (4096, 10240, 24, 64, 64),
}
BART: dict[str, Sizes] = {"bart-base": (768, 3072, 6, 12, 64), "bart-large": (1024, 4096, 12, 16, 64)}


def known() -> dict[str, PreTrainedConfig]:
    """Configurations by the name they are known by, and by their hub id."""
    found: dict[str, PreTrainedConfig] = {}
    for name, shape in T5.items():
        found[name] = found[f"google-t5/{name}"] = _t5(shape)
    for name, shape in T5_GATED.items():
        gated = _t5(shape, feed_forward_proj="gated-gelu", tie_word_embeddings=False)
        found[f"google/t5-v1_1-{name}"] = found[f"google/flan-t5-{name}"] = gated
    for name, (width, inner, layers, heads, _) in BART.items():
        both = {"layers": layers, "ffn_dim": inner, "attention_heads": heads}
        sizes: dict[str, Any] = {
            f"{stack}_{key}": size for stack in ("encoder", "decoder") for key, size in both.items()
        }
        found[name] = found[f"facebook/{name}"] = BartConfig(d_model=width, vocab_size=50265, **sizes)
    return found


def _t5(sizes: Sizes, **more: Any) -> T5Config:
    names = ("d_model", "d_ff", "num_layers", "num_heads", "d_kv")
    fixed: dict[str, Any] = dict(zip(names, sizes, strict=True))
    config = T5Config(vocab_size=32128, **fixed, **more)
    config.decoder_start_token_id = 0
    return config


def shape_of(name: str, precision: str) -> PreTrainedModel:
    """A backbone without weights, on the meta device, in training mode.

    Raises:
        UserError: neither here, nor in the hub's cache, nor known by its name.
    """
    dtype, configs = resolve_dtype(precision), known()
    if name in configs and not Path(name).is_dir() and name not in embedded.NAMES:
        return moved(_made(configs[name]), dtype).train()
    try:
        return load_backbone(name, dtype=dtype, from_config=True).train()
    except UserError as problem:
        raise UserError(f"{problem} Backbones whose shape is known without it: {', '.join(sorted(configs))}.") from None


def _made(config: PreTrainedConfig) -> PreTrainedModel:
    with torch.device("meta"):
        model = AutoModelForSeq2SeqLM.from_config(config, trust_remote_code=False)
        if (
            config.model_type == "t5" and not config.scale_decoder_outputs
        ):  # so T5 v1.1 is told from T5: a head of its own
            model.set_output_embeddings(nn.Linear(config.d_model, config.vocab_size, bias=False))
    return model
