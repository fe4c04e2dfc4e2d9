"""What one process of a run holds, and the largest batch that fits into a memory.

Everything but the batch's own bytes stands whatever the batch is; those grow evenly with rows of full length once as
many tasks are mixed as there are, so two measured batches tell any other.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from hyperpelt.planning.step import StepCosts

MOST = 65536  # rows


@dataclass(frozen=True)
class Spread:
    """How processes share: `none`, `ddp` (each holds all) or `fsdp` (layers of the frozen backbone are sharded, its
    embeddings are not)."""

    processes: int = 1
    fsdp: bool = False

    def held(self, costs: StepCosts) -> int:
        """The most bytes that one process holds at once."""
        if not self.fsdp or self.processes == 1:
            return costs.peak
        gathered = 2 * costs.largest_layer  # the one that computes, and the next one on its way
        return costs.peak - costs.sharded + costs.sharded // self.processes + gathered

    def sent(self, costs: StepCosts) -> int:
        """Bytes that one process sends in a step: gradients summed over a ring, and frozen layers gathered twice."""
        others = (self.processes - 1) / self.processes
        gathered = 2 * costs.sharded if self.fsdp else 0
        return int(others * (2 * costs.gradients + gathered))


def largest_batch(held: Callable[[int], int], memory: int, *, start: int, other: int | None = None) -> int:
    """Rows of the largest batch a process holds in `memory` bytes; 0 if not even one row fits.

    - **held**: bytes that a process holds with so many rows; **start**: rows from which on a batch mixes all it can
    - **other**: rows of the second batch that is measured, more than `start`; None: twice as many
    """
    more = other or 2 * start
    few = held(start)
    a_row = max(1, (held(more) - few) // (more - start))
    if few > memory:  # fewer rows may also mix fewer tasks
        return next((rows for rows in range(start - 1, 0, -1) if held(rows) <= memory), 0)
    return min(MOST, start + (memory - few) // a_row)
