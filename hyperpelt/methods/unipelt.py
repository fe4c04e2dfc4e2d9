"""UniPELT (Mao et al. 2021, arXiv 2110.07577): prefix, sequential adapter and LoRA, each behind a trained gate.

    unipelt = gate(prefix) @ attention, gate(adapter) @ feed_forward, gate(LoRA) @ q, v x per task

N=10 with an MLP of m=512, b=48 (reduction 16 on T5-base), r=8; LoRA's gate replaces its scaling. Gates average over
real positions in the encoder and are per position in the decoder (the authors' average over padding and the future).

T5-base, one task: 32,346,372. Identity: adapter and LoRA start at nothing. Reference: float64 transcription.
"""

from __future__ import annotations

from hyperpelt.methods.base import Method, Part, Source
from hyperpelt.methods.registry import method
from hyperpelt.tuners import Adapter, Gate, LoRA, Prefix


@method(
    "unipelt",
    paper="UniPELT, arXiv 2110.07577",
    family="combinations",
    equations="section 3.2",
    reference="adapters, transcription",
)
def unipelt(*, prefix_length: int = 10, prefix_hidden: int = 512, bottleneck: int = 48, rank: int = 8) -> Method:
    """UniPELT; **prefix_hidden**: of the MLP that makes the prefix; **bottleneck**, **rank**: of adapter and LoRA."""
    adapter = Adapter(bottleneck=bottleneck, reads="output+residual", activation="relu")
    parts = (
        Part(name="prefix", tuner=Gate(tuner=Prefix(length=prefix_length)), at=("attention",), source="prefix_mlp"),
        Part(name="adapter", tuner=Gate(tuner=adapter), at=("feed_forward",)),
        Part(name="lora", tuner=Gate(tuner=LoRA(rank=rank)), at=("q", "v")),
    )
    return Method(name="unipelt", parts=parts, sources={"prefix_mlp": Source(type="per_task", hidden=prefix_hidden)})
