"""HyperPELT (Zhang et al. 2022, arXiv 2203.03878; Findings of ACL 2023) and its prefix-only form.

    hyperprefix = prefix @ attention x hypernetwork, norms x shared
    hyperpelt   = prefix @ attention, scaled parallel adapter @ feed_forward x hypernetwork, norms x shared

The paper's code was never released and its text does not fix every shape. Ours: N = 49 rows, t = e = 64; one trunk
and one set of embeddings for both stacks; prefix heads 64 -> 512 tanh -> Hk, one set for each of the three kinds of
attention; one linear adapter head for all layers, b = 16, fed by the mean of the N rows; the adapter's scale is made
by the hypernetwork too; layer norm on I as in HyperFormer. docs/methods.md says why.

T5-base, 8 tasks: see docs/methods.md (the paper's budget is 0.15 % and 0.24 % a task). Identity: prefix length 0 and
fresh adapters compute what the backbone computes, bit for bit. Reference: float64 transcription.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from hyperpelt.methods.base import Method, Part, Source
from hyperpelt.methods.baselines import trained_norms
from hyperpelt.methods.registry import method
from hyperpelt.tuners import Adapter, Prefix
from hyperpelt.weights import Head, HyperNetworkConfig


@method(
    "hyperprefix",
    paper="HyperPELT, arXiv 2203.03878",
    family="hypernetworks",
    equations="figure 1; docs/methods.md",
    reference="transcription",
)
def hyperprefix(
    *,
    prefix_length: int = 49,
    embedding_dim: int = 64,
    hidden_dim: int = 128,
    hyper_dim: int = 64,
    prefix_hidden: int = 512,
    init: str = "plain",
    description_dropout: float = 0.0,
    train_norms: bool = True,
) -> Method:
    """HyperPELT's prefix alone; **prefix_length**: rows N; **prefix_hidden**: tanh units of its heads."""
    config = HyperNetworkConfig(
        embedding_dim=embedding_dim,
        hidden_dim=hidden_dim,
        hyper_dim=hyper_dim,
        heads={"prefix": Head(shared="kind", hidden=prefix_hidden), "default": Head(shared="all")},
        init=init,
        description_dropout=description_dropout,
    )
    prefix = Part(tuner=Prefix(length=prefix_length), at=("attention",), source="hypernetwork")
    sources = {"hypernetwork": Source(type="hypernetwork", hypernetwork=config)}
    return Method(name="hyperprefix", parts=(prefix, *trained_norms(train_norms)), sources=sources)


@method(
    "hyperpelt",
    paper="HyperPELT, arXiv 2203.03878",
    family="hypernetworks",
    equations="figure 1; docs/methods.md",
    reference="transcription",
    extends=hyperprefix,
)
def hyperpelt(*, bottleneck: int = 16, activation: str = "relu", scale: float = 1.0, **settings: Any) -> Method:
    """HyperPELT; **bottleneck**, **scale**: inner width and first scale of the adapter; others as in `hyperprefix`."""
    prefix, *norms = (alone := hyperprefix(**settings)).parts
    tuner = Adapter(bottleneck=bottleneck, reads="input", activation=activation, scale=scale, learned_scale=True)
    adapter = Part(tuner=tuner, at=("feed_forward",), source="hypernetwork")
    return replace(alone, name="hyperpelt", parts=(prefix, adapter, *norms))
