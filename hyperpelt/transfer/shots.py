"""Which rows a cell learns from, and in which order: all of it a pure function of the seed."""

from __future__ import annotations

import random
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import Int

from hyperpelt.data import RowBatch
from hyperpelt.tasks import sample_shots
from hyperpelt.transfer.settings import FEWEST

if TYPE_CHECKING:
    from hyperpelt.tasks import Task


@dataclass(frozen=True)
class Shots:
    """Rows of the training split by number: those that are learned from, and those kept aside to choose by."""

    learned: tuple[int, ...]
    held_out: tuple[int, ...] = ()


def choose_shots(
    task: Task, k: int, *, seed: int, balanced: bool, hold_out: bool, data_root: str | Path | None = None
) -> Shots:
    """k rows; of them a quarter (rounded down: none of three) is held out where that is asked for.

    Nothing beyond the k rows is ever looked at.
    """
    rows = sample_shots(task, k, seed=seed, balanced=balanced, data_root=data_root)
    if not hold_out:
        return Shots(tuple(rows))
    examples = task.examples("train", data_root=data_root)
    groups: dict[str, list[int]] = defaultdict(list)
    for row in rows:  # of a classification each choice gives its part
        groups[examples[row].target if task.kind == "classification" and task.choices else ""].append(row)
    generator = random.Random(f"{task.name} {seed} held out")
    # Of each row its place within its group, 0..1: the lowest quarter of them has every group's share.
    places: list[tuple[float, float, int]] = []
    for _, members in sorted(groups.items()):
        drawn = generator.sample(members, len(members))
        places += [((place + 0.5) / len(drawn), generator.random(), row) for place, row in enumerate(drawn)]
    held_out = [row for _, _, row in sorted(places)[: len(rows) // FEWEST]]
    return Shots(tuple(row for row in rows if row not in held_out), tuple(sorted(held_out)))


@dataclass(frozen=True)
class ShotSampler:
    """Batches of a task's shots, for `hyperpelt.data.MicroBatches`: each pass over them in a new order."""

    task: str
    rows: Sequence[int]
    batch_size: int
    seed: int

    @property
    def names(self) -> list[str]:
        return [self.task]

    def batch(self, step: int) -> RowBatch:
        """The rows of optimiser step `step`; a batch may reach into the next pass. No more rows than there are."""
        size = min(self.batch_size, len(self.rows))
        places = range(step * size, (step + 1) * size)
        rows = np.asarray([self._pass(place // len(self.rows))[place % len(self.rows)] for place in places])
        return RowBatch(np.zeros(size, np.int64), rows)

    def _pass(self, number: int) -> Int[np.ndarray, " k"]:
        return np.random.default_rng([self.seed, number]).permutation(np.asarray(self.rows))

    def in_order(self) -> list[RowBatch]:
        """All rows once, as they come."""
        rows = np.asarray(self.rows)
        parts = [rows[start : start + self.batch_size] for start in range(0, len(rows), self.batch_size)]
        return [RowBatch(np.zeros(len(part), np.int64), part) for part in parts]
