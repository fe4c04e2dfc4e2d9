"""TAPS (Wallingford et al. 2022, arXiv 2203.16708): each task finds the layers that it needs of its own.

    taps = delta @ projections x per task, counted where the operation's score s is at least 0.1

Scores start at 0.15 and are pulled down by a penalty, sparsity * mean |s| over operations; where one is below the
threshold the task shares the frozen layer, bit for bit. The step's gradient goes straight through to s. The paper
tunes images' networks; here a layer is a projection, and the penalty acts from the first step (the authors' code waits
two epochs).

T5-base, one task: 198,180,864 values of all projections and 192 scores, of which counts what the scores leave open.
Identity: D = 0. Merges. Reference: float64 transcription.
"""

from __future__ import annotations

from hyperpelt.methods.base import Method, Part
from hyperpelt.methods.registry import method
from hyperpelt.tuners import Delta


@method("taps", paper="TAPS, arXiv 2203.16708", family="weights", equations="its code", reference="transcription")
def taps(
    *, sparsity: float = 1.0, threshold: float = 0.1, start: float = 0.15, at: tuple[str, ...] = ("projections",)
) -> Method:
    """TAPS; **sparsity**: weight of the scores' penalty; **threshold**, **start**: of the scores."""
    tuner = Delta(threshold=threshold, start=start, sparsity=sparsity)
    return Method(name="taps", parts=(Part(tuner=tuner, at=tuple(at)),))
