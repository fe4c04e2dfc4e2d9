"""HyperBlock: an adapter at every block, all of them made by one hypernetwork. This project's own method.

    hyperblock = sequential adapter @ self_attention, cross_attention,
                 scaled parallel adapter @ feed_forward x hypernetwork with a head a kind of block, norms x shared

What it takes from where: the generated adapters, norms and embeddings of HyperFormer (arXiv 2106.04489), the scaled
parallel adapter at the feed-forward network of HyperPELT (2203.03878) and MAM (2110.04366). What it adds: adapters at
the cross-attention too, and a head for each kind of block (encoder or decoder; self-attention, cross-attention,
feed-forward), paid for by narrower adapters. docs/methods.md has the equations, docs/results what was measured.

T5-base, 8 tasks: 4,827,759, fewer than hyperformer++. Identity: fresh adapters compute what the backbone computes, bit
for bit. Reference: float64 transcription.
"""

from __future__ import annotations

from hyperpelt.methods.base import Method, Part, Source
from hyperpelt.methods.baselines import trained_norms
from hyperpelt.methods.registry import method
from hyperpelt.tuners import Adapter
from hyperpelt.weights import Head, HyperNetworkConfig


@method(
    "hyperblock",
    paper="this project",
    family="hypernetworks",
    equations="docs/methods.md",
    reference="transcription",
)
def hyperblock(
    *,
    bottleneck: int = 9,
    activation: str = "relu",
    embedding_dim: int = 64,
    hidden_dim: int = 128,
    hyper_dim: int = 64,
    heads: str = "kind",
    init: str = "plain",
    description_dropout: float = 0.0,
    train_norms: bool = True,
) -> Method:
    """HyperBlock; widths: **bottleneck** of adapters, the others as in `hyperpelt.weights.HyperNetworkConfig`.

    - **heads**: what shares a head: `all`, `stack`, `kind` or `operation`
    """
    after = Adapter(bottleneck=bottleneck, reads="output", activation=activation)
    beside = Adapter(bottleneck=bottleneck, reads="input", activation=activation, learned_scale=True)
    attentions = ("self_attention", "cross_attention")
    parts = (
        Part(name="attention", tuner=after, at=attentions, source="hypernetwork"),
        Part(name="feed_forward", tuner=beside, at=("feed_forward",), source="hypernetwork"),
        *trained_norms(train_norms),
    )
    config = HyperNetworkConfig(
        embedding_dim=embedding_dim,
        hidden_dim=hidden_dim,
        hyper_dim=hyper_dim,
        heads={"default": Head(shared=heads)},
        init=init,
        description_dropout=description_dropout,
    )
    sources = {"hypernetwork": Source(type="hypernetwork", hypernetwork=config)}
    return Method(name="hyperblock", parts=parts, sources=sources)
