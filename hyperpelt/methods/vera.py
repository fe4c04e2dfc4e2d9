"""VeRA (Kopiczko et al. 2023, arXiv 2310.11454): vectors that scale a frozen random low-rank delta.

    vera = scaled random projection @ q, v x per task

The random matrices are drawn from the model's seed and saved as that seed; all operations of one shape share them
(the paper has one shape).

T5-base, r = 256, one task: 73,728. Identity: b = 0. Reference: peft.
"""

from __future__ import annotations

from hyperpelt.methods.base import Method, Part
from hyperpelt.methods.registry import method
from hyperpelt.tuners import VeRA


@method("vera", paper="VeRA, arXiv 2310.11454", family="weights", equations="section 3, eq. 2", reference="peft")
def vera(*, rank: int = 256, start: float = 0.1, at: tuple[str, ...] = ("q", "v")) -> Method:
    """VeRA; **rank**: of the frozen matrices; **start**: of the vector d inside."""
    return Method(name="vera", parts=(Part(tuner=VeRA(rank=rank, start=start), at=tuple(at)),))
