"""Tasks: what they are, the registry of all of them, and plugins that bring more. The import place of this room.

    from hyperpelt import Example, Files, Splits, task

    @task(name="my/claims", source=Files({"train": "claims.csv"}), splits=Splits.fractions(),
          choices=("false", "true"), description="Is the claim true?")
    def claims(row):
        return Example(input=f"claim: {row['claim']}", label=row["label"])

    hyperpelt.tasks.get("my/claims").examples("train")[0]

The walls: types (Task, Example, Mixture), sources (Hub, Files, Generator), collections (of datasets), streams, splits,
rows, rendering, registry, plugins, yaml, check, shots, skeleton. See docs/tasks.md. Importing this needs no PyTorch, no
transformers and no datasets.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from hyperpelt.tasks.check import CheckReport, check_task
from hyperpelt.tasks.collections import ImageFolder, Loaded, Saved, Streamed
from hyperpelt.tasks.files import Files
from hyperpelt.tasks.findings import Finding
from hyperpelt.tasks.listing import list_tasks, show_task
from hyperpelt.tasks.plugins import broken_plugins, load_plugin, load_plugins
from hyperpelt.tasks.registry import get, mixtures, names, register, remove, select
from hyperpelt.tasks.rendering import Example
from hyperpelt.tasks.shots import sample_shots
from hyperpelt.tasks.skeleton import new_plugin
from hyperpelt.tasks.sources import Generator, Hub, Row, Rows, Source, resolve_root
from hyperpelt.tasks.splits import Part, Splits
from hyperpelt.tasks.streams import Stream
from hyperpelt.tasks.types import Examples, Mixture, Rate, Task

__all__ = [
    "CheckReport",
    "Example",
    "Examples",
    "Files",
    "Finding",
    "Generator",
    "Hub",
    "ImageFolder",
    "Loaded",
    "Mixture",
    "Part",
    "Rate",
    "Row",
    "Rows",
    "Saved",
    "Source",
    "Splits",
    "Stream",
    "Streamed",
    "Task",
    "broken_plugins",
    "check_task",
    "get",
    "list_tasks",
    "load_plugin",
    "load_plugins",
    "mixtures",
    "names",
    "new_plugin",
    "register",
    "remove",
    "resolve_root",
    "sample_shots",
    "select",
    "show_task",
    "task",
]


def task(
    *, name: str, source: Source, replace: bool = False, **fields: Any
) -> Callable[[Callable[[Row], Example]], Task]:
    """Decorator: make a render function the task `name` and register it. The fields are those of `Task`."""

    def decorate(render: Callable[[Row], Example]) -> Task:
        code = getattr(render, "__code__", None)
        origin = f"{code.co_filename}:{code.co_firstlineno}" if code else ""
        return register(Task(name=name, source=source, render=render, origin=origin, **fields), replace=replace)

    return decorate
