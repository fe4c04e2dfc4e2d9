"""HyperFormer and HyperFormer++ (Karimi Mahabadi et al. 2021, arXiv 2106.04489).

    hyperformer++ = sequential adapter with conditional norm @ self_attention, feed_forward x hypernetwork,
                    norms x shared

++: one trunk, layer and position embeddings, and heads a stack. Without ++: the trunk reads the task alone and every
operation has heads of its own. Defaults of the authors' code: t = e = 64, h = 128, reduction 32 (b = 24 on T5-base),
gelu_new, layer norm on I and in the adapter.

T5-base, 8 tasks: ++ 5,211,056 (0.29 % a task), without 1.55 times the backbone. Identity: gamma = beta = 0. Ours start
there (`init="plain"`); `init="normal"` is the authors' N(0, 0.01^2), which starts near it.
Reference: float64 transcription.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from hyperpelt.methods.base import Method, Part, Source
from hyperpelt.methods.baselines import trained_norms
from hyperpelt.methods.registry import method
from hyperpelt.tuners import Adapter
from hyperpelt.weights import Head, HyperNetworkConfig

PAPER = "HyperFormer, arXiv 2106.04489"
SITES = ("self_attention", "feed_forward")


@method("hyperformer++", paper=PAPER, family="hypernetworks", equations="figure 1; its code", reference="transcription")
def hyperformer_plus(
    *,
    bottleneck: int = 24,
    embedding_dim: int = 64,
    hidden_dim: int = 128,
    hyper_dim: int = 64,
    init: str = "plain",
    description_dropout: float = 0.0,
    train_norms: bool = True,
) -> Method:
    """HyperFormer++; settings as in `HyperNetworkConfig`; **bottleneck**: inner width of the adapters."""
    config = HyperNetworkConfig(
        embedding_dim=embedding_dim,
        hidden_dim=hidden_dim,
        hyper_dim=hyper_dim,
        trunk="stack",
        heads={"default": Head(shared="stack")},
        init=init,
        description_dropout=description_dropout,
    )
    adapter = Adapter(bottleneck=bottleneck, reads="output", activation="gelu_new", norm=True)
    part = Part(tuner=adapter, at=SITES, source="hypernetwork")
    sources = {"hypernetwork": Source(type="hypernetwork", hypernetwork=config)}
    return Method(name="hyperformer++", parts=(part, *trained_norms(train_norms)), sources=sources)


@method(
    "hyperformer",
    paper=PAPER,
    family="hypernetworks",
    equations="figure 1; its code",
    reference="transcription",
    extends=hyperformer_plus,
)
def hyperformer(**settings: Any) -> Method:
    """HyperFormer; settings as in `hyperformer_plus`."""
    plus = hyperformer_plus(**settings)
    config = replace(
        plus.source("hypernetwork").hypernetwork,
        trunk="all",
        reads=("task",),
        heads={"default": Head(shared="operation")},
    )
    sources = {"hypernetwork": Source(type="hypernetwork", hypernetwork=config)}
    return replace(plus, name="hyperformer", sources=sources)
