"""A plain line as a row: the text of the task's only column, through the very function that renders its rows.

Which column that is, is seen when the function renders the line: what it asks for by `row[...]` it needs, what it asks
for by `row.get(...)` or `in` it may do without. A task that needs several wants rows, not lines.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

from hyperpelt.errors import UserError
from hyperpelt.tasks.readers import typed
from hyperpelt.tasks.rendering import Columns

if TYPE_CHECKING:
    from hyperpelt.tasks.sources import Row
    from hyperpelt.tasks.types import Task


def columns_of(task: Task, text: str) -> list[str]:
    """The columns besides the answer that the rendering needs, told by rendering a row that holds `text` everywhere.

    Where it fails on the way, the columns that it had asked for by then.
    """
    row = _Asked(text, task.answer)
    with contextlib.suppress(Exception):  # what a stranger's function makes of the row is seen when it is rendered
        task.render(row)
    return list(row.needed or row.welcome)


def columns_read(task: Task, row: Row) -> list[str]:
    """The columns of a row, besides the answer, that its rendering asks for."""
    noted = _Noted(typed(row, getattr(task.source, "types", ())), task.answer, answered=False)
    with contextlib.suppress(Exception):  # a row that does not render says so elsewhere
        task.render(noted)
    return [name for name in row if name in noted.asked and name not in task.answer]


def row_of(task: Task, text: str) -> dict[str, Any]:
    """The row that a plain line is. Raises UserError that names the columns of a task which needs other than one."""
    columns = columns_of(task, text)
    if len(columns) == 1:
        return {columns[0]: text}
    if not columns:
        raise UserError(
            f"a line of text is no row of {task.name}, whose rendering asks for no column by its name: give rows as "
            "JSONL, CSV, TSV or Parquet"
        )
    named = ", ".join(map(repr, columns))
    example = ", ".join(f'"{column}": ...' for column in columns)
    raise UserError(
        f"a line of text is no row of {task.name}, which reads the columns {named}: give rows as JSONL "
        f"({{{example}}}), CSV, TSV or Parquet"
    )


class _Noted(Columns):
    """A row that remembers which of its columns were asked for."""

    def __init__(self, row: Row, answer: Sequence[str], *, answered: bool) -> None:
        super().__init__(row, answer, answered=answered)
        self.asked = set[str]()

    def __getitem__(self, column: str) -> Any:
        self.asked.add(column)
        return super().__getitem__(column)

    def get(self, column: str, default: Any = None) -> Any:
        self.asked.add(column)
        return super().get(column, default)


class _Asked(Columns):
    """A row that has the same text in every column but the answer's, and remembers which were asked for."""

    def __init__(self, text: str, answer: Iterable[str]) -> None:
        super().__init__(dict.fromkeys(answer))
        self.text, self.needed, self.welcome = text, dict[str, None](), dict[str, None]()

    def __missing__(self, column: str) -> str:
        self.needed[column] = None
        return self.text

    def __contains__(self, column: object) -> bool:
        if super().__contains__(column):
            return True
        self.welcome[str(column)] = None
        return False

    def get(self, column: str, default: Any = None) -> Any:
        known = column in self  # which is remembered
        return self[column] if known else default
