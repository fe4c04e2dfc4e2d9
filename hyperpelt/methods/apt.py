"""APT (Zhang et al. 2023, arXiv 2305.15212): a prefix whose rows and layers are weighted by what a row begins with.

    apt = adaptive prefix @ attention x per task

T5-base, one task, N = 10: 829,476, of which 276,516 are gates. Start: every row at half its weight; N = 0 is the
backbone. Reference: float64 transcription.
"""

from __future__ import annotations

from hyperpelt.methods.base import Method, Part
from hyperpelt.methods.registry import method
from hyperpelt.tuners import AdaptivePrefix


@method(
    "apt",
    paper="Adaptive prefix tuning, arXiv 2305.15212",
    family="prefixes, prompts",
    equations="figure 1",
    reference="transcription",
)
def apt(*, prefix_length: int = 10, init: str = "quiet") -> Method:
    """APT; **prefix_length**: rows N at each attention; **init**: as in `hyperpelt.tuners.Prefix`."""
    part = Part(name="prefix", tuner=AdaptivePrefix(length=prefix_length, init=init), at=("attention",))
    return Method(name="apt", parts=(part,))
