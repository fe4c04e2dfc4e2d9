"""How train, validation and test come out of a source's own splits, without a leak.

A `Part` is a stretch of one source split after a seeded shuffle; `Splits` names one part for each of train, validation
and test, and refuses at construction any two parts that could share a row. Rows that agree in the columns `by` (case,
spacing and punctuation apart) always fall into the same part: a text that occurs twice is never trained on and
tested on, and all answers of one paragraph stay together.

The two protocols of HyperFormer (Karimi Mahabadi et al. 2021, arXiv 2106.04489), which HyperPELT reuses:

    Splits.halved()          small sets: the validation split is halved into validation and test
    Splits.held_out(1000)    large sets: 1,000 rows leave train and become validation; the validation split is the test
"""

from __future__ import annotations

from collections import deque
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from hyperpelt.errors import UserError, unknown

SPLITS = ("train", "validation", "test")
Bound = int | float


@dataclass(frozen=True)
class Part:
    """The stretch [start, stop) of the shuffled source split `split`.

    A bound is a number of rows (int) or a share of them (float in 0..1); stop None is the end. The whole split is not
    shuffled. Rows come in the order of the source.
    """

    split: str
    start: Bound = 0
    stop: Bound | None = None

    def __post_init__(self) -> None:
        for bound in (self.start, self.stop):
            if bound is not None and (bound < 0 or (isinstance(bound, float) and bound > 1.0)):
                raise UserError(f"A bound of part {self!r} is {bound}: expected a row count or a share in 0..1.")
        same_unit = isinstance(self.start, float) == isinstance(self.stop, float)
        if self.stop is not None and (self.start == 0 or same_unit) and self.stop <= self.start:
            raise UserError(f"Part {self!r} is empty: its stop must lie above its start.")

    @property
    def whole(self) -> bool:
        """Whether it is all of its split."""
        return self.start == 0 and self.stop is None

    def __str__(self) -> str:
        stop = "" if self.stop is None else self.stop
        return self.split if self.whole else f"{self.split}[{self.start or ''}:{stop}]"

    def disjoint(self, other: Part) -> bool:
        """True if no row can be in both, whatever the size of the source split."""
        return self.split != other.split or self._ends_before(other) or other._ends_before(self)

    def _ends_before(self, other: Part) -> bool:
        if self.stop is None or other.start == 0:
            return False
        return isinstance(self.stop, float) == isinstance(other.start, float) and self.stop <= other.start

    def bounds(self, num_rows: int) -> tuple[int, int]:
        """The stretch in rows of a source split of `num_rows` rows."""
        stop = num_rows if self.stop is None else _rows(self.stop, num_rows)
        return _rows(self.start, num_rows), stop


def _rows(bound: Bound, num_rows: int) -> int:
    return int(bound * num_rows) if isinstance(bound, float) else bound


@dataclass(frozen=True, kw_only=True)
class Splits:
    """Where a task's train, validation and test rows come from.

    train, validation, test: a `Part`, or the name of a whole source split, or None (the task has no such split).
    by: columns (dotted paths reach into structs); rows equal in all of them are never parted. Empty: each row for
        itself.
    drop: {column: value}: rows with this value are left out before anything else, such as {"label": -1} for rows
        without a gold label. A value is compared as text (1 and "1" are one); None, NaN and "" all mean that it
        is missing.
    seed: of the shuffle before a source split is cut.
    """

    train: Part | str | None = "train"
    validation: Part | str | None = "validation"
    test: Part | str | None = "test"
    by: tuple[str, ...] = ()
    drop: tuple[tuple[str, Any], ...] | Mapping[str, Any] = ()
    seed: int = 42

    def __post_init__(self) -> None:
        for name in SPLITS:
            part = getattr(self, name)
            object.__setattr__(self, name, Part(part) if isinstance(part, str) else part)
        object.__setattr__(self, "by", (self.by,) if isinstance(self.by, str) else tuple(self.by))
        if isinstance(self.drop, Mapping):
            object.__setattr__(self, "drop", tuple(self.drop.items()))
        self._refuse_overlap()

    def _refuse_overlap(self) -> None:
        parts = [(name, self.part(name)) for name in self.names()]
        if not parts:
            raise UserError("Splits name no split at all: give at least one of train, validation, test.")
        for i, (first, one) in enumerate(parts):
            for second, other in parts[i + 1 :]:
                if not one.disjoint(other):
                    raise UserError(
                        f"Splits {first} ({one}) and {second} ({other}) share rows. Use Splits.halved, Splits.held_out "
                        f"or parts of which one ends where the other starts."
                    )

    @classmethod
    def halved(cls, source: str = "validation", *, train: str = "train", **options: Any) -> Splits:
        """Small sets: source split `source` halved into validation and test (HyperFormer's rule below 10,000 rows)."""
        return cls(train=train, validation=Part(source, 0, 0.5), test=Part(source, 0.5), **options)

    @classmethod
    def held_out(
        cls, rows: Bound = 1000, *, train: str = "train", test: str | None = "validation", **options: Any
    ) -> Splits:
        """Large sets: `rows` of `train` (a count, or a share as float) become validation and leave train."""
        return cls(train=Part(train, rows), validation=Part(train, 0, rows), test=test, **options)

    @classmethod
    def fractions(cls, source: str = "train", *, validation: float = 0.1, test: float = 0.1, **options: Any) -> Splits:
        """A source with one split only: shares of it for validation and test, the rest for train."""
        middle = validation + test
        return cls(
            validation=Part(source, 0, validation),
            test=Part(source, validation, middle),
            train=Part(source, middle),
            **options,
        )

    def names(self) -> tuple[str, ...]:
        """The splits that exist, in the order train, validation, test."""
        return tuple(name for name in SPLITS if getattr(self, name) is not None)

    def part(self, name: str) -> Part:
        """Where a split's rows come from; a UserError that names the nearest for one that there is not."""
        if name not in self.names():
            raise unknown("split", name, self.names())
        part = getattr(self, name)
        assert isinstance(part, Part)
        return part

    def indices(self, name: str, keys: Sequence[Hashable] | range) -> list[int] | None:
        """Row numbers of split `name` in its source split, ascending; None for all of them.

        keys: one for each row of the source split: rows of equal key stay together (`range(n)`: each for itself).

        Raises UserError if the source split is too small for its parts.
        """
        part = self.part(name)
        if part.whole:
            return None
        siblings = [self.part(other) for other in self.names() if self.part(other).split == part.split]
        for sibling in siblings:
            self._check_size(sibling, len(keys))
        start, stop = part.bounds(len(keys))
        edges = sorted({edge for sibling in siblings for edge in sibling.bounds(len(keys))} | {0, len(keys)})
        segments = cut(keys, edges[1:], seed=self.seed)
        mine = [segment for edge, segment in zip(edges, segments, strict=False) if start <= edge < stop]
        return sorted(row for segment in mine for row in segment)

    @staticmethod
    def _check_size(part: Part, num_rows: int) -> None:
        start, stop = part.bounds(num_rows)
        if stop > num_rows or start >= stop:
            held = max(bound for bound in (part.start, part.stop) if bound is not None)
            raise UserError(
                f"source split {part.split!r} has {num_rows} rows: too few to hold out {held} of them and keep others. "
                f"Use a larger copy of the data, or a smaller hold-out."
            )


def cut(keys: Sequence[Hashable] | range, edges: Sequence[int], *, seed: int) -> list[list[int]]:
    """Shuffle rows in groups of equal key and deal them into consecutive segments that end at `edges`.

    keys: one a row. edges: ascending row counts, the last one len(keys) to deal all rows. A group that does not fit in
    what is left of a segment waits for the next one, so segments have exactly the asked size wherever single rows can
    fill them, and at most that size otherwise. NumPy's RandomState is used because its stream is frozen: one seed, the
    same split on every machine.
    """
    import numpy as np

    shuffle = np.random.RandomState(seed).permutation
    if isinstance(keys, range):
        order = shuffle(len(keys)).tolist()
        return [order[start:edge] for start, edge in zip([0, *edges], edges, strict=False)]
    groups: dict[Hashable, list[int]] = {}
    for row, key in enumerate(keys):
        groups.setdefault(key, []).append(row)
    members = list(groups.values())
    waiting = deque(members[i] for i in shuffle(len(members)))
    segments: list[list[int]] = []
    dealt = 0
    for edge in edges:
        segment, waiting = _fill(waiting, edge - dealt)
        dealt += len(segment)
        segments.append(segment)
    return segments


def _fill(waiting: deque[list[int]], room: int) -> tuple[list[int], deque[list[int]]]:
    """Take groups in order while they fit; a segment that none fits is given one all the same."""
    segment: list[int] = []
    passed: deque[list[int]] = deque()
    while waiting and len(segment) < room:
        group = waiting.popleft()
        if len(segment) + len(group) <= room:
            segment += group
        else:
            passed.append(group)
    if room > 0 and not segment and passed:
        segment += passed.popleft()
    passed.extend(waiting)
    return segment, passed
