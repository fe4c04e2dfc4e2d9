"""Bottleneck adapters with tensors of their own: Houlsby, Pfeiffer, parallel, and the MAM combination.

    houlsby          = sequential adapter, reads OP(x)     @ self_attention, feed_forward x per task
    pfeiffer         = sequential adapter, reads OP(x) + h @ feed_forward x per task
    parallel-adapter = parallel adapter                    @ feed_forward x per task
    mam              = prefix (MLP) @ attention, scaled parallel adapter @ feed_forward x per task

Papers: Houlsby et al. 2019 (arXiv 1902.00751), Pfeiffer et al. 2020 (2005.00247), He et al. 2021
(2110.04366). Default widths are reduction 32 on T5-base; MAM's are those of the `adapters` library
(N=30, m=800, b=d/2 at d=768, s=4).

T5-base, one task: 1,807,488; 903,744; 903,744; 60,390,240. Identity: U = 0 (MAM: and N = 0). References: `adapters` for
counts and on BART, float64 transcriptions on both families.
"""

from __future__ import annotations

from hyperpelt.methods.base import Method, Part, Source
from hyperpelt.methods.baselines import trained_norms
from hyperpelt.methods.registry import method
from hyperpelt.tuners import Adapter, Prefix


@method(
    "houlsby",
    paper="Houlsby adapters, arXiv 1902.00751",
    family="adapters",
    equations="section 2.1, figure 2",
    reference="adapters (counts), transcription",
)
def houlsby(*, bottleneck: int = 24, activation: str = "gelu", train_norms: bool = False) -> Method:
    adapter = Adapter(bottleneck=bottleneck, reads="output", activation=activation)
    part = Part(tuner=adapter, at=("self_attention", "feed_forward"))
    return Method(name="houlsby", parts=(part, *trained_norms(train_norms)))


@method(
    "pfeiffer",
    paper="Pfeiffer adapters (AdapterFusion), arXiv 2005.00247",
    family="adapters",
    reference="adapters (counts), transcription",
)
def pfeiffer(*, bottleneck: int = 24, activation: str = "relu", train_norms: bool = False) -> Method:
    adapter = Adapter(bottleneck=bottleneck, reads="output+residual", activation=activation)
    return Method(name="pfeiffer", parts=(Part(tuner=adapter, at=("feed_forward",)), *trained_norms(train_norms)))


@method(
    "parallel-adapter",
    paper="Parallel adapters, arXiv 2110.04366",
    family="adapters",
    equations="table 1",
    reference="adapters (counts), transcription",
)
def parallel_adapter(
    *,
    bottleneck: int = 24,
    activation: str = "relu",
    scale: float = 1.0,
    learned_scale: bool = False,
    reads: str = "input",
    train_norms: bool = False,
) -> Method:
    adapter = Adapter(
        bottleneck=bottleneck, reads=reads, activation=activation, scale=scale, learned_scale=learned_scale
    )
    return Method(
        name="parallel-adapter", parts=(Part(tuner=adapter, at=("feed_forward",)), *trained_norms(train_norms))
    )


@method(
    "mam",
    paper="MAM adapter, arXiv 2110.04366",
    family="combinations",
    equations="table 1; section 4.6",
    reference="adapters",
)
def mam(
    *,
    prefix_length: int = 30,
    prefix_hidden: int = 800,
    bottleneck: int = 384,
    activation: str = "relu",
    scale: float = 4.0,
) -> Method:
    adapter = Adapter(bottleneck=bottleneck, reads="input", activation=activation, scale=scale)
    parts = (
        Part(tuner=Prefix(length=prefix_length), at=("attention",), source="prefix_mlp"),
        Part(tuner=adapter, at=("feed_forward",)),
    )
    return Method(name="mam", parts=parts, sources={"prefix_mlp": Source(type="per_task", hidden=prefix_hidden)})
