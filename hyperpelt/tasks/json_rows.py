"""Rows of JSONL files: where each line stands is kept, and the line is read and parsed when it is asked for.

So a file of any size takes eight bytes a row. A packed one (.gz, ...) has no places to read from: its bytes are kept.
"""

from __future__ import annotations

import bz2
import gzip
import io
import json
import lzma
import os
import weakref
from array import array
from bisect import bisect_right
from collections.abc import Iterator, Sequence
from functools import lru_cache
from importlib import import_module
from pathlib import Path
from typing import Any, BinaryIO, cast, overload

from hyperpelt.errors import UserError
from hyperpelt.tasks.sources import Row, Rows

BOM = b"\xef\xbb\xbf"  # a byte order mark, as Windows writes it, is no text
PACKED = (".gz", ".xz", ".bz2", ".zst")
OPEN = 64  # files at once: a set may have thousands
PIECE = 256  # lines read at once, where all are
PIECE_BYTES = 1 << 24  # or fewer, if they are longer: a line may hold a picture
Stamp = tuple[int, int]  # size, time of the last change


def open_packed(file: Path) -> BinaryIO:
    """A file's bytes, unpacked as its name says. Raises OSError."""
    if file.suffix.lower() == ".zst":
        try:
            return cast(BinaryIO, import_module("zstandard").open(file, "rb"))
        except ImportError:
            raise UserError(f"Reading {file} needs the package zstandard: pip install zstandard.") from None
    opened = {".gz": gzip.open, ".xz": lzma.open, ".bz2": bz2.open}.get(file.suffix.lower(), open)
    return cast(BinaryIO, opened(file, "rb"))


def content_of(file: Path) -> bytes:
    """All bytes of a file, unpacked, without a byte order mark."""
    with open_packed(file) as stream:
        return stream.read().removeprefix(BOM)


class JsonRows(Sequence[Row]):
    """The lines of a JSONL file; blank ones are none.

    A key that other rows have and one lacks is null in it. Raises UserError, which names the line, for one that is no
    JSON object, and for a file that changed after it was looked through.
    """

    def __init__(self, file: Path) -> None:
        self._file, self._stamp = file, _stamp(os.stat(file))
        self._content = content_of(file) if file.suffix.lower() in PACKED else None
        self._starts, self._ends = array("q"), array("q")
        columns: dict[str, None] = {}
        with file.open("rb") if self._content is None else io.BytesIO(self._content) as stream:
            place = 0
            for number, line in enumerate(stream, 1):
                mark = len(BOM) if number == 1 and line.startswith(BOM) else 0
                start, text = place + mark, line[mark:].rstrip(b"\n")
                place += len(line)
                if text.strip():
                    try:
                        columns |= dict.fromkeys(json_object(text))
                    except UserError as problem:
                        raise UserError(f"line {number}: {problem}") from None
                    self._starts.append(start)
                    self._ends.append(start + len(text))
        self.column_names, self._whole = list(columns), True

    def __len__(self) -> int:
        return len(self._starts)

    @overload
    def __getitem__(self, index: int) -> Row: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[Row]: ...
    def __getitem__(self, index: int | slice) -> Row | Sequence[Row]:
        if isinstance(index, slice):
            return [self[number] for number in range(*index.indices(len(self)))]
        return dict.fromkeys(self.column_names) | json.loads(self._bytes(self._starts[index], self._ends[index]))

    def __iter__(self) -> Iterator[Row]:
        if not self._whole:
            yield from (self[number] for number in range(len(self)))
            return
        start = 0
        while start < len(self):
            first = self._starts[start]
            stop = bisect_right(self._ends, first + PIECE_BYTES, start + 1, min(start + PIECE, len(self)))
            lines = self._bytes(first, self._ends[stop - 1])
            for place in range(start, stop):
                line = lines[self._starts[place] - first : self._ends[place] - first]
                yield dict.fromkeys(self.column_names) | json.loads(line)
            start = stop

    def select(self, numbers: Sequence[int]) -> JsonRows:
        """The rows of these numbers, in this order."""
        chosen = object.__new__(JsonRows)
        chosen._file, chosen._stamp, chosen._content = self._file, self._stamp, self._content
        chosen._starts = array("q", (self._starts[number] for number in numbers))
        chosen._ends = array("q", (self._ends[number] for number in numbers))
        chosen.column_names, chosen._whole = self.column_names, False
        return chosen

    def _bytes(self, start: int, end: int) -> bytes:
        if self._content is not None:
            return self._content[start:end]
        descriptor = _opened(self._file, self._stamp).number
        # Not by seeking: processes that were forked share the place in a file.
        content = os.pread(descriptor, end - start, start)
        if _stamp(os.fstat(descriptor)) != self._stamp:
            raise UserError(f"{self._file} changed while it was being read: start again")
        return content


def with_all_keys(files: Sequence[Rows]) -> list[Rows]:
    """The rows of several JSON files, in each of which a key that only another file's rows have is null."""
    each = [rows.column_names if isinstance(rows, JsonRows) else list(rows[0] if rows else ()) for rows in files]
    columns = list(dict.fromkeys(name for names in each for name in names))
    found: list[Rows] = []
    for rows, names in zip(files, each, strict=True):
        if isinstance(rows, JsonRows):
            rows.column_names = columns
        elif len(names) < len(columns):
            rows = [dict.fromkeys(columns) | dict(row) for row in rows]
        found.append(rows)
    return found


class _Descriptor:
    """An open file, closed when nobody holds it any more, as when the cache lets it go."""

    def __init__(self, file: Path) -> None:
        self.number = os.open(file, os.O_RDONLY)
        weakref.finalize(self, os.close, self.number)


@lru_cache(OPEN)
def _opened(file: Path, stamp: Stamp) -> _Descriptor:
    return _Descriptor(file)


def _stamp(stat: os.stat_result) -> Stamp:
    return stat.st_size, stat.st_mtime_ns


def json_object(line: bytes) -> dict[str, Any]:
    """A line's JSON object. Raises UserError, without saying where, if it is none."""
    try:
        content = json.loads(line.decode("utf8").rstrip())
    except UnicodeDecodeError as problem:
        raise UserError(f"expected UTF-8 text: {problem.reason} at byte {problem.start}") from None
    except json.JSONDecodeError as problem:
        raise UserError(f"expected a JSON object: {problem.msg} at column {problem.colno}") from None
    except (ValueError, RecursionError) as problem:  # a number of thousands of digits, thousands of brackets
        raise UserError(f"expected a JSON object that can be read: {problem}") from None
    if not isinstance(content, dict):
        raise UserError(f"expected a JSON object with the columns of a row, got {content!r:.60}")
    return content
