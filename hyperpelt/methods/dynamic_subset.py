"""Dynamic Subset Tuning (Stahlberg, Lichtarge & Kumar 2024, arXiv 2411.08610): which weights differ is chosen anew.

    dynamic-subset = delta @ projections, shift @ norms x per task, and a course that projects after each step

Every weight gets a gradient and moves; then the course keeps, of each tensor at each operation (the paper's silo), the
share that is farthest from the frozen model, and sets the others back to it. So between steps, and in whatever is
saved, a task is a share of positions with their values; in training it costs what full fine-tuning does. Embeddings
and position biases stay frozen. With share 1 it is full fine-tuning of what it touches.

T5-base, one task: 198,228,480 values move, of which 0.5 % (991,050) differ. Identity: D = 0. Merges. Reference: float64
transcription; requires_grad on the backbone's own weights for share 1.
"""

from __future__ import annotations

from hyperpelt.methods.base import Method, Part
from hyperpelt.methods.courses.farthest import FarthestShare
from hyperpelt.methods.registry import method
from hyperpelt.tuners import Delta, Norm


@method("dynamic-subset", paper="Dynamic Subset Tuning, arXiv 2411.08610", family="weights", reference="transcription")
def dynamic_subset(*, share: float = 0.005, train_norms: bool = True, at: tuple[str, ...] = ("projections",)) -> Method:
    """Dynamic Subset Tuning; **share**: of each tensor's entries that differ from the backbone's after every step."""
    parts = [Part(name="weights", tuner=Delta(), at=tuple(at))]
    parts += [Part(name="norms", tuner=Norm(), at=("norms",))] if train_norms else []
    return Method(
        name="dynamic-subset",
        parts=tuple(parts),
        courses=tuple(FarthestShare(part=part.name, share=share) for part in parts),
    )
