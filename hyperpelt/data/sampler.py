"""Which row of which task at each optimiser step: global batches as a pure function of the step.

`MixtureSampler` depends on (seed, rates, sizes, optimiser step) and on nothing else: not on workers, processes or
accumulation. It yields *global* batches; `slice_batch` cuts out what one process computes in one accumulation step. So
one batch of 16, four accumulated batches of 4 and two processes of 8 train on the same 16 rows, and any step can be
resumed without replaying the ones before it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol
from zlib import crc32

import numpy as np
from jaxtyping import Int

from hyperpelt.errors import UserError

TOGETHER = 4096  # windows counted at once: a long run may have a million


@dataclass(frozen=True)
class RowBatch:
    """Rows of one batch: `tasks[i]` is an index into the sampler's task names, `rows[i]` a row of that task's split."""

    tasks: Int[np.ndarray, " B"]
    rows: Int[np.ndarray, " B"]

    def __getitem__(self, part: slice) -> RowBatch:
        return RowBatch(self.tasks[part], self.rows[part])

    def __len__(self) -> int:
        return len(self.rows)


def slice_batch(batch: RowBatch, *, micro: int, num_micro: int, rank: int, world: int) -> RowBatch:
    """What process `rank` of `world` computes in accumulation step `micro` of a global batch.

    A micro-batch is a contiguous run (rows of like length, as the sampler sorts them), dealt out to the processes in
    turn, so that all of them pad to the same length and none waits for another.
    """
    size = len(batch) // num_micro
    return batch[micro * size : (micro + 1) * size][slice(rank, None, world)]


class Draws(Protocol):
    """What `MicroBatches` asks of a sampler: the rows of each step, whose tasks are places in `names`."""

    @property
    def names(self) -> Sequence[str]:
        """Tasks."""
        ...

    @property
    def seed(self) -> int:
        """Of all its draws."""
        ...

    def batch(self, step: int) -> RowBatch:
        """The rows of the global batch of a step, counted from 0: the same whenever it is asked for."""
        ...


class Held(Protocol):
    """A stream of rows, some of which are there."""

    def hold(self, start: int, stop: int) -> None:
        """Have the rows from `start` to before `stop` there, and let earlier ones go."""
        ...


@dataclass
class MixtureSampler:
    """Global batches of (task, row), drawn by rate; deterministic in the seed.

    Rows of a task are drawn without replacement; each pass through them (epoch) has its own order. Shares are drawn
    systematically: in every window of `window` batches each task gets its expected number of rows, give or take one.
    Batches are cut from one window's rows sorted by length, and come in random order. `window=1` sorts nothing. With
    one task a batch, a window holds so many batches for each task on average. The last window ends with the run, so
    that one epoch of one task sees each row once.

    rates: task -> probability. lengths: task -> tokens of each row (of those that `rows` names; before they are known,
    any array of as many). batching: 'mixed', or 'one_task' a batch.
    total: steps of the run, None if it has no end. streams: of tasks whose rows come in an order of their own, what has
    to be told which draws are needed next; a row is then the number of its draw.
    """

    rates: Mapping[str, float]
    lengths: Mapping[str, Int[np.ndarray, " N"]]
    batch_size: int
    seed: int = 0
    batching: str = "mixed"
    window: int = 32
    total: int | None = None
    step: int = 0
    streams: Mapping[str, Held] = field(default_factory=dict)
    _orders: dict[tuple[int, int], np.ndarray] = field(default_factory=dict, repr=False)
    _window: tuple[int, list[RowBatch]] = field(default_factory=lambda: (-1, list[RowBatch]()), repr=False)
    _counted: tuple[int, Any] = field(default=(0, 0), repr=False)

    def __post_init__(self) -> None:
        self.names = list(self.rates)
        self._span = self.window * (len(self.names) if self.batching == "one_task" and self.window > 1 else 1)
        self._bounds = np.cumsum([self.rates[name] for name in self.names])
        self._bounds /= self._bounds[-1]
        self._phase = np.random.default_rng([self.seed, 1]).random()
        for name in self.names:
            if self.rates[name] > 0 and not len(self.lengths[name]):
                raise UserError(f"{name}: the training split is empty, so nothing can be drawn from it.")

    def __iter__(self) -> Iterator[RowBatch]:
        while self.total is None or self.step < self.total:
            batch = self.batch(self.step)
            self.step += 1
            yield batch

    def batch(self, step: int) -> RowBatch:
        """The global batch of one optimiser step."""
        if self.total is not None and step >= self.total:
            raise IndexError(f"Step {step} of a run of {self.total}.")
        index, offset = divmod(step, self._span)
        if self._window[0] != index:
            self._window = (index, self._make_window(index))
        return self._window[1][offset]

    def rows(self) -> dict[str, Int[np.ndarray, " R"]]:
        """Of each task the rows that a run of `total` steps draws, ascending; they do not depend on lengths."""
        assert self.total is not None, "a run without an end draws every row"
        _, drawn = self._counts((self.total - 1) // self._span)
        tasks = [(task, name) for task, name in enumerate(self.names) if name not in self.streams]
        return {name: np.sort(self._order(task, 0)[: drawn[task]]) for task, name in tasks}

    def state_dict(self) -> dict[str, Any]:
        """The position, and what makes the order: a resumed sampler with other settings would draw other rows."""
        return {"step": self.step, **self._identity()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on where `state` was taken; UserError if it belongs to another order of rows."""
        for key, mine in self._identity().items():
            if state[key] != mine:
                raise UserError(
                    f"The checkpoint was drawn with {key} {state[key]}, this run has {mine}: its rows would not be "
                    "those of the run that was stopped. Resume with the settings of its run.yaml, or start a new run."
                )
        self.step = int(state["step"])

    def _identity(self) -> dict[str, Any]:
        sizes = {name: len(self.lengths[name]) for name in self.names}
        order = {"seed": self.seed, "batch_size": self.batch_size, "batching": self.batching, "window": self.window}
        return {**order, "sizes": sizes, "rates": {name: float(self.rates[name]) for name in self.names}}

    def _make_window(self, index: int) -> list[RowBatch]:
        generator = np.random.default_rng([self.seed, 2, index])
        before, after = self._counts(index)
        for task, name in enumerate(self.names):
            if name in self.streams:
                self.streams[name].hold(int(before[task]), int(after[task]))
        pools = [self._rows(task, before[task], after[task]) for task in range(len(self.names))]
        if self.batching == "one_task":
            batches = [batch for pool in pools for batch in self._cut(pool, generator)]
        else:
            tasks = np.concatenate([pool.tasks for pool in pools])
            batches = self._cut(RowBatch(tasks, np.concatenate([pool.rows for pool in pools])), generator)
        return [batches[place] for place in generator.permutation(len(batches))]

    def _counts(self, index: int) -> tuple[Int[np.ndarray, " tasks"], Int[np.ndarray, " tasks"]]:
        """How many rows each task gave before a window, and has given after it."""
        unit = self.batch_size if self.batching == "one_task" else 1  # rows that are dealt out together
        rest = self._span if self.total is None else min(self._span, self.total - index * self._span)
        before = self._drawn_before(index, self._span * self.batch_size // unit) * unit
        return before, before + self._drawn(np.array([index]), rest * self.batch_size // unit)[0] * unit

    def _drawn_before(self, index: int, size: int) -> Int[np.ndarray, " tasks"]:
        """How many units each task gave in all windows before `index`: exact whole numbers, however they are added up.

        The count goes on from the window that was asked for last, so a run counts each window once; going back, as for
        a resumed step, starts again.
        """
        counted, drawn = self._counted if self._counted[0] <= index else (0, 0)
        drawn = drawn + np.zeros(len(self.names), np.int64)
        for start in range(counted, index, TOGETHER):
            drawn = drawn + self._drawn(np.arange(start, min(start + TOGETHER, index)), size).sum(axis=0)
        self._counted = (index, drawn)
        return drawn

    def _drawn(self, windows: Int[np.ndarray, " W"], size: int) -> Int[np.ndarray, "W tasks"]:
        """How many units each task gives in each window, all of them of `size` units.

        Window w deals out the points (phase_w + i) / size, i < size, over the cumulated rates (systematic sampling);
        the phases follow the golden ratio, so that shares are exact in the long run too.
        """
        phases = (self._phase + windows[:, None] * 0.6180339887498949) % 1.0
        edges = np.clip(np.ceil(size * self._bounds - phases), 0, size).astype(np.int64)
        edges[:, -1] = size
        return np.diff(edges, axis=1, prepend=0)

    def _rows(self, task: int, start: int, stop: int) -> RowBatch:
        """Draws `start` to `stop` of a task: its rows without replacement, epoch after epoch."""
        if self.names[task] in self.streams:
            return RowBatch(np.full(stop - start, task, np.int64), np.arange(start, stop))
        size = len(self.lengths[self.names[task]])
        rows, position = [np.zeros(0, np.int64)], start
        while position < stop:
            epoch, offset = divmod(position, size)
            rows.append(self._order(task, epoch)[offset : offset + stop - position])
            position += len(rows[-1])
        found = np.concatenate(rows)
        return RowBatch(np.full(len(found), task, np.int64), found)

    def _order(self, task: int, epoch: int) -> Int[np.ndarray, " N"]:
        if (task, epoch) not in self._orders:
            for old in [key for key in self._orders if key[0] == task and abs(key[1] - epoch) > 1]:
                del self._orders[old]
            name = self.names[task]
            # Keyed by name: another task in the mixture changes how often these rows come, not their order.
            generator = np.random.default_rng([self.seed, 3, crc32(name.encode()), epoch])
            self._orders[task, epoch] = generator.permutation(len(self.lengths[name]))
        return self._orders[task, epoch]

    def _cut(self, pool: RowBatch, generator: np.random.Generator) -> list[RowBatch]:
        """Batches of like length from a pool of rows; rows of equal length in random order."""
        order = generator.permutation(len(pool))
        if self.window > 1 and len(pool):
            tokens = np.empty(len(pool), np.int64)
            for task in np.unique(pool.tasks):
                mine = pool.tasks == task
                tokens[mine] = self.lengths[self.names[task]][pool.rows[mine]]
            order = order[np.argsort(tokens[order], kind="stable")]
        cuts = [order[start : start + self.batch_size] for start in range(0, len(pool), self.batch_size)]
        return [RowBatch(pool.tasks[cut], pool.rows[cut]) for cut in cuts]
