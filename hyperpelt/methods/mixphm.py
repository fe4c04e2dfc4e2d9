"""MixPHM (Jiang & Zheng 2023, arXiv 2303.01239): PHM adapters with several up-projections, drawn in training.

    mixphm = PHM adapter of 4 experts @ feed_forward x per task, and a course that draws one a place and step

The expert is drawn once a step, not once a forward, so that however a batch is divided it meets the same one. Rank 8,
n = 4, b = 64, dropout 0.5, redundancy weight 0.2 as in the authors' code.

T5-base, one task: 874,048. Identity: near it, as the rules are N(0, 1e-4^2). Reference: float64 transcription.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch

from hyperpelt.methods.base import Method, Part
from hyperpelt.methods.course import Course, Moment, course_type
from hyperpelt.methods.registry import method
from hyperpelt.tuners import PHMAdapter


@course_type
@dataclass(frozen=True, kw_only=True)
class OneOfMany(Course):
    """Before each step, one entry of each of a part's `tensor` states is drawn to be 1, the others are 0."""

    type_name: ClassVar[str] = "one_of_many"
    tensor: str = "draw"

    def begin(self, now: Moment) -> None:
        self.after_step(now)

    @torch.no_grad()
    def after_step(self, now: Moment) -> None:
        generator = now.generator()
        for group, values in now.states(self.part).get(self.tensor, []):
            chosen = torch.randint(values.shape[-1], (len(group.places),), generator=generator)
            values.copy_(torch.nn.functional.one_hot(chosen, values.shape[-1]).to(values))


@method("mixphm", paper="MixPHM, arXiv 2303.01239", family="adapters", reference="transcription")
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
    shape = {"bottleneck": bottleneck, "divisions": divisions, "rank": rank, "experts": experts}
    adapter = PHMAdapter(**shape, activation=activation, dropout=dropout, redundancy=redundancy)
    part = Part(name="experts", tuner=adapter, at=("feed_forward",))
    courses = (OneOfMany(part="experts"),) if experts > 1 else ()
    return Method(name="mixphm", parts=(part,), courses=courses)
