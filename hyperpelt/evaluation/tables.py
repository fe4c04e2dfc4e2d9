"""Tables that are read as they are printed: names are never folded, numbers never elided.

Into a file or a pipe a table goes as wide as it is. In a terminal that is too narrow, texts that may be wrapped take
what is left; where that is not enough, columns are printed in blocks below each other, each with the names at its left.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

from hyperpelt.errors import visible

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

TEXTS = ("description", "how", "at", "operations")  # columns that may be wrapped
NARROWEST = 24  # of a wrapped column
WIDEST = 100_000  # of what is piped


def data(text: object) -> Text:
    """What is no text of ours, to be printed as it is: no markup in it is obeyed, nor what controls a terminal."""
    from rich.text import Text

    return Text(visible(str(text)))


def console() -> Console:
    """Stdout for people. What is piped into a file is never wrapped."""
    from rich.console import Console

    return Console(highlight=False, width=None if sys.stdout.isatty() else WIDEST)


def show(table: Table, *, keys: int = 1) -> None:
    """Print a table. keys: columns at its left that every block repeats."""
    out = console()
    for block in blocks(table, out.width, keys=keys):
        if out.is_terminal:
            out.print(block)
            continue
        print(text_of(block))


def text_of(table: Table) -> str:
    """The table as text, as wide as it is."""
    from rich.console import Console

    out = Console(highlight=False, width=WIDEST, color_system=None)
    with out.capture() as printed:
        out.print(table)
    return "\n".join(line.rstrip() for line in printed.get().splitlines())


def blocks(table: Table, width: int, *, keys: int = 1) -> list[Table]:
    """The table in as few tables as it takes for none of them to be wider than `width` (if one column fits)."""
    widths = [_width(table, place) for place in range(len(table.columns))]
    around = 3 if table.box else 2
    wrapped = [place for place, column in enumerate(table.columns) if str(column.header) in TEXTS]
    left = width - 1 - sum(size + around for place, size in enumerate(widths) if place not in wrapped)
    room = left // len(wrapped) - around if wrapped else 0
    if wrapped and room >= NARROWEST:
        widths = [min(size, room) if place in wrapped else size for place, size in enumerate(widths)]
    return [_part(table, places, widths, wrapped, width) for places in _dealt(widths, width - 1, around, keys)]


def _dealt(widths: Sequence[int], width: int, around: int, keys: int) -> list[list[int]]:
    """Places of the columns of each block."""
    left = list(range(min(keys, len(widths))))
    first = sum(widths[place] + around for place in left)
    dealt: list[list[int]] = []
    used = width
    for place in range(len(left), len(widths)):
        if not dealt or used + widths[place] + around > width:
            dealt.append([*left])
            used = first
        dealt[-1].append(place)
        used += widths[place] + around
    return dealt or [left]


def _width(table: Table, place: int) -> int:
    from rich.cells import cell_len
    from rich.text import Text

    column = table.columns[place]
    cells = (cell if isinstance(cell, Text) else Text.from_markup(str(cell)) for cell in (column.header, *column.cells))
    lines = [line for cell in cells for line in cell.plain.splitlines()]
    return max(map(cell_len, lines), default=0)


def _part(table: Table, places: Sequence[int], widths: Sequence[int], wrapped: Sequence[int], width: int) -> Table:
    from rich.table import Table

    part = Table(title=table.title, title_justify=table.title_justify, box=table.box, header_style=table.header_style)
    part.pad_edge = table.pad_edge
    cells = []
    for place in places:
        column = table.columns[place]
        size = min(widths[place], width - 4) if place in wrapped else widths[place]
        part.add_column(
            column.header, justify=column.justify, no_wrap=place not in wrapped, width=size, overflow="fold"
        )
        cells.append(list(column.cells))
    for number, row in enumerate(table.rows):
        part.add_row(*(column[number] for column in cells), style=row.style, end_section=row.end_section)
    return part


def made_of(rows: Sequence[dict[str, Any]], columns: Sequence[str], *, right: Iterable[str] = ()) -> Table:
    """Rows as a table of the named columns."""
    from rich.table import Table

    numbers = set(right)
    table = Table(box=None, header_style="bold", pad_edge=False)
    for column in columns:
        table.add_column(data(column), justify="right" if column in numbers else "left")
    for row in rows:
        table.add_row(*(data(_cell(row[column])) for column in columns))
    return table


def _cell(value: Any) -> str:
    if value is None:
        return "-"
    return f"{value:,}" if isinstance(value, int) and not isinstance(value, bool) else str(value)
