"""MAM adapter (He et al. 2021, arXiv 2110.04366): a prefix and a scaled parallel adapter.

    mam = prefix (MLP) @ attention, scaled parallel adapter @ feed_forward x per task

Sizes are those of the `adapters` library (N=30, m=800, b=d/2 at d=768, s=4), which are the paper's on BART-large
(N=30, b=512, s=4).

T5-base, one task: 60,390,240. Identity: U = 0 and N = 0. Reference: `adapters` for counts and on BART, float64
transcription on both families.
"""

from __future__ import annotations

from hyperpelt.methods.base import Method, Part, Source
from hyperpelt.methods.registry import method
from hyperpelt.tuners import Adapter, Prefix


@method(
    "mam",
    paper="MAM adapter, arXiv 2110.04366",
    family="combinations",
    equations="section 4.6, table 1",
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
    """MAM; **prefix_hidden**: inner width of the MLP that makes the rows; **scale**: of the adapter's output."""
    adapter = Adapter(bottleneck=bottleneck, reads="input", activation=activation, scale=scale)
    parts = (
        Part(tuner=Prefix(length=prefix_length), at=("attention",), source="prefix_mlp"),
        Part(tuner=adapter, at=("feed_forward",)),
    )
    return Method(name="mam", parts=parts, sources={"prefix_mlp": Source(type="per_task", hidden=prefix_hidden)})
