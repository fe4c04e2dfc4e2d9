"""What is remembered of a training step until somebody looks: losses on the device, names on the host.

Nothing here waits for the device before `all_finite` or `task_sums` is called.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from hyperpelt.data import Batch
from hyperpelt.errors import UserError
from hyperpelt.training.checkpoints import list_checkpoints

ROWS_NAMED = 8

# The first bad step, the rows whose loss is not finite, and (if it is the gradient alone) all rows of the step.
Bad = tuple[int, list[str], list[str]]


@dataclass
class StepRecord:
    """One optimiser step on this process: its rows, in the order of its micro-batches, and what they cost."""

    step: int
    names: list[str]
    tasks: Int[np.ndarray, " B"]
    terms: Int[np.ndarray, " B"]  # that its loss is a sum of: target tokens, or, where rows are ranked, one
    row_losses: list[Tensor] = field(default_factory=list)  # one [b] a micro-batch, weighted, on the device
    penalties: dict[str, Tensor] = field(default_factory=dict)  # this process's share of each, on the device
    gradient_norm: Float[Tensor, ""] = field(default_factory=lambda: torch.zeros(()))

    @classmethod
    def of(cls, step: int, batches: Sequence[Batch]) -> StepRecord:
        """A record without losses yet."""
        names = [name for batch in batches for name in batch["row_names"]]
        tasks = torch.cat([batch["task_ids"] for batch in batches]).numpy()
        return cls(step, names, tasks, torch.cat([row_terms(batch) for batch in batches]).numpy())

    def add_penalties(self, rows: Mapping[str, Tensor], num_rows: int) -> None:
        """Note what the rows of a micro-batch add to the loss of a global batch of `num_rows` rows."""
        for name, values in rows.items():
            share = values.detach().sum() / num_rows
            self.penalties[name] = self.penalties[name] + share if name in self.penalties else share


def row_terms(batch: Batch) -> Int[Tensor, " B"]:
    """What each row's loss is a sum of: its target tokens, or 1 where it is a mean already."""
    if "candidates" in batch:
        return torch.ones_like(batch["task_ids"])
    return (batch["labels"] >= 0).sum(dim=1)


def all_finite(records: Sequence[StepRecord]) -> bool:
    """Whether no loss and no gradient is nan or inf; waits for the device once."""
    values = [value for record in records for value in (*record.row_losses, record.gradient_norm[None])]
    return not values or bool(torch.isfinite(torch.cat(values)).all())


def first_bad(records: Sequence[StepRecord]) -> Bad:
    """Where it began."""
    for record in records:
        finite = torch.isfinite(torch.cat(record.row_losses)).tolist()
        if not all(finite) or not bool(torch.isfinite(record.gradient_norm)):
            return record.step, [n for n, good in zip(record.names, finite, strict=True) if not good], record.names
    raise AssertionError("called although every loss is finite")


def task_sums(records: Sequence[StepRecord], num_tasks: int) -> Float[Tensor, "tasks 2"]:
    """Summed loss of every task, and the number of terms in it."""
    losses = torch.cat([loss for record in records for loss in record.row_losses]).cpu().numpy()
    tasks, terms = (np.concatenate([getattr(record, name) for record in records]) for name in ("tasks", "terms"))
    sums = np.zeros((num_tasks, 2))
    np.add.at(sums, tasks, np.stack([losses, terms], axis=1))
    return torch.from_numpy(sums)


def penalty_sums(records: Sequence[StepRecord], names: Sequence[str]) -> Float[Tensor, " names"]:
    """The sum of each penalty over the steps."""
    nothing = torch.zeros(())
    return torch.stack([sum((r.penalties.get(n, nothing).cpu() for r in records), nothing) for n in names])


def not_finite(found: Sequence[Bad | None], checkpoints: Path) -> UserError:
    """The error that ends a run, from what each process found."""
    bads = [bad for bad in found if bad is not None]
    step = min(step for step, _, _ in bads)
    rows = sorted(row for at, bad, _ in bads if at == step for row in bad)
    what = "The loss" if rows else "The gradient"
    rows = rows or sorted(row for at, _, every in bads if at == step for row in every)
    tasks = sorted({row.split()[0] for row in rows})
    more = f" and {len(rows) - ROWS_NAMED} more" if len(rows) > ROWS_NAMED else ""
    saved = list(list_checkpoints(checkpoints).values())
    kept = f"{saved[-1]} was saved before it and is good" if saved else "no checkpoint had been saved yet"
    return UserError(
        f"{what} became nan or inf in step {step}, in task{'s' * (len(tasks) > 1)} {', '.join(tasks)} "
        f"({'; '.join(rows[:ROWS_NAMED])}{more}); {kept}. Lower learning_rate, set max_grad_norm, or look at these "
        "rows with `hyperpelt tasks show`."
    )
