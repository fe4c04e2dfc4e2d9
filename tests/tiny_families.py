"""Tiny random models of every promised family, and of a few that must be refused."""

from __future__ import annotations

from collections.abc import Callable

import torch
import transformers
from transformers import PreTrainedConfig, PreTrainedModel

_T5 = {"vocab_size": 96, "d_model": 32, "d_ff": 48, "d_kv": 6, "num_layers": 2, "num_heads": 4, "dropout_rate": 0.0}
_T5 |= {"decoder_start_token_id": 0, "pad_token_id": 0, "eos_token_id": 1}
_BART = {"vocab_size": 96, "d_model": 32, "encoder_ffn_dim": 48, "decoder_ffn_dim": 64, "encoder_layers": 2}
_BART |= {"decoder_layers": 3, "encoder_attention_heads": 4, "decoder_attention_heads": 2, "dropout": 0.0}
_BART |= {"max_position_embeddings": 40, "init_std": 0.2, "bos_token_id": 0, "pad_token_id": 1, "eos_token_id": 2}
_BART |= {"decoder_start_token_id": 2, "forced_eos_token_id": None}


def _t5(config: type[PreTrainedConfig], **settings: object) -> Callable[[], PreTrainedConfig]:
    return lambda: config(**(_T5 | settings))


def _bart(config: type[PreTrainedConfig], **settings: object) -> Callable[[], PreTrainedConfig]:
    return lambda: config(**(_BART | settings))


# name -> configuration; every decoder has another number of layers than its encoder somewhere in the table.
CONFIGS: dict[str, Callable[[], PreTrainedConfig]] = {
    "t5": _t5(transformers.T5Config, num_decoder_layers=3),
    "t5-gated": _t5(transformers.T5Config, feed_forward_proj="gated-gelu"),
    "mt5": _t5(transformers.MT5Config),
    "umt5": _t5(transformers.UMT5Config),
    "bart": _bart(transformers.BartConfig),
    # Published ones scale their embeddings by sqrt(d_model): in the embedding module, or in the stack around it.
    "mbart": _bart(transformers.MBartConfig, scale_embedding=True),
    "pegasus": _bart(transformers.PegasusConfig, scale_embedding=True),
    "marian": _bart(transformers.MarianConfig, scale_embedding=True, decoder_vocab_size=96),
    "blenderbot": _bart(transformers.BlenderbotConfig, scale_embedding=True),
    "blenderbot-small": _bart(transformers.BlenderbotSmallConfig, scale_embedding=True),
    "m2m_100": _bart(transformers.M2M100Config, scale_embedding=True),
    "plbart": _bart(transformers.PLBartConfig),
}
GATED = {"t5-gated", "mt5", "umt5"}
T5_LIKE = {"t5", "t5-gated", "mt5", "umt5"}


def make_tiny(family: str, seed: int = 0) -> PreTrainedModel:
    """A random model in evaluation mode, its biases and norms away from zero and one."""
    torch.manual_seed(seed)
    model = transformers.AutoModelForSeq2SeqLM.from_config(CONFIGS[family]()).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.05)
    return model
