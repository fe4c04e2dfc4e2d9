"""Where a task's raw rows come from: the hub or its local mirror, or a Python generator (`files` has the third kind).

A source is a frozen, hashable value with three verbs: `splits` (what it offers), `state` (what decides whether a cached
read is still good) and `read` (the rows of one split). `read_rows` is the cached way to call it: one (source, split) is
loaded once a process.

A local mirror has the layout of the hub's own repositories, `<root>/<namespace>/<name>/<config>/<split>-*.parquet`, or
that of their branch `refs/convert/parquet`, `.../<config>/<split>/0000.parquet`. Its root is the argument `data_root`,
else the environment variable HYPERPELT_DATA; with neither, rows come from the hub. A data root that is given and lacks
the set is an error: rows never come from elsewhere behind the user's back.
"""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

from hyperpelt.config.paths import place
from hyperpelt.errors import UserError, unknown
from hyperpelt.tasks.columns import undecoded
from hyperpelt.tasks.neighbours import without_prefix
from hyperpelt.tasks.reachable import offline_at_once

Row = Mapping[str, Any]
Rows = Sequence[Row]
DATA_VARIABLE = "HYPERPELT_DATA"
# train-00000-of-00002.parquet; uploads of 2022 and 2023 have a hash behind it.
_PARQUET = re.compile(r"(?P<split>.+?)(-(?P<number>\d+)-of-(?P<count>\d+)(-[0-9a-f]+)?)?\.parquet")


@runtime_checkable
class Source(Protocol):
    """What a task needs of its source; hashable, because reads are cached by it.

    data_root: folder of a local mirror, or None. A split that cannot be read is a UserError that says why.
    """

    def splits(self, data_root: Path | None) -> tuple[str, ...]:
        """Names of the source splits that can be read, such as 'train'."""

    def state(self, split: str, data_root: Path | None) -> Hashable:
        """A value that changes when the rows may have changed (a revision, sizes and times of files)."""

    def read(self, split: str, data_root: Path | None) -> Rows:
        """The rows of one source split: a `datasets.Dataset` or a list of mappings from columns to values."""

    def describe(self) -> str:
        """The source in a few words, for messages and lists."""


def resolve_root(data_root: str | Path | None) -> Path | None:
    """The data root to read from: the argument, else HYPERPELT_DATA, else None (the hub)."""
    origin = "data_root" if data_root is not None else f"the environment variable {DATA_VARIABLE}"
    value = data_root if data_root is not None else os.environ.get(DATA_VARIABLE) or None
    if value is None:
        return None
    root = place(value).absolute()
    if not root.is_dir():
        raise UserError(f"The data root {root} (from {origin}) is not a folder.")
    return root


def read_rows(source: Source, split: str, data_root: Path | None) -> Rows:
    """The rows of one source split, read once a process for as long as the source's state stays the same."""
    return _read_cached(source, split, data_root, source.state(split, data_root))


@cache
def _read_cached(source: Source, split: str, data_root: Path | None, state: Hashable) -> Rows:
    return source.read(split, data_root)


@dataclass(frozen=True)
class Hub:
    """A repository of the Hugging Face hub, or the same layout below a data root.

    repo: 'namespace/name', such as 'nyu-mll/glue'. config: the configuration, such as 'rte'; None if there is only one.
    """

    repo: str
    config: str | None = None
    revision: str | None = field(default=None, kw_only=True)

    def __post_init__(self) -> None:
        if self.repo.count("/") != 1:
            raise UserError(f"A hub id is 'namespace/name', such as 'nyu-mll/glue'; got {self.repo!r}.")

    def describe(self) -> str:
        return " ".join(["hub", self.repo, *([self.config] if self.config else [])])

    def splits(self, data_root: Path | None) -> tuple[str, ...]:
        if data_root is None:
            return tuple(self._ask_hub("get_dataset_split_names", revision=self.revision))
        return tuple(sorted(self._mirror(data_root)))

    def state(self, split: str, data_root: Path | None) -> Hashable:
        return None if data_root is None else stats(self.files(split, data_root))

    def read(self, split: str, data_root: Path | None) -> Rows:
        if data_root is None:
            return undecoded(self._ask_hub("load_dataset", split=split, revision=self.revision))
        return load_rows("parquet", self.files(split, data_root))

    def stream(self, split: str) -> Any:
        """A split as `datasets` streams it from the hub."""
        return self._ask_hub("load_dataset", split=split, revision=self.revision, streaming=True)

    def files(self, split: str, data_root: Path) -> tuple[Path, ...]:
        """The files of a split below a data root. Raises UserError for one that is not there, or not whole."""
        found = self._mirror(data_root)
        if split not in found:
            raise UserError(
                f"No split {split!r} of {self.repo} {self.config or ''} below {data_root}; it has: {', '.join(found)}."
            )
        _refuse_part(found[split])
        return found[split]

    def _mirror(self, data_root: Path) -> dict[str, tuple[Path, ...]]:
        """{split: its parquet files} of this configuration below a data root."""
        folder = data_root / self.repo
        if not folder.is_dir():
            there = sorted(str(p.relative_to(data_root)) for p in data_root.glob("*/*") if p.is_dir())
            raise UserError(
                f"Looked for {self.repo} in the data root {data_root}: no folder {folder}. "
                f"It has: {_listing(there) or 'no <namespace>/<name> folders'}. "
                f"To read from the hub, unset {DATA_VARIABLE} and give no data root."
            )
        # Repositories with one configuration call its folder as they like: "default", "data", or none at all.
        candidates = [folder / self.config] if self.config else [folder / "default", folder / "data", folder]
        for candidate in candidates:
            if found := _parquet_splits(candidate):
                return found
        there = ", ".join(sorted(p.name for p in folder.iterdir() if p.is_dir())) or "no folders"
        looked = " or ".join(f"{candidate}/<split>-*.parquet" for candidate in candidates)
        raise UserError(f"No Parquet files of {self.describe()[4:]}: looked for {looked}; {folder} has: {there}.")

    def _ask_hub(self, verb: str, **options: Any) -> Any:
        import datasets

        try:
            with _download_shown(verb), offline_at_once():
                return getattr(datasets, verb)(self.repo, self.config, **options)
        except Exception as error:  # the library raises some ten types here, by what the hub answered
            raise UserError(
                f"Could not read {self.describe()[4:]} from the hub ({_first_line(error)}). Check the name and the "
                f"network, or give a local mirror: data_root (--data-root) or {DATA_VARIABLE}."
            ) from error


@dataclass(frozen=True)
class Generator:
    """Rows made by a Python function: fn(split, **options) returns or yields mappings; same arguments, same rows."""

    fn: Callable[..., Iterable[Row]]
    split_names: tuple[str, ...] = ("train", "validation", "test")
    options: Any = field(default=(), kw_only=True)

    def __post_init__(self) -> None:
        if not callable(self.fn):
            raise UserError(f"Generator expects a function of a split's name, got {self.fn!r}.")
        object.__setattr__(self, "split_names", tuple(self.split_names))
        if isinstance(self.options, Mapping):
            object.__setattr__(self, "options", tuple(self.options.items()))

    def describe(self) -> str:
        module = without_prefix(getattr(self.fn, "__module__", "?"))
        return f"generator {module}.{getattr(self.fn, '__qualname__', repr(self.fn))}"

    def splits(self, data_root: Path | None) -> tuple[str, ...]:
        return self.split_names

    def state(self, split: str, data_root: Path | None) -> Hashable:
        return None

    def read(self, split: str, data_root: Path | None) -> Rows:
        if split not in self.split_names:
            raise unknown("source split", split, self.split_names)
        rows = self.fn(split, **dict(self.options))
        return undecoded(rows) if hasattr(rows, "features") and hasattr(rows, "select") else list(rows)


def _download_shown(verb: str) -> AbstractContextManager[None]:
    """A download may take long: a person at a terminal sees how far it is."""
    return nullcontext() if verb == "load_dataset" and sys.stderr.isatty() else quiet()


@contextmanager
def quiet() -> Iterator[None]:
    """No progress bars of `datasets` inside."""
    from datasets.utils import are_progress_bars_disabled, disable_progress_bars, enable_progress_bars

    shown = not are_progress_bars_disabled()
    disable_progress_bars()
    try:
        yield
    finally:
        if shown:
            enable_progress_bars()


def load_rows(builder: str, files: Sequence[Path], **options: Any) -> Rows:
    """The rows of Parquet or text files, by the reader of `datasets` of that name."""
    import datasets

    try:
        some = [file for file in files if builder != "parquet" or _has_rows(file)]
        if not some:
            return _no_rows(files[0])
        # `datasets` reads its paths as patterns: a folder called "run[1]" must be escaped.
        paths = [re.sub(r"([\[\]*?])", r"[\1]", str(file)) for file in some]
        with quiet():
            # One name for whatever the split is called: the library refuses some ("all", "dev-1").
            return undecoded(datasets.load_dataset(builder, data_files={"train": paths}, split="train", **options))
    except Exception as error:  # pyarrow, pandas and datasets each have types of their own
        cause = error.__cause__ or error
        raise UserError(f"Could not read {', '.join(map(str, files))}: {_first_line(cause)}") from error


def _has_rows(file: Path) -> bool:
    """Whether a Parquet file has rows: many a program writes files without any among others, which `datasets` cannot
    read."""
    import pyarrow.parquet as pq

    return pq.read_metadata(file).num_rows > 0


def _no_rows(file: Path) -> Rows:
    """The columns of such a file."""
    import datasets
    import pyarrow.parquet as pq

    rows: Any = undecoded(datasets.Dataset(pq.read_schema(file).empty_table()))
    return rows


def _parquet_splits(folder: Path) -> dict[str, tuple[Path, ...]]:
    found: dict[str, list[Path]] = {}
    for file in sorted(folder.glob("*.parquet")):
        if match := _PARQUET.fullmatch(file.name):
            found.setdefault(match["split"], []).append(file)
    for file in () if found else sorted(folder.glob("*/*.parquet")):
        if file.stem.isdecimal():
            found.setdefault(file.parent.name, []).append(file)
    return {split: tuple(files) for split, files in found.items()}


def _refuse_part(files: Sequence[Path]) -> None:
    """UserError for a split of which files are missing, as after a download that broke off, or are there twice, as
    where a later upload was fetched into the same folder."""
    named = [match for file in files if (match := _PARQUET.fullmatch(file.name)) and match["count"]]
    counts = {int(match["count"]) for match in named}
    numbers = {int(match["number"]) for match in named}
    if len(counts) > 1 or len(numbers) < len(named) or (named and len(named) < len(files)):
        raise UserError(
            f"{files[0].parent} holds files of more than one upload of a split ({_listing([f.name for f in files])}): "
            "its rows would be read twice. Remove the earlier ones."
        )
    lacking = [number for count in counts for number in range(count) if number not in numbers]
    if lacking:
        raise UserError(
            f"{files[0].parent} holds {len(files)} of the {max(counts)} files of a split ({files[0].name} is there, "
            f"number {lacking[0]:05d} is not): fetch it again, which goes on where it stopped, or name these files in "
            "Files(...)."
        )


def _listing(names: Sequence[str]) -> str:
    return ", ".join(names[:12]) + (f", ... ({len(names)} in all)" if len(names) > 12 else "")


def stats(files: Sequence[Path]) -> Hashable:
    """What changes when one of the files does."""
    return tuple((str(file), (stat := file.stat()).st_size, stat.st_mtime_ns) for file in files)


def _first_line(error: BaseException) -> str:
    text = str(error).strip().splitlines()
    return f"{type(error).__name__}: {text[0]}" if text else type(error).__name__
