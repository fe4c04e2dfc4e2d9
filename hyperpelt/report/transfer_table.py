"""What `hyperpelt transfer` found, as a table: in a terminal, in Markdown, and as cells for a page."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rich.table import Table

COLUMNS = ("task", "shots", "adapt", "n", "mean", "sd", "95 % interval", "median", "IQR", "majority", "trained values")


def as_cells(row: Mapping[str, Any]) -> list[str]:
    """A row as text, in the order of COLUMNS."""

    def number(value: float | None) -> str:
        return "-" if value is None else f"{value:.1f}"

    def span(low: str, high: str) -> str:
        return "-" if row[low] is None else f"{row[low]:.1f} .. {row[high]:.1f}"

    trained = "-" if row["trainable"] is None else f"{row['trainable']:,}"
    values = [number(row["mean"]), number(row["sd"]), span("low", "high"), number(row["median"]), span("q25", "q75")]
    return [row["task"], str(row["shots"]), row["label"], str(row["n"]), *values, number(row["majority"]), trained]


def table(rows: Sequence[Mapping[str, Any]], *, title: str) -> Table:
    """The rows as a rich table."""
    from rich.table import Table

    made = Table(title=title, title_justify="left")
    for column in COLUMNS:
        made.add_column(column, justify="left" if column in ("task", "adapt") else "right", no_wrap=True)
    before = None
    for row in rows:
        if before is not None and (row["task"], row["shots"]) != before:
            made.add_section()
        before = (row["task"], row["shots"])
        made.add_row(*as_cells(row))
    return made


def markdown(rows: Sequence[Mapping[str, Any]]) -> str:
    """The same for a page of documentation."""
    lines = [f"| {' | '.join(COLUMNS)} |", f"|{'|'.join('---' for _ in COLUMNS)}|"]
    return "\n".join([*lines, *(f"| {' | '.join(as_cells(row))} |" for row in rows)]) + "\n"
