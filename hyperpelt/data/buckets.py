"""Few shapes: the padded lengths of a compiled run.

A compiled step stands for one shape. Lengths of real rows differ in every batch, so sources are padded to a quarter, a
half, three quarters or the whole of the longest that a run allows, and targets to a quarter or the whole: at most eight
shapes, hence eight graphs, however long the run.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

SOURCES, TARGETS = 4, (1, 4)  # of SOURCES parts of the longest source; the parts, of four, of the longest target
MULTIPLE = 8  # what lengths are padded to: fewer shapes, and strides that attention kernels take without a copy


@dataclass(frozen=True)
class Buckets:
    """**sources** and **targets**: the lengths to which a batch is padded, rising; none: to the next multiple of 8."""

    sources: tuple[int, ...] = ()
    targets: tuple[int, ...] = ()

    @classmethod
    def of(cls, longest_source: int, longest_target: int) -> Buckets:
        """Those of a run whose rows have at most so many tokens."""
        sources = _parts(longest_source, range(1, SOURCES + 1))
        return cls(sources, _parts(longest_target, TARGETS))

    @property
    def most(self) -> int:
        """How many shapes a batch may have; 0 if any number."""
        return len(self.sources) * len(self.targets)

    def __str__(self) -> str:
        sources, targets = (", ".join(map(str, each)) for each in (self.sources, self.targets))
        return f"sources of {sources} x targets of {targets} tokens"


def _parts(longest: int, quarters: Sequence[int]) -> tuple[int, ...]:
    return tuple(sorted({rounded(longest * part / 4) for part in quarters}))


def rounded(length: float, multiple: int = MULTIPLE, among: Sequence[int] = ()) -> int:
    """The least of `among` that is as long, else the next multiple."""
    return next((each for each in among if each >= length), int(-(-length // multiple) * multiple))
