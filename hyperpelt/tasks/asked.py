"""Rows to predict on, read as training reads its own: the same files, the same options and types, the same rendering.

    for asked in read_asked(tasks.get("my/claims"), Path("new.csv")): asked.example, or asked.error

A file's name, or `format`, tells what it holds: CSV, TSV, JSON, Parquet; JSONL, whose every line is an object; or lines
of text, each the row of a task that reads one column (`lines`). What has no such name, as standard input, is JSONL if
its first line is a JSON object, and lines otherwise.

Answers stay with their rows: each knows its line (from 1) or row (from 0, as elsewhere), and its id if it has one.
"""

from __future__ import annotations

import json
import shutil
import sys
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hyperpelt.errors import UserError, unknown
from hyperpelt.tasks.files import Files
from hyperpelt.tasks.json_rows import BOM, json_object, open_packed
from hyperpelt.tasks.lines import columns_of, row_of
from hyperpelt.tasks.readers import FileRow, FileRows, format_of, read_file

if TYPE_CHECKING:
    from hyperpelt.tasks.rendering import Example
    from hyperpelt.tasks.types import Task

TABLES = ("csv", "tsv", "json", "parquet")  # read whole
FORMATS = ("lines", "jsonl", *TABLES)
IDS = ("id", "idx")


@dataclass(frozen=True)
class Asked:
    """A row without its answer: rendered, or why it cannot be. place: {"line": n} or {"row": n}, and its id."""

    place: Mapping[str, Any]
    example: Example | None = None
    error: str = ""
    task: Task | None = None

    def __str__(self) -> str:
        return " ".join(map(str, next(iter(self.place.items()))))


def read_asked(
    task: Task, file: Path | None = None, *, format: str | None = None, id_column: str | None = None
) -> Iterator[Asked]:
    """The rows of a file, or of standard input (None), as they come.

    id_column: the column that is passed through; None: 'id' or 'idx', where rows have one. Raises UserError for a file
    that cannot be read, or whose columns (or lines) are none of the task's; one bad row is its own error alone.
    """
    reading = _Reading(task, file, id_column)
    known = format or (format_of(file) if file else None)
    if known in TABLES:
        return reading.table(known)
    return reading.lines("lines" if known == "txt" else known, _numbered(file))


def read_mixed(
    tasks: Mapping[str, Task], file: Path | None = None, *, format: str | None = None, id_column: str | None = None
) -> Iterator[Asked]:
    """`read_asked` for rows of several tasks, each of which names its own in a column `task` (where there is one: may).

    A row of a task that is not among `tasks` is its own error, which names the nearest.
    """
    reading = _MixedReading(next(iter(tasks.values())), file, id_column, tasks=tasks)
    known = format or (format_of(file) if file else None)
    if known in TABLES:
        return reading.table(known)
    plain = "lines" if known == "txt" else known
    return reading.lines(plain if len(tasks) == 1 else "jsonl", _numbered(file))


def read_lines(task: Task, lines: Iterable[tuple[int, bytes]]) -> Iterator[Asked]:
    """Numbered lines of JSONL, or of text, as standard input has them."""
    return _Reading(task, None, None).lines(None, lines)


@dataclass
class _Reading:
    task: Task
    file: Path | None
    id_column: str | None
    _column: list[str] = field(default_factory=list)  # of plain lines, once it is known

    # ------------------------------------------------------------------------------------------------------- tables

    def table(self, format: str) -> Iterator[Asked]:
        source = self.task.source
        options = source.options_for(format) if isinstance(source, Files) else {}
        with tempfile.TemporaryDirectory() as spool:
            path = self.file or Path(spool) / f"stdin.{format}"
            if self.file is None:
                with path.open("wb") as stream:
                    shutil.copyfileobj(sys.stdin.buffer, stream)
            elif not path.is_file():
                raise UserError(f"Cannot read {path}: no such file.")
            try:
                rows = FileRows.of([(read_file(path, format, options), self.file or Path.cwd() / path.name)])
                self._check_columns(rows, path)
            except UserError as problem:
                raise UserError(str(problem).replace(str(path), str(self.file or "standard input"))) from problem
            for number, row in enumerate(rows):
                yield self._asked({"row": number}, row)

    def _check_columns(self, rows: FileRows, path: Path) -> None:
        """One sentence for a table that lacks a column, instead of one for each of its rows."""
        there = list(rows.features)
        lacking = [name for name in columns_of(self.task, "0") if name not in there]
        if len(rows) and lacking:
            raise UserError(
                f"{path} has the columns {', '.join(map(repr, there))}; {self.task.name} also reads "
                f"{', '.join(map(repr, lacking))}."
            )

    # -------------------------------------------------------------------------------------------------------- lines

    def lines(self, format: str | None, numbered: Iterable[tuple[int, bytes]]) -> Iterator[Asked]:
        """format: 'jsonl', 'lines', or None: the first line tells."""
        guessed = format is None
        for number, line in numbered:
            if format is None:
                _refuse_list(line)
                format = "jsonl" if line.lstrip().startswith(b"{") else "lines"
                if format == "lines":
                    self._refuse_header(line)
            is_object = format == "jsonl" or (guessed and line.lstrip().startswith(b"{"))
            yield self._line(number, line, is_object)

    def _line(self, number: int, line: bytes, is_object: bool) -> Asked:
        try:
            row = json_object(line) if is_object else self._row(line)
        except UserError as problem:
            return Asked({"line": number}, error=str(problem))
        return self._asked({"line": number}, FileRow(row, self.file) if self.file else row)

    def _row(self, line: bytes) -> dict[str, Any]:
        try:
            text = line.rstrip(b"\r\n").decode("utf8")
        except UnicodeDecodeError as problem:
            raise UserError(f"expected UTF-8 text: {problem.reason} at byte {problem.start}") from None
        if not self._column:
            self._column = list(row_of(self.task, text))
        return {self._column[0]: text}

    def _refuse_header(self, line: bytes) -> None:
        """A header of a table is no text to answer, and what stands below it is none either."""
        text = line.decode("utf8", "replace").strip()
        for format, mark in (("csv", ","), ("tsv", "\t")):
            cells = [cell.strip().strip('"') for cell in text.split(mark)]
            if len({*columns_of(self.task, "0"), *self.task.answer, *IDS}.intersection(cells)) > 1:
                raise UserError(
                    f"The first line, {text!r:.80}, is the header of a table: give the file a name that ends in "
                    f".{format}, or say --format {format} (--format lines if it is text)."
                )

    # --------------------------------------------------------------------------------------------------------- rows

    def _asked(self, place: dict[str, Any], row: Mapping[str, Any]) -> Asked:
        try:
            place |= self._id(row)
            # A cell for the answer that is left blank is no answer.
            blank = [name for name in self.task.answer if name in row and row[name] in ("", None)]
            if blank:
                kept = {name: value for name, value in row.items() if name not in blank}
                row = FileRow(kept, row.file, row.number) if isinstance(row, FileRow) else kept
            return Asked(place, self.task.example(row, answered=False), task=self.task)
        except UserError as problem:  # which may quote the half characters of the line
            return Asked(place, error=str(problem).encode("utf8", "backslashreplace").decode("utf8"))

    def _id_or_nothing(self, row: Mapping[str, Any]) -> dict[str, Any]:
        return {name: _plain(row[name]) for name in (self.id_column, *IDS) if name is not None and name in row}

    def _id(self, row: Mapping[str, Any]) -> dict[str, Any]:
        if self.id_column is not None:
            if self.id_column not in row:
                raise UserError(f"expected the column {self.id_column!r} (--id), the row has {', '.join(row)}")
            return {self.id_column: _plain(row[self.id_column])}
        return {name: _plain(row[name]) for name in IDS if name in row}


@dataclass
class _MixedReading(_Reading):
    """Rows that say which task they are of."""

    tasks: Mapping[str, Task] = field(default_factory=dict)

    def _check_columns(self, rows: FileRows, path: Path) -> None:
        if len(self.tasks) == 1 and "task" not in rows.features:
            super()._check_columns(rows, path)
        elif len(rows) and "task" not in rows.features:
            raise UserError(
                f"{path} has the columns {', '.join(map(repr, rows.features))} and no 'task': name one task for all "
                "rows (--task), or one a row."
            )

    def _asked(self, place: dict[str, Any], row: Mapping[str, Any]) -> Asked:
        try:
            if "task" not in row and len(self.tasks) > 1:
                raise UserError("the row names no task: expected a column 'task' (or --task for all rows)")
            name = row.get("task", self.task.name)
            if not isinstance(name, str) or name not in self.tasks:
                raise unknown("task", str(name), self.tasks)
        except UserError as problem:
            return Asked(place | self._id_or_nothing(row), error=str(problem))
        alone = _MixedReading(self.tasks[name], self.file, self.id_column, tasks=self.tasks)
        asked = _Reading._asked(alone, place, row)
        return replace(asked, place={**asked.place, "task": name})


def _plain(value: Any) -> Any:
    """A value as JSON can hold it (Parquet has dates)."""
    try:
        json.dumps(value, allow_nan=False)
    except (TypeError, ValueError):
        return str(value)
    return value


def _refuse_list(line: bytes) -> None:
    start = line.strip()
    if start == b"[" or start.startswith(b"[{"):
        raise UserError(
            "The first line begins a JSON list: give the file a name that ends in .json, or say --format json."
        )


def _numbered(file: Path | None) -> Iterator[tuple[int, bytes]]:
    """(number, content) of every line that is not blank."""
    if file is None:
        yield from _not_blank(sys.stdin.buffer)
        return
    try:
        with open_packed(file) as stream:
            yield from _not_blank(stream)
    except OSError as problem:
        raise UserError(f"Cannot read {file}: {problem.strerror or problem}.") from None


def _not_blank(stream: Iterable[bytes]) -> Iterator[tuple[int, bytes]]:
    lines = ((number, line.removeprefix(BOM) if number == 1 else line) for number, line in enumerate(stream, 1))
    return ((number, line) for number, line in lines if line.strip())
