"""Reading files of rows, one way for training and `predict` alike: what is text in the file is text in the row.

A CSV or TSV file holds text and nothing else: `01232`, `1.20` and `2012-01-03` are read as they stand, and so are `NA`
and `null`. JSON and Parquet files say themselves what is a number. Whoever wants something else says so by column
(`types`), for which `TYPES` holds the conversions.
"""

from __future__ import annotations

import bz2
import gzip
import json
import lzma
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from importlib import import_module
from pathlib import Path
from typing import Any, BinaryIO, cast, overload

from hyperpelt.errors import UserError, unknown
from hyperpelt.tasks.sources import Row, Rows, load_rows

CHUNK = 100_000  # lines of a table parsed at once
FORMATS = ("csv", "tsv", "json", "jsonl", "parquet", "txt")
BOM = b"\xef\xbb\xbf"  # a byte order mark, as Windows writes it, is no text
PACKED = (".gz", ".xz", ".bz2", ".zst")


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
        raise UserError(f"Could not read {file}: {problem}") from None
    except Exception as problem:  # pandas, zlib, the file system: types of their own each
        text = str(problem).strip().splitlines()
        raise UserError(f"Could not read {file}: {type(problem).__name__}: {text[0] if text else ''}") from problem


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
        warnings.simplefilter("error", pandas.errors.ParserWarning)
        try:
            how: Any = {**as_text, **options}
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


def _read_tsv(file: Path, options: dict[str, Any]) -> Rows:
    # A lone quote would swallow all lines up to the next one: TSV files are not quoted.
    return _read_table(file, {"sep": "\t", "quoting": 3, **options})


def _read_jsonl(file: Path, options: dict[str, Any]) -> Rows:
    _only(options)
    return JsonRows(_content(file).split(b"\n"))


def _read_json(file: Path, options: dict[str, Any]) -> Rows:
    """A list of objects, an object that holds one (`field`), or JSONL under the name of JSON."""
    _only(options, "field")
    content = _content(file)
    if not content.lstrip().startswith(b"[") and "field" not in options:
        try:
            return JsonRows(content.split(b"\n"))
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
    return load_rows("text", [file], **options)


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


def open_packed(file: Path) -> BinaryIO:
    """A file's bytes, unpacked as its name says. Raises OSError."""
    if file.suffix.lower() == ".zst":
        try:
            return cast(BinaryIO, import_module("zstandard").open(file, "rb"))
        except ImportError:
            raise UserError(f"Reading {file} needs the package zstandard: pip install zstandard.") from None
    opened = {".gz": gzip.open, ".xz": lzma.open, ".bz2": bz2.open}.get(file.suffix.lower(), open)
    return cast(BinaryIO, opened(file, "rb"))


def _content(file: Path) -> bytes:
    with open_packed(file) as stream:
        return stream.read().removeprefix(BOM)


class JsonRows(Sequence[Row]):
    """The lines of a JSONL file, kept as they are and parsed when they are asked for; blank ones are none.

    A key that other rows have and one lacks is null in it. Raises UserError, which names the line, for one that is no
    JSON object.
    """

    def __init__(self, lines: Sequence[bytes]) -> None:
        self._lines: list[bytes] = []
        columns: dict[str, None] = {}
        for number, line in enumerate(lines, 1):
            if line.strip():
                try:
                    columns |= dict.fromkeys(json_object(line))
                except UserError as problem:
                    raise UserError(f"line {number}: {problem}") from None
                self._lines.append(line)
        self.column_names = list(columns)

    def __len__(self) -> int:
        return len(self._lines)

    @overload
    def __getitem__(self, index: int) -> Row: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[Row]: ...
    def __getitem__(self, index: int | slice) -> Row | Sequence[Row]:
        if isinstance(index, slice):
            return [self[number] for number in range(*index.indices(len(self)))]
        return dict.fromkeys(self.column_names) | json.loads(self._lines[index])


def json_object(line: bytes) -> dict[str, Any]:
    """A line's JSON object. Raises UserError, without saying where, if it is none."""
    try:
        content = json.loads(line.decode("utf8"))
    except UnicodeDecodeError as problem:
        raise UserError(f"expected UTF-8 text: {problem.reason} at byte {problem.start}") from None
    except json.JSONDecodeError as problem:
        raise UserError(f"expected a JSON object: {problem.msg} at column {problem.colno}") from None
    except (ValueError, RecursionError) as problem:  # a number of thousands of digits, thousands of brackets
        raise UserError(f"expected a JSON object that can be read: {problem}") from None
    if not isinstance(content, dict):
        raise UserError(f"expected a JSON object with the columns of a row, got {content!r:.60}")
    return content


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
    """A row that knows in which folder its file stands: paths of images in it are relative to that."""

    def __init__(self, content: Row, folder: Path) -> None:
        super().__init__(content)
        self.folder = folder


class FileRows(Sequence[Row]):
    """The rows of some files, in order. parts: (rows, folder of their file)."""

    def __init__(self, parts: Sequence[tuple[Rows, Path]]) -> None:
        self.parts = tuple(parts)

    @property
    def features(self) -> Mapping[str, Any]:
        """The columns, with the features of `datasets` where the files have some."""
        rows = self.parts[0][0]
        first: Row = rows[0] if len(rows) else {}
        return getattr(rows, "features", None) or dict.fromkeys(first)

    def __len__(self) -> int:
        return sum(len(rows) for rows, _ in self.parts)

    def __iter__(self) -> Iterator[Row]:
        from hyperpelt.tasks.rows import iterate

        for rows, folder in self.parts:
            for row in iterate(rows):
                yield FileRow(row, folder)

    @overload
    def __getitem__(self, index: int) -> Row: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[Row]: ...
    def __getitem__(self, index: int | slice) -> Row | Sequence[Row]:
        if isinstance(index, slice):
            return [self[number] for number in range(*index.indices(len(self)))]
        rows, folder, place = self._locate(range(len(self))[index])
        return FileRow(rows[place], folder)

    def _locate(self, index: int) -> tuple[Rows, Path, int]:
        for rows, folder in self.parts:
            if index < len(rows):
                return rows, folder, index
            index -= len(rows)
        raise IndexError(index)

    def select(self, numbers: Sequence[int]) -> FileRows:
        """The rows of these numbers, in this order."""
        chosen: list[tuple[Rows, Path, list[int]]] = []
        for number in numbers:
            rows, folder, place = self._locate(number)
            if not chosen or chosen[-1][0] is not rows:
                chosen.append((rows, folder, []))
            chosen[-1][2].append(place)
        return FileRows([(_pick(rows, places), folder) for rows, folder, places in chosen])


def _pick(rows: Rows, numbers: Sequence[int]) -> Rows:
    return rows.select(numbers) if hasattr(rows, "select") else [rows[number] for number in numbers]
