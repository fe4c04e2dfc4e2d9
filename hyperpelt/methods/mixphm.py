"""MixPHM (Jiang & Zheng 2023, arXiv 2303.01239): PHM adapters with several up-projections, drawn in training.

    mixphm = PHM adapter of 4 experts @ feed_forward x per task, and a course that draws one a place and step

The expert is drawn once a step, not once a forward (`hyperpelt.methods.courses.drawing`). Rank 8, n = 4, b = 64,
dropout 0.5, redundancy weight 0.2 as in the authors' code.

T5-base, one task: 874,048. Identity: near it, as the rules are N(0, 1e-4^2). Reference: float64 transcription.
"""

from __future__ import annotations

from hyperpelt.methods.base import Method, Part
from hyperpelt.methods.courses.drawing import OneOfMany
from hyperpelt.methods.registry import method
from hyperpelt.tuners import PHMAdapter


@method("mixphm", paper="MixPHM, arXiv 2303.01239", family="adapters", equations="its code", reference="transcription")
def mixphm(
    *,
    experts: int = 4,
    bottleneck: int = 64,
    divisions: int = 4,
    rank: int = 8,
    activation: str = "gelu_new",
    dropout: float = 0.5,
    redundancy: float = 0.2,
) -> Method:
    """MixPHM; **experts**: up-projections, one of which is drawn a step; **divisions**, **rank**: as in `compacter`.

    - **dropout**: of the hidden layer, in training; **redundancy**: weight of the penalty
    """
    shape = {"bottleneck": bottleneck, "divisions": divisions, "rank": rank, "experts": experts}
    adapter = PHMAdapter(**shape, activation=activation, dropout=dropout, redundancy=redundancy)
    part = Part(name="experts", tuner=adapter, at=("feed_forward",))
    courses = (OneOfMany(part="experts"),) if experts > 1 else ()
    return Method(name="mixphm", parts=(part,), courses=courses)
