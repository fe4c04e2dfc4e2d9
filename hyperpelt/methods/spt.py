"""SPT (He et al. 2023, arXiv 2303.08566): first where the task is sensitive, then only there.

    spt = entries @ projections, norms x per task, and a course that chooses them before training begins

Sensitivity of a weight: the sum of its squared gradients over the first batches. The most sensitive weights of all are
taken, as many as the budget allows. A matrix of which at least a fifth of LoRA's own size was taken gets LoRA instead,
a vector (norm, bias) of which at least a fifth was taken is trained whole, as in the authors' code; what they cost
counts. The choice is one for all tasks, and the model becomes a composition of these parts: that is what is saved.

T5-base, one task: at most 396,302 (0.2 % of the weights; the paper's budgets are 0.2 to 1.0 M). Identity: no change,
LoRA's B = 0. Merges. Reference: float64 transcription of the choice and of the change.
"""

from __future__ import annotations

from hyperpelt.methods.base import Method, Part
from hyperpelt.methods.courses.sensitivity import Sensitive
from hyperpelt.methods.registry import method
from hyperpelt.tuners import Entries


@method("spt", paper="SPT, arXiv 2303.08566", family="weights", equations="its code", reference="transcription")
def spt(
    *, share: float = 0.002, rank: int = 8, batches: int = 8, ratio: float = 5.0,
    at: tuple[str, ...] = ("projections", "norms"),
) -> Method:  # fmt: skip
    """SPT; **share**: of the weights there that the budget allows; others as in `courses.sensitivity.Sensitive`."""
    part = Part(name="entries", tuner=Entries(share=share), at=tuple(at))
    course = Sensitive(part="entries", rank=rank, batches=batches, ratio=ratio)
    return Method(name="spt", parts=(part,), courses=(course,))
