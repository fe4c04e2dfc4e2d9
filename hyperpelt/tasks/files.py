"""Local files as a source of rows: CSV, TSV, JSON, JSONL, Parquet, text."""

from __future__ import annotations

from collections import Counter
from collections.abc import Hashable, Mapping
from dataclasses import dataclass, field
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from hyperpelt.errors import UserError, unknown
from hyperpelt.tasks.json_rows import with_all_keys
from hyperpelt.tasks.origin import caller
from hyperpelt.tasks.readers import FORMATS, TYPES, FileRows, format_of, read_file
from hyperpelt.tasks.sources import Rows, stats


@dataclass(frozen=True)
class Files:
    """Local files, by split: {'train': 'train.csv', 'validation': ['a.jsonl', 'b.jsonl']}; patterns like '*.csv' work.

    CSV, TSV (never quoted), JSON, JSONL, Parquet and text (one row a line, column 'text'), each also compressed (.gz).
    Relative paths start from `base`, by default the folder of the file that says `Files(...)`; what is not there is
    looked for below the data root. Text stays text: a CSV's `01232` is read as it stands. types: {column: type} where
    something else is meant, of `readers.TYPES` (text, int, float, bool, json). options: of the format's reader, such
    as {'sep': ';'} (see `readers.read_file`).
    """

    paths: Any
    base: Path | str | None = field(default=None, kw_only=True)
    options: Any = field(default=(), kw_only=True)
    types: Any = field(default=(), kw_only=True)

    def __post_init__(self) -> None:
        if not isinstance(self.paths, Mapping) or not self.paths:
            raise UserError(f"Files expects {{split: path or list of paths}}, got {self.paths!r}.")
        paths = {split: (p,) if isinstance(p, str | Path) else tuple(p) for split, p in self.paths.items()}
        object.__setattr__(self, "paths", tuple((k, tuple(map(str, v))) for k, v in paths.items()))
        for name in ("options", "types"):
            value = getattr(self, name)
            object.__setattr__(self, name, tuple(value.items()) if isinstance(value, Mapping) else tuple(value))
        for column, kind in self.types:
            if kind not in TYPES:
                raise unknown(f"type of column {column!r}", str(kind), TYPES)
        base = caller().folder if self.base is None else Path(self.base).expanduser()
        object.__setattr__(self, "base", base.absolute())

    def describe(self) -> str:
        return "files " + ", ".join(path for _, paths in self.paths for path in paths)

    def splits(self, data_root: Path | None) -> tuple[str, ...]:
        return tuple(split for split, _ in self.paths)

    def state(self, split: str, data_root: Path | None) -> Hashable:
        return stats(self.files(split, data_root))

    def read(self, split: str, data_root: Path | None) -> Rows:
        files = self.files(split, data_root)
        kinds = {format_of(file) for file in files}
        if len(kinds) > 1 or None in kinds:
            raise UserError(
                f"Cannot read {', '.join(map(str, files))}: expected files of one kind among "
                f"{', '.join(f'.{name}' for name in FORMATS)}."
            )
        (kind,) = kinds
        assert kind is not None
        read = [read_file(file, kind, dict(self.options)) for file in files]
        return FileRows.of(list(zip(with_all_keys(read) if kind in ("json", "jsonl") else read, files, strict=True)))

    def options_for(self, format: str) -> dict[str, Any]:
        """The options with which another file of that format is read as these are: their own, if they have it."""
        ours = {format_of(Path(path)) for _, paths in self.paths for path in paths}
        return dict(self.options) if format in ours else {}

    def files(self, split: str, data_root: Path | None) -> tuple[Path, ...]:
        """The files of a split, in order. Raises UserError for one that is not named, or a file that is not there."""
        paths = dict(self.paths)
        if split not in paths:
            raise unknown("source split", split, paths)
        return tuple(file for path in paths[split] for file in self._find(path, data_root))

    def _find(self, path: str, data_root: Path | None) -> list[Path]:
        folders = self._folders(data_root)
        for folder in folders:
            full = folder / Path(path).expanduser()
            if full.is_file():
                return [full]
            # A pattern is what was written: the folder that it starts from may be called "run[1]".
            start = Path(full.anchor) if Path(path).expanduser().is_absolute() else folder
            if found := sorted(p for p in start.glob(str(full.relative_to(start))) if p.is_file()):
                return found
        for folder in folders:
            if (full := folder / Path(path).expanduser()).is_dir():
                raise UserError(f"{full} is a folder, expected files: name those in it{_such_as(path, full)}.")
        base = folders[0]
        places = f"{base}" + (f" or in the data root {data_root}" if data_root else "")
        how = "Paths are relative to the file that defines the task."
        if base.parent.name == "plugins" and (base.parent.parent / "run.yaml").is_file():
            how = "A run folder keeps what its tasks are, not their rows: give the folder of the rows with --data-root."
        near = [name for folder in folders for name in _like((folder / path).expanduser())]
        meant = f"Did you mean {' or '.join(map(repr, near))}? " if near else ""
        raise UserError(f"No file {path!r} in {places}. {meant}{how}")

    def _folders(self, data_root: Path | None) -> list[Path]:
        assert isinstance(self.base, Path), "__post_init__ made it one"
        return [self.base, *([data_root] if data_root else [])]


def _such_as(path: str, folder: Path) -> str:
    """The pattern of a folder's files of rows, most of one kind: ', such as rows/*.csv'."""
    kinds = Counter(format_of(file) for file in folder.iterdir() if file.is_file())
    del kinds[None]
    return f", such as {Path(path) / f'*.{kinds.most_common(1)[0][0]}'}" if kinds else ""


def _like(path: Path) -> list[str]:
    """Names of files that lie where `path` should, and are called much the same."""
    try:
        there = [file.name for file in path.parent.iterdir() if file.is_file()]
    except OSError:
        return []
    return get_close_matches(path.name, there, n=2, cutoff=0.7)
