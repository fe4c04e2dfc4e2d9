"""Tasks as plain data, for `hyperpelt tasks list` and `tasks show`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from hyperpelt.errors import UserError
from hyperpelt.tasks.registry import get, mixtures, names, select
from hyperpelt.tasks.types import Example, Task


def list_tasks(pattern: str = "*") -> list[dict[str, Any]]:
    """One row a task whose name matches: name, origin, kind, choices, metrics, modalities, splits, source,
    description, mixtures it belongs to. Reads no data."""
    members = {mixture.name: _members(mixture.name) for mixture in mixtures()}
    return [_row(get(name), members) for name in names(pattern)]


def _members(mixture: str) -> set[str]:
    try:
        return {task.name for task in select(mixture)}
    except UserError:  # it names a task that is not there: an error for who uses it, not for who lists tasks
        return set()


def _row(task: Task, members: dict[str, set[str]]) -> dict[str, Any]:
    return {
        "name": task.name,
        "origin": task.origin,
        "kind": task.kind,
        "choices": None if task.choices is None else list(task.choices),
        "metrics": list(task.metrics),
        "modalities": list(task.modalities),
        "splits": {split: str(task.splits.part(split)) for split in task.splits.names()},
        "source": task.source.describe(),
        "description": task.description,
        "mixtures": [mixture for mixture, tasks in members.items() if task.name in tasks],
    }


def show_task(name: str, data_root: str | Path | None = None, n: int = 3) -> dict[str, Any]:
    """The row of `list_tasks`, the definition's fingerprint, and of each split its size and `n` rendered rows.

    Where the data cannot be read, `examples` holds what could be read and `problem` says why not more; None otherwise.
    """
    task = get(name)
    shown: dict[str, Any] = {**list_tasks(name)[0], "fingerprint": task.fingerprint(), "sizes": {}, "examples": {}}
    shown["problem"] = None
    for split in task.splits.names():
        try:
            examples = task.examples(split, data_root=data_root)
            shown["sizes"][split] = task.streamed(split) or len(examples)
            shown["examples"][split] = [plain(example) for example in examples[:n]]
        except UserError as error:
            shown["problem"] = str(error)
            break
    return shown


def plain(example: Example) -> dict[str, Any]:
    """An example as JSON can hold it; images are counted."""
    return {
        "input": example.input,
        "target": example.target,
        "choices": None if example.choices is None else list(example.choices),
        "label": list(example.label) if isinstance(example.label, tuple) else example.label,
        "images": len(example.images),
        "group": example.group,
    }
