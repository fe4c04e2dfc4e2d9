"""Reading files of rows, one way for training and `predict` alike: what is text in the file is text in the row.

A CSV or TSV file holds text and nothing else: `01232`, `1.20` and `2012-01-03` are read as they stand, and so are `NA`
and `null`. JSON and Parquet files say themselves what is a number. Whoever wants something else says so by column
(`types`), for which `TYPES` holds the conversions.
"""

from __future__ import annotations

import json
import re
import warnings
from bisect import bisect_right
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cached_property
from itertools import accumulate
from pathlib import Path
from typing import Any, overload

from hyperpelt.errors import UserError, unknown
from hyperpelt.tasks.columns import class_names, with_names
from hyperpelt.tasks.json_rows import BOM, PACKED, JsonRows, content_of, open_packed
from hyperpelt.tasks.rows import picked
from hyperpelt.tasks.sources import Row, Rows, load_rows

CHUNK = 100_000  # lines of a table parsed at once
FORMATS = ("csv", "tsv", "json", "jsonl", "parquet", "txt")


def format_of(file: Path) -> str | None:
    """The format that a file's name tells, also below a compression's; None for another."""
    suffixes = [suffix.lower() for suffix in file.suffixes]
    packed = len(suffixes) > 1 and suffixes[-1] in PACKED
    name = (suffixes[-2] if packed else suffixes[-1]).removeprefix(".") if suffixes else ""
    return name if name in FORMATS else None


def read_file(file: Path, format: str, options: Mapping[str, Any]) -> Rows:
    """The rows of one file of one of `FORMATS`. options: of `pandas.read_csv` (CSV, TSV), `field` (JSON: where in the
    file the rows stand), or of the reader of `datasets` (Parquet, text). Raises UserError that names the file."""
    try:
        return _READERS[format](file, dict(options))
    except UserError as problem:
        raise UserError(f"Could not read {file}: {str(problem).removeprefix(f'Could not read {file}: ')}") from None
    except Exception as problem:  # pandas, zlib, the file system: types of their own each
        raise UserError(f"Could not read {file}: {_why(problem)}") from problem


def _why(problem: Exception) -> str:
    """What is wrong with a file, in words where it happens often; else what its reader said first."""
    if isinstance(problem, UnicodeDecodeError):
        found = f"byte {problem.object[problem.start]:#04x} at {problem.start:,}"
        return (
            f"it is not UTF-8 ({found}). Save it as UTF-8; a CSV may also name its own, options: {{encoding: cp1252}}."
        )
    if type(problem).__name__ == "EmptyDataError":  # pandas', which is not imported for its name alone
        return "it is empty: expected a line of column names, then rows."
    text = (str(problem).strip().splitlines() or [""])[0]
    if shifted := re.search(r"Expected (\d+) fields in line (\d+), saw (\d+)", text):
        fields, line, saw = shifted.groups()
        return (
            f"line {line} has {saw} fields, the header {fields}: a text with a separator in it is quoted, or another "
            'separator is named, options: {sep: ";"}.'
        )
    if opened := re.search(r"EOF inside string starting at row (\d+)", text):
        return (
            f"a quote that opens in row {int(opened[1]) - 1} is never closed: write a quote in a quoted text twice, or "
            "read the file without quotes, options: {quoting: 3}."
        )
    return f"{type(problem).__name__}: {text}"


def _read_table(file: Path, options: dict[str, Any]) -> Rows:
    import datasets
    import pandas
    import pyarrow

    if "column_names" in options:  # as `datasets` calls it
        options["names"] = options.pop("column_names")
    as_text: dict[str, Any] = {
        "dtype": str,
        "keep_default_na": False,
        "na_filter": False,
        "index_col": False,
        "encoding": "utf8",
    }
    with warnings.catch_warnings():
        warnings.filterwarnings("error", "Length of header", pandas.errors.ParserWarning)  # of others pandas goes on
        warnings.filterwarnings("ignore", "Falling back to the 'python' engine", pandas.errors.ParserWarning)
        try:
            how: Any = {**as_text, **options}
            _refuse_twice(file, how)
            chunks = list(pandas.read_csv(file, chunksize=CHUNK, **how))
        except pandas.errors.ParserWarning:
            raise UserError("its first row has more fields than the header names (a comma too many?)") from None
        except TypeError as problem:
            raise UserError(f"pandas.read_csv refuses the options {', '.join(options)} ({problem})") from None
    table = pyarrow.concat_tables(
        [pyarrow.Table.from_pandas(chunk, preserve_index=False) for chunk in chunks], promote_options="permissive"
    )
    rows: Any = datasets.Dataset(table.replace_schema_metadata(None))
    return rows


LOOKS = (
    "sep", "delimiter", "dialect", "quoting", "quotechar", "doublequote", "escapechar", "skipinitialspace", "encoding",
    "encoding_errors", "lineterminator", "compression", "skiprows", "skip_blank_lines", "comment", "engine",
)  # fmt: skip


def _refuse_twice(file: Path, how: Any) -> None:
    """UserError for a name that two columns of the header have: the second would be read by nobody."""
    import pandas

    if "names" in how or "header" in how:
        return
    looks = {name: value for name, value in how.items() if name in LOOKS}
    first = pandas.read_csv(file, header=None, nrows=1, dtype=str, na_filter=False, **looks)
    names = [name for name in first.iloc[0] if name] if len(first) else []
    twice = [name for name in dict.fromkeys(names) if names.count(name) > 1]
    if twice:
        raise UserError(f"its header names {', '.join(map(repr, twice))} twice: give each column a name of its own")


def _read_tsv(file: Path, options: dict[str, Any]) -> Rows:
    # A lone quote would swallow all lines up to the next one: TSV files are not quoted.
    return _read_table(file, {"sep": "\t", "quoting": 3, **options})


def _read_jsonl(file: Path, options: dict[str, Any]) -> Rows:
    _only(options)
    return JsonRows(file)


def _read_json(file: Path, options: dict[str, Any]) -> Rows:
    """A list of objects, an object that holds one (`field`), or JSONL under the name of JSON."""
    _only(options, "field")
    content = content_of(file)
    if not content.lstrip().startswith(b"[") and "field" not in options:
        try:
            return JsonRows(file)
        except UserError as problem:
            raise UserError(f"{problem}. A .json file holds a list of objects, or `field` says where it does") from None
    rows = json.loads(content)
    for name in str(options["field"]).split(".") if "field" in options else ():
        if not isinstance(rows, Mapping) or name not in rows:
            raise UserError(f"no field {options['field']!r} in it")
        rows = rows[name]
    if not isinstance(rows, list):
        raise UserError(f"expected a list of objects, got {type(rows).__name__}")
    for number, row in enumerate(rows):
        if not isinstance(row, dict):
            raise UserError(f"row {number}: expected an object with the columns of a row, got {row!r:.60}")
    columns = list(dict.fromkeys(name for row in rows for name in row))
    return [{name: row.get(name) for name in columns} for row in rows]


def _read_text(file: Path, options: dict[str, Any]) -> Rows:
    with open_packed(file) as stream:
        if not stream.read(len(BOM) + 1).removeprefix(BOM):
            return []
    return load_rows("text", [file], **{"encoding": "utf-8-sig", **options})


def _read_parquet(file: Path, options: dict[str, Any]) -> Rows:
    return load_rows("parquet", [file], **options)


_READERS: dict[str, Callable[[Path, dict[str, Any]], Rows]] = {
    "csv": _read_table,
    "tsv": _read_tsv,
    "jsonl": _read_jsonl,
    "json": _read_json,
    "txt": _read_text,
    "parquet": _read_parquet,
}


def _only(options: Mapping[str, Any], *known: str) -> None:
    for name in options:
        if name not in known:
            raise unknown("option of a JSON file", name, known)


# ------------------------------------------------------------------------------------------------------------- types


def _boolean(value: Any) -> bool:
    words = {"true": True, "false": False, "yes": True, "no": False, "1": True, "0": False}
    if str(value).strip().lower() not in words:
        raise ValueError(value)
    return words[str(value).strip().lower()]


TYPES: dict[str, Callable[[Any], Any]] = {
    "text": str,
    "int": lambda value: int(str(value)),
    "float": float,
    "bool": _boolean,
    "json": lambda value: json.loads(value) if isinstance(value, str) else value,
}


def typed(row: Row, types: Sequence[tuple[str, str]]) -> Row:
    """The row with the columns that `types` names converted; a blank cell of another type than text is None."""
    if not types:
        return row
    content = dict(row)
    for column, kind in types:
        value = content.get(column)
        if value is None:
            continue
        try:
            blank = kind != "text" and isinstance(value, str) and not value.strip()
            content[column] = None if blank else TYPES[kind](value)
        except (TypeError, ValueError, RecursionError):
            raise UserError(f"column {column!r} is {value!r:.60}, expected {kind} as its `types` say") from None
    return content


class FileRow(dict[str, Any]):
    """A row that knows its file, and its number there (from 0): paths of images are relative to the file's folder."""

    def __init__(self, content: Row, file: Path, number: int | None = None) -> None:
        super().__init__(content)
        self.file, self.number = file, number

    @property
    def folder(self) -> Path:
        """Where the file lies."""
        return self.file.parent


class FileRows(Sequence[Row]):
    """The rows of some files, in order. parts: (rows, their file, their numbers in it). The number of a class knows its
    name, as each file may number them differently."""

    def __init__(self, parts: Sequence[tuple[Rows, Path, Sequence[int]]]) -> None:
        self.parts = tuple(parts)

    @classmethod
    def of(cls, files: Sequence[tuple[Rows, Path]]) -> FileRows:
        """All rows of each file."""
        return cls([(rows, file, range(len(rows))) for rows, file in files])

    @property
    def features(self) -> Mapping[str, Any]:
        """The columns, with the features of `datasets` where the files have some."""
        rows = self.parts[0][0]
        first: Row = rows[0] if len(rows) else {}
        return getattr(rows, "features", None) or dict.fromkeys(first)

    @cached_property
    def _names(self) -> list[dict[str, tuple[str, ...]]]:
        """The names of each part's classes."""
        return [class_names(rows) for rows, _, _ in self.parts]

    @cached_property
    def _ends(self) -> list[int]:
        """How many rows stand in the parts up to each: there may be thousands."""
        return list(accumulate(len(rows) for rows, _, _ in self.parts))

    def __len__(self) -> int:
        return self._ends[-1] if self.parts else 0

    def __iter__(self) -> Iterator[Row]:
        from hyperpelt.tasks.rows import iterate

        for (rows, file, numbers), names in zip(self.parts, self._names, strict=True):
            for row, number in zip(iterate(rows), numbers, strict=True):
                yield FileRow(with_names(row, names), file, number)

    @overload
    def __getitem__(self, index: int) -> Row: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[Row]: ...
    def __getitem__(self, index: int | slice) -> Row | Sequence[Row]:
        if isinstance(index, slice):
            return [self[number] for number in range(*index.indices(len(self)))]
        part, place = self._locate(range(len(self))[index])
        rows, file, numbers = self.parts[part]
        return FileRow(with_names(rows[place], self._names[part]), file, numbers[place])

    def _locate(self, index: int) -> tuple[int, int]:
        """(which part, the row's place in it)."""
        part = bisect_right(self._ends, index)
        return part, index - (self._ends[part - 1] if part else 0)

    def select(self, numbers: Sequence[int]) -> FileRows:
        """The rows of these numbers, in this order."""
        chosen: list[tuple[int, list[int]]] = []
        for number in numbers:
            part, place = self._locate(number)
            if not chosen or chosen[-1][0] != part:
                chosen.append((part, []))
            chosen[-1][1].append(place)
        found = [(self.parts[part], places) for part, places in chosen]
        return FileRows(
            [(picked(rows, places), file, [there[i] for i in places]) for (rows, file, there), places in found]
        )
