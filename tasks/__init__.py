"""The built-in tasks: an ordinary plugin of hyperpelt, installed as `hyperpelt_tasks`."""

from __future__ import annotations


def register() -> None:
    """Register every built-in task (called through the entry point `hyperpelt.tasks`)."""
