"""Runs that were not made alike, shown as such: what differs beside the method, or decides what a score means."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from hyperpelt.report.html import table
from hyperpelt.report.run_records import RunRecord

MEASURED = ("split", "limit", "normalisation", "regression", "max_source_length", "max_target_length", "blind")
# What is compared, and what changes nothing in the course of a run.
LEFT_OUT = ("method", "log_steps", "save_steps", "save_total_limit", "frozen_row", "dataloader_num_workers")


def unlike(runs: Sequence[RunRecord]) -> Iterator[str]:
    """A table of the settings, and of the measuring, in which finished runs differ; nothing if they do not."""
    done = [run for run in runs if run.results is not None]
    about = {run.name: _about(run) for run in done}
    rows = []
    for key in dict.fromkeys(key for known in about.values() for key in known):
        values: dict[str, list[str]] = {}
        for name, known in about.items():
            values.setdefault(_text(known.get(key)), []).append(name)
        if len(values) > 1:
            rows.append([key, "; ".join(f"{value} ({_named(names)})" for value, names in values.items())])
    if rows:
        yield "<h3>Not alike</h3>"
        yield '<p class="note">These runs differ in more than their method: compare scores with that in mind.</p>'
        yield table(["what", "value (runs)"], rows)


def _about(run: RunRecord) -> Mapping[str, Any]:
    results = run.results
    assert results is not None
    settings = {key: value for key, value in run.comparable_settings.items() if key not in LEFT_OUT}
    measured = {f"measured: {key}": results.settings[key] for key in MEASURED if key in results.settings}
    rows = {f"rows of {name}": task.rows for name, task in results.tasks.items()}
    definitions = {f"definition of {name}": value for name, value in run.definitions.items()}
    return {**settings, **measured, **rows, **definitions}


def _text(value: Any) -> str:
    text = "none" if value is None else value if isinstance(value, str) else json.dumps(value, default=str)
    return text if len(text) <= 60 else f"{text[:57]}..."


def _named(names: Sequence[str]) -> str:
    return ", ".join(names) if len(names) <= 4 else f"{', '.join(names[:3])} and {len(names) - 3} more"
