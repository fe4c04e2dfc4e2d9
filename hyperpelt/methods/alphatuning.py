"""AlphaTuning (Kwon et al. 2022, arXiv 2210.03858): a backbone of binary codes, tuned by the scales of the first plane.

    alphatuning = code scales @ projections x per task

Every projection of the model's own copy of the backbone becomes `bits` planes of -1 and +1, which are saved packed with
the run: a run needs nothing but embeddings and norms of its backbone. 3 bits and 5 rounds of alternating least squares;
the authors find the greedy start as good (`rounds: 0`), and divide the gradient of alpha by the width that is read.

T5-base, one task: 202,752. Start: the coded backbone, bit for bit. Reference: float64 transcription.
"""

from __future__ import annotations

from hyperpelt.methods.base import Method, Part
from hyperpelt.methods.registry import method
from hyperpelt.tuners import CodeScale


@method(
    "alphatuning",
    paper="AlphaTuning, arXiv 2210.03858",
    family="weights",
    equations="eqs. 1, 2, section 4",
    reference="transcription",
)
def alphatuning(*, bits: int = 3, rounds: int = 5, at: tuple[str, ...] = ("projections",)) -> Method:
    """AlphaTuning; **bits**: planes a weight; **rounds**: of alternating least squares, when the backbone is coded."""
    part = Part(name="scales", tuner=CodeScale(bits=bits, rounds=rounds), at=tuple(at))
    return Method(name="alphatuning", parts=(part,))
