"""Few-shot samples: k training rows of a task, fixed by the seed."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from hyperpelt.errors import UserError
from hyperpelt.tasks.rendering import Naming
from hyperpelt.tasks.types import Examples, Task


def sample_shots(
    task: Task, k: int, *, seed: int, balanced: bool = True, split: str = "train", data_root: str | Path | None = None
) -> list[int]:
    """k row numbers of `split`, ascending; the same seed gives the same rows on every machine.

    k counts all examples together, not each class (HyperFormer's and HyperPELT's k). balanced: for a classification
    with fixed choices, as equally many of each choice as there are (the shuffle decides which choice gets the
    remainder); other tasks are sampled plainly.

    Raises UserError if the split has fewer than k rows.
    """
    examples = task.examples(split, data_root=data_root)
    with Naming(task.name, split):
        if k < 1:
            raise UserError(f"expected at least 1 shot, got {k}")
        if k > len(examples):
            raise UserError(f"{k} shots asked for, but the split has {len(examples)} rows; take k up to that")
    order = list(range(len(examples)))
    generator = random.Random(f"{task.name} {seed}")
    generator.shuffle(order)
    if balanced and task.kind == "classification" and task.choices is not None:
        choices = list(task.choices)
        generator.shuffle(choices)
        return sorted(_balanced(examples, order, choices, k))
    return sorted(order[:k])


def _balanced(examples: Examples, order: list[int], choices: list[str], k: int) -> list[int]:
    """Deal places to choices in turn; rows fill them in shuffled order. A choice too rare for its places gives the
    rest of them away in a further turn."""
    share, extra = divmod(k, len(choices))
    quota = Counter({choice: share + (place < extra) for place, choice in enumerate(choices)})
    taken: list[int] = []
    left: list[int] = []
    for row, target in _targets(examples, order):
        if quota[target] > 0:
            quota[target] -= 1
            taken.append(row)
        else:
            left.append(row)
        if len(taken) == k:
            return taken
    return taken + left[: k - len(taken)]


def _targets(examples: Examples, order: list[int]) -> Iterator[tuple[int, str]]:
    for row in order:
        yield row, examples[row].target
