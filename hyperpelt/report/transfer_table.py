"""What `hyperpelt transfer` found, as a table: in a terminal, in Markdown, and as cells for a page."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from hyperpelt.evaluation.tables import data

if TYPE_CHECKING:
    from rich.table import Table

COLUMNS = ("task", "shots", "adapt", "n", "mean", "sd", "95 % interval", "median", "IQR", "majority", "trained values")
SPREAD = ("n", "sd", "95 % interval", "median", "IQR")  # what several seeds have


def as_cells(row: Mapping[str, Any]) -> list[str]:
    """A row as text, in the order of COLUMNS."""

    def number(value: float | None) -> str:
        return "-" if value is None else f"{value:.1f}"

    def span(low: str, high: str) -> str:
        return "-" if row[low] is None else f"{row[low]:.1f} .. {row[high]:.1f}"

    trained = "-" if row["trainable"] is None else f"{row['trainable']:,}"
    values = [number(row["mean"]), number(row["sd"]), span("low", "high"), number(row["median"]), span("q25", "q75")]
    return [row["task"], str(row["shots"]), row["label"], str(row["n"]), *values, number(row["majority"]), trained]


def as_table(rows: Sequence[Mapping[str, Any]]) -> tuple[list[str], list[list[str]]]:
    """(headings, cells of each row). One seed alone has no spread: columns that would be empty are left out."""
    heads, cells = list(COLUMNS), [as_cells(row) for row in rows]
    if all(row["n"] == 1 for row in rows):
        kept = [heads.index(head) for head in heads if head not in SPREAD]
        heads, cells = [heads[place] for place in kept], [[line[place] for place in kept] for line in cells]
        heads[heads.index("mean")] = "score"
    return heads, cells


def table(rows: Sequence[Mapping[str, Any]], *, title: str) -> Table:
    """The rows as a rich table."""
    from rich.table import Table

    made = Table(title=data(title), title_justify="left")
    heads, cells = as_table(rows)
    for column in heads:
        made.add_column(column, justify="left" if column in ("task", "adapt") else "right", no_wrap=True)
    before = None
    for row, line in zip(rows, cells, strict=True):
        if before is not None and (row["task"], row["shots"]) != before:
            made.add_section()
        before = (row["task"], row["shots"])
        made.add_row(*map(data, line))
    return made


def markdown(rows: Sequence[Mapping[str, Any]]) -> str:
    """The same for a page of documentation."""
    heads, cells = as_table(rows)
    lines = [f"| {' | '.join(heads)} |", f"|{'|'.join('---' for _ in heads)}|"]
    return "\n".join([*lines, *(f"| {' | '.join(line)} |" for line in cells)]) + "\n"
