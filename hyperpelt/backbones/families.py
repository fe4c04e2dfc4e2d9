"""The families of backbones: which models hyperpelt reaches, and where each keeps its modules.

A family of models is described by one `Family`. Nothing else in the library knows a model by name, so a further family
that uses the attention interface of transformers is one more entry of `FAMILIES`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from hyperpelt.errors import unknown


@dataclass(frozen=True, kw_only=True)
class Family:
    """Where a family of models keeps its modules. Paths are relative to the stack's layer unless said otherwise."""

    model_types: tuple[str, ...]
    stacks: Mapping[str, str]
    layers: str
    pre_norm: bool
    attention: Mapping[str, Mapping[str, str]]
    projections: Mapping[str, str]
    feed_forward: Mapping[str, str]
    inner: tuple[str, ...]
    outer: str
    activation: str  # the key of the configuration that names it
    norms: Mapping[str, Mapping[str, str]]
    embedding_norm: str | None = None
    final_norm: str | None = None
    heads: Mapping[str, str] = field(default_factory=dict)
    widths: tuple[str, ...] = ()  # keys of the configuration that are widths of hidden states, heads, networks
    depths: Mapping[str, str] = field(default_factory=dict)  # its keys of the numbers of layers, by stack
    start: str  # its key of the token that decoding starts from where no other is said


_T5 = Family(
    model_types=("t5", "mt5", "umt5"),
    stacks={"encoder": "encoder", "decoder": "decoder"},
    layers="block",
    pre_norm=True,
    attention={
        "encoder": {"self_attention": "layer.0.SelfAttention"},
        "decoder": {"self_attention": "layer.0.SelfAttention", "cross_attention": "layer.1.EncDecAttention"},
    },
    projections={"q": "q", "k": "k", "v": "v", "o": "o"},
    feed_forward={"encoder": "layer.1.DenseReluDense", "decoder": "layer.2.DenseReluDense"},
    inner=("wi", "wi_0", "wi_1"),
    outer="wo",
    activation="dense_act_fn",
    norms={
        "encoder": {"self_attention": "layer.0.layer_norm", "feed_forward": "layer.1.layer_norm"},
        "decoder": {
            "self_attention": "layer.0.layer_norm",
            "cross_attention": "layer.1.layer_norm",
            "feed_forward": "layer.2.layer_norm",
        },
    },
    final_norm="final_layer_norm",
    heads={"num_heads": "n_heads", "d_head": "key_value_proj_dim"},
    widths=("d_model", "d_ff", "d_kv"),
    depths={"encoder": "num_layers", "decoder": "num_decoder_layers"},
    start="pad_token_id",
)


def _bart_like(model_types: tuple[str, ...], *, pre_norm: bool) -> Family:
    norms = {"self_attention": "self_attn_layer_norm", "feed_forward": "final_layer_norm"}
    return Family(
        model_types=model_types,
        stacks={"encoder": "model.encoder", "decoder": "model.decoder"},
        layers="layers",
        pre_norm=pre_norm,
        attention={
            "encoder": {"self_attention": "self_attn"},
            "decoder": {"self_attention": "self_attn", "cross_attention": "encoder_attn"},
        },
        projections={"q": "q_proj", "k": "k_proj", "v": "v_proj", "o": "out_proj"},
        feed_forward={"encoder": "", "decoder": ""},
        inner=("fc1",),
        outer="fc2",
        activation="activation_function",
        norms={"encoder": norms, "decoder": {**norms, "cross_attention": "encoder_attn_layer_norm"}},
        embedding_norm="layernorm_embedding",
        final_norm="layer_norm",
        heads={"num_heads": "num_heads", "d_head": "head_dim"},
        widths=("d_model", "encoder_ffn_dim", "decoder_ffn_dim"),
        depths={"encoder": "encoder_layers", "decoder": "decoder_layers"},
        start="eos_token_id",  # mBART and PLBart wrap a label's last token to the front, EOS (`encode_targets`)
    )


FAMILIES: tuple[Family, ...] = (
    _T5,
    _bart_like(("bart", "marian", "blenderbot-small", "plbart"), pre_norm=False),
    _bart_like(("mbart", "pegasus", "blenderbot", "m2m_100"), pre_norm=True),
)


def model_types() -> tuple[str, ...]:
    """Every `config.model_type` that is known."""
    return tuple(name for family in FAMILIES for name in family.model_types)


def family_of(model_type: str) -> Family:
    """The family of a `config.model_type`.

    Raises:
        UserError: no family is known for it.
    """
    for family in FAMILIES:
        if model_type in family.model_types:
            return family
    raise unknown("backbone family (config.model_type)", model_type, model_types())
