"""What decoders start as."""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from torch import Tensor
from transformers import BartConfig, BartForConditionalGeneration, T5Config

from hyperpelt.backbones.minilm import minilm_state


def is_decoder_tensor(name: str) -> bool:
    """Of mini-bart: trained and shipped; embeddings and positions are MiniLM's."""
    if name == "final_logits_bias":
        return True
    return name.startswith("model.decoder.") and "embed_tokens" not in name and "embed_positions" not in name


def random_decoder(config: BartConfig, *, seed: int, warm: bool) -> dict[str, Tensor]:
    """A decoder's first weights: Glorot matrices, or MiniLM's layers where a decoder has the same part."""
    generator = torch.Generator().manual_seed(seed)
    with torch.device("meta"):
        shapes = {n: t.shape for n, t in BartForConditionalGeneration(config).state_dict().items()}
    state = {name: torch.zeros(shape) for name, shape in shapes.items() if is_decoder_tensor(name)}
    for name, tensor in state.items():
        if tensor.dim() == 2 and name != "final_logits_bias":
            tensor.normal_(0.0, math.sqrt(2.0 / sum(tensor.shape)), generator=generator)
        elif "norm" in name and name.endswith("weight"):
            tensor.fill_(1.0)
    if warm:
        known = minilm_state()
        for name, tensor in state.items():
            source = known.get(name.removeprefix("model.").replace("decoder.", "encoder."))
            if source is not None and source.shape == tensor.shape:
                state[name] = source.clone()
    return state


# T5's name inside a block -> BART's inside a layer.
_COPIED = {"layer.0.SelfAttention": "self_attn", "layer.1.EncDecAttention": "encoder_attn"}
_ATTENTION = {"q": "q_proj", "k": "k_proj", "v": "v_proj", "o": "out_proj"}
_FEED_FORWARD = {"wi": "fc1", "wo": "fc2"}


def decoder_from_bart(
    config: T5Config, bart: Mapping[str, Tensor], minilm: Mapping[str, Tensor], output_map: Tensor
) -> dict[str, Tensor]:
    """A T5 decoder's first weights: mini-bart's matrices, norms of one but the last, no position bias.

    As in `distillation.copied_encoder`, queries take BART's scale. Keys and values of the cross-attention read the
    encoder through `output_map`, [D, D], which takes its states to those that `bart` learnt to read. The last norm
    makes logits of mini-bart's size: T5 divides them by sqrt(D), and its word embeddings are MiniLM's after their norm,
    which divides each by its deviation and multiplies by the norm's gains.
    """
    layers = config.num_decoder_layers
    assert layers is not None
    state: dict[str, Tensor] = {}
    for block in range(layers):
        ours, theirs = f"decoder.block.{block}", f"model.decoder.layers.{block}"
        for attention, source in _COPIED.items():
            for name, projection in _ATTENTION.items():
                matrix = bart[f"{theirs}.{source}.{projection}.weight"]
                state[f"{ours}.{attention}.{name}.weight"] = matrix * (config.d_kv**-0.5 if name == "q" else 1.0)
        for name in ("k", "v"):
            read = f"{ours}.layer.1.EncDecAttention.{name}.weight"
            state[read] = state[read] @ output_map
        for name, source in _FEED_FORWARD.items():
            state[f"{ours}.layer.2.DenseReluDense.{name}.weight"] = bart[f"{theirs}.{source}.weight"].clone()
        for layer in range(3):
            state[f"{ours}.layer.{layer}.layer_norm.weight"] = torch.ones(config.d_model)
    bias = torch.zeros(config.relative_attention_num_buckets, config.num_heads)
    state["decoder.block.0.layer.0.SelfAttention.relative_attention_bias.weight"] = bias
    deviation = minilm["shared.weight"].std(1).mean() * math.sqrt(config.d_model)
    last = bart[f"model.decoder.layers.{layers - 1}.final_layer_norm.weight"]
    state["decoder.final_layer_norm.weight"] = deviation * last / minilm["encoder.layernorm_embedding.weight"]
    return state
