"""For tests of tasks: a registry put back after each test, and small tasks over real rows."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from hyperpelt import Example, Generator, Task
from hyperpelt.tasks import registry


@contextmanager
def own_registry() -> Iterator[None]:
    """Registrations inside are undone."""
    registry.names()  # plugins are loaded once, before the snapshot
    before = registry.snapshot()
    try:
        yield
    finally:
        registry.restore(before)


class Rows:
    """A generator of fixed rows, hashable as a source must be."""

    def __init__(self, **splits: Sequence[dict[str, Any]]) -> None:
        self.splits = splits
        self.calls: list[str] = []

    def __call__(self, split: str) -> Sequence[dict[str, Any]]:
        self.calls.append(split)
        return self.splits[split]


def make_task(rows: Sequence[dict[str, Any]] | Rows, **fields: Any) -> Task:
    """A task over rows with columns 'text' and 'label', the same in each split unless `rows` says otherwise."""
    rows = rows if isinstance(rows, Rows) else Rows(train=rows, validation=rows, test=rows)
    source = Generator(rows, tuple(rows.splits))
    defaults = {"name": "test/task", "render": render, "choices": ("no", "yes"), "description": "Is it so?"}
    return Task(source=source, **{**defaults, **fields})


def render(row: Any) -> Example:
    return Example(input=f"text: {row['text']}", label=row["label"])
