"""docs/results/backbones.md from the JSON files of `evaluate`."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import mean, stdev
from typing import Any

INTRODUCTION = """# The embedded backbones: what they have learnt

Written by `scripts/pretrain evaluate` from the JSON files beside it; do not edit. What each backbone is and how it was
made: [../backbones.md](../backbones.md). `random` is the same shape with transformers' own initial weights,
`random decoder` is MiniLM's encoder with an untrained decoder; `wrong source` is the shipped model writing a row's
target while it reads another row's source, so that the difference is what reading the encoder is worth.
"""


def markdown(folder: Path) -> str:
    parts = [INTRODUCTION]
    for path in sorted(folder.glob("backbone-*.json")):
        parts += _section(json.loads(path.read_text(encoding="utf8")))
    return "\n".join(parts)


def _section(result: Mapping[str, Any]) -> list[str]:
    versions = ", ".join(f"{name} {version}" for name, version in result["versions"].items())
    lines = [f"## {result['backbone']}", "", f"    {result['command']}", ""]
    lines += [f"Weights {result['weights_sha256'][:16]}; {versions}; seeds {', '.join(map(str, result['seeds']))}.", ""]
    columns = list(next(iter(result["held_out"].values())))
    lines += ["Held-out loss in nats a target token, by objective (smaller is better):", ""]
    lines += _table("objective", columns, [(name, [f"{row[c]:.2f}" for c in columns]) for name, row in _rows(result)])
    return [*lines, *_tuned(result, columns), ""]


def _tuned(result: Mapping[str, Any], columns: Sequence[str]) -> list[str]:
    tuning = result["tuning"]
    if not result["tuned"]:
        return ["", "Accuracy after tuning has not been measured for these weights yet."]
    columns = [column for column in columns if column not in ("unigram", "shipped, wrong source")]
    rows = [
        (task, [*(_accuracy(cells.get(column, {})) for column in columns), _majority(cells)])
        for task, cells in result["tuned"].items()
    ]
    return [
        "",
        f"Accuracy after tuning the frozen backbone by `{tuning['method']}`, one task at a time: {tuning['steps']} "
        f"steps of {tuning['rows']} rows, learning rate {tuning['learning_rate']}, sources cut at "
        f"{tuning['max_source_length']} tokens, {tuning['test_rows']} test rows at most (larger is better; - is not "
        "measured yet):",
        "",
        *_table("task", [*columns, "majority"], rows),
    ]


def _rows(result: Mapping[str, Any]) -> list[tuple[str, Mapping[str, float]]]:
    return list(result["held_out"].items())


def _accuracy(cells: Mapping[str, Mapping[str, float]]) -> str:
    values = [cell["accuracy"] for cell in cells.values()]
    if not values:
        return "-"
    return f"{mean(values):.1f}" + (f" ± {stdev(values):.1f}" if len(values) > 1 else "")


def _majority(cells: Mapping[str, Mapping[str, Mapping[str, float]]]) -> str:
    first = next((cell for column in cells.values() for cell in column.values()), None)
    return "-" if first is None else f"{first['majority']:.1f}"


def _table(corner: str, columns: Sequence[str], rows: Sequence[tuple[str, Sequence[str]]]) -> list[str]:
    lines = [f"| {corner} | {' | '.join(columns)} |", "|---" * (len(columns) + 1) + "|"]
    return lines + [f"| {name} | {' | '.join(cells)} |" for name, cells in rows]
