"""At 80 columns and into a pipe: names are never folded, numbers never elided."""

from __future__ import annotations

import io
import re
from dataclasses import replace
from typing import Any

import pytest
from rich.console import Console
from rich.table import Table

from hyperpelt.evaluation.results import Results, TaskResult
from hyperpelt.evaluation.tables import blocks, made_of
from hyperpelt.report.transfer_table import table as transfer_table
from hyperpelt.training.progress import rates_as_table

NAMES = [f"group{n // 10}/a-task-with-a-long-name-{n}" for n in range(50)]


def printed(table: Table, width: int, *, keys: int = 1) -> list[str]:
    stream = io.StringIO()
    console = Console(file=stream, width=width, force_terminal=False)
    for block in blocks(table, width, keys=keys):
        console.print(block)
    return stream.getvalue().splitlines()


def transfer_rows() -> list[dict[str, Any]]:
    spread = {"mean": 71.2, "sd": 3.4, "low": 67.0, "high": 75.4, "median": 71.0, "q25": 69.1, "q75": 73.3, "n": 5}
    return [
        {"task": name, "shots": 16, "label": "hypernetwork", "majority": 50.1, "trainable": 1_234_567, **spread}
        for name in NAMES[:3]
    ]


def results() -> Results:
    one = TaskResult(
        kind="classification",
        rows=1234,
        metrics={"accuracy": 71.25, "f1": 68.5},
        majority={"accuracy": 52.75, "f1": 0.0},
    )
    intervals = {"accuracy": {"low": 60.0, "high": 70.0}}
    return Results(
        tasks={name: one for name in NAMES},
        model={"method": "hyperpelt"},
        intervals=dict.fromkeys(("average", "average_over_tasks"), intervals["accuracy"]),
    )


TABLES = {
    "transfer": (
        transfer_table(transfer_rows(), title="t"),
        3,
        ["71.2", "3.4", "67.0 .. 75.4", "1,234,567"],
        NAMES[:3],
    ),
    "results": (results().table(title="t"), 1, ["71.25 / 68.50", "52.75 / 0.00", "1,234"], NAMES),
    "mixture": (
        rates_as_table([{"task": name, "rows": 1_234_567, "rate": 0.02, "epochs": 123.45} for name in NAMES]),
        1,
        ["1,234,567", "2.00%", "123.45"],
        NAMES,
    ),
    "wide": (
        made_of(
            [{"task": name, **{other: "0.12" for other in NAMES}} for name in NAMES], ("task", *NAMES), right=NAMES
        ),
        1,
        ["0.12", *NAMES],
        NAMES,
    ),
}


@pytest.mark.parametrize("width", [80, 100, 100_000])
@pytest.mark.parametrize("name", TABLES)
def test_every_name_and_number_is_printed_whole(name: str, width: int) -> None:
    table, keys, values, names = TABLES[name]
    lines = printed(table, width, keys=keys)
    assert max(map(len, lines)) <= width
    assert not any("\N{HORIZONTAL ELLIPSIS}" in line for line in lines)
    text = "\n".join(lines)
    for value in values:
        assert value in text
    for one in names:  # each on a line of its own, as often as there are blocks
        assert any(one in line.replace("\N{BOX DRAWINGS LIGHT VERTICAL}", " ").split() for line in lines), one


def test_texts_may_be_wrapped_and_names_beside_them_not() -> None:
    rows = [
        {"name": name, "kind": "classification", "description": "What is asked, in one sentence? " * 5}
        for name in NAMES
    ]
    lines = printed(made_of(rows, ("name", "kind", "description")), 100)
    assert max(map(len, lines)) <= 100
    assert sum(line.startswith("group") for line in lines) == len(NAMES), "one block, each name once"


def test_results_print_as_their_table() -> None:
    found = repr(results())
    assert found.startswith("Results of the ")
    assert "accuracy / f1" in found
    assert max(map(len, found.splitlines())) < 200
    alone = replace(results(), tasks=dict(list(results().tasks.items())[:1]))
    assert re.search(r"average +│ 1 task ", repr(alone))
