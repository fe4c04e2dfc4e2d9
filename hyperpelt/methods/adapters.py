"""Bottleneck adapters with tensors of their own: Houlsby, Pfeiffer, parallel.

    houlsby          = sequential adapter, reads OP(x)     @ self_attention, feed_forward x per task
    pfeiffer         = sequential adapter, reads OP(x) + h @ feed_forward x per task
    parallel-adapter = parallel adapter                    @ feed_forward x per task

Papers: Houlsby et al. 2019 (arXiv 1902.00751), Pfeiffer et al. 2020 (2005.00247), He et al. 2021
(2110.04366). Default widths are reduction 32 on T5-base. Houlsby et al. train the layer norms too (`train_norms:
true`).

T5-base, one task: 1,807,488; 903,744; 903,744. Identity: U = 0. References: `adapters` for counts and on BART, float64
transcriptions on both families.
"""

from __future__ import annotations

from hyperpelt.methods.base import Method, Part
from hyperpelt.methods.baselines import trained_norms
from hyperpelt.methods.registry import method
from hyperpelt.tuners import Adapter


@method(
    "houlsby",
    paper="Houlsby adapters, arXiv 1902.00751",
    family="adapters",
    equations="section 2.1, figure 2",
    reference="adapters (counts), transcription",
)
def houlsby(*, bottleneck: int = 24, activation: str = "gelu", train_norms: bool = False) -> Method:
    """Houlsby's adapters; **bottleneck**: inner width; **train_norms**: also the layer norms, once for all tasks."""
    adapter = Adapter(bottleneck=bottleneck, reads="output", activation=activation)
    part = Part(tuner=adapter, at=("self_attention", "feed_forward"))
    return Method(name="houlsby", parts=(part, *trained_norms(train_norms)))


@method(
    "pfeiffer",
    paper="Pfeiffer adapters (AdapterFusion), arXiv 2005.00247",
    family="adapters",
    equations="section 2.2.3, appendix A.2",
    reference="adapters (counts), transcription",
)
def pfeiffer(*, bottleneck: int = 24, activation: str = "relu", train_norms: bool = False) -> Method:
    """Pfeiffer's adapters; settings as in `houlsby`."""
    adapter = Adapter(bottleneck=bottleneck, reads="output+residual", activation=activation)
    return Method(name="pfeiffer", parts=(Part(tuner=adapter, at=("feed_forward",)), *trained_norms(train_norms)))


@method(
    "parallel-adapter",
    paper="Parallel adapters, arXiv 2110.04366",
    family="adapters",
    equations="section 3.3, table 1",
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
    """Parallel adapters, times **scale** (**learned_scale**: a trained one); **reads**: as an `Adapter`'s."""
    adapter = Adapter(
        bottleneck=bottleneck, reads=reads, activation=activation, scale=scale, learned_scale=learned_scale
    )
    return Method(
        name="parallel-adapter", parts=(Part(tuner=adapter, at=("feed_forward",)), *trained_norms(train_norms))
    )
