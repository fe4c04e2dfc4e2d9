"""Rows as Hugging Face's `datasets` has them: an object in memory, one saved on disk, folders of images, a stream.

Loaded(dataset_dict)                       # datasets.DatasetDict or Dataset, or {split: list of rows}
Saved("my_data")                           # what dataset.save_to_disk wrote
ImageFolder("photos")                      # photos/train/cat/1.jpg ...: columns `image` and `label`
Streamed("namespace/name", rows=5000)      # the first rows of a large set, without downloading all of it
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from hyperpelt.errors import UserError, unknown
from hyperpelt.tasks.columns import undecoded
from hyperpelt.tasks.sources import Hub, Rows, quiet, stats

SPLITS = ("train", "validation", "test")


@dataclass(frozen=True, eq=False)
class Loaded:
    """Rows that are in memory: a `DatasetDict` or another mapping from splits to rows, or one `Dataset`, which is
    'train'. Data frames of pandas are rows, too."""

    rows: Any

    def __post_init__(self) -> None:
        named = self.rows if isinstance(self.rows, Mapping) else {"train": self.rows}
        for split, rows in named.items():
            if not hasattr(rows, "__len__") or not hasattr(rows, "__getitem__") or isinstance(rows, str | bytes):
                raise UserError(
                    f"Loaded takes a datasets.Dataset, a DatasetDict or {{split: rows}}, got {type(rows).__name__} for "
                    f"{split!r}; of an IterableDataset take `list(stream.take(1000))`."
                )
        frames = {split: rows.to_dict("records") for split, rows in named.items() if hasattr(rows, "iterrows")}
        object.__setattr__(self, "rows", dict(named) | frames)

    def describe(self) -> str:
        return f"in memory ({', '.join(map(str, self.rows))})"

    def splits(self, data_root: Path | None) -> tuple[str, ...]:
        return tuple(self.rows)

    def state(self, split: str, data_root: Path | None) -> Hashable:
        return getattr(self.rows.get(split), "_fingerprint", None)

    def read(self, split: str, data_root: Path | None) -> Rows:
        if split not in self.rows:
            raise unknown("source split", split, self.rows)
        rows = self.rows[split]
        return undecoded(rows) if hasattr(rows, "features") else list(rows)


@dataclass(frozen=True)
class Saved:
    """A folder that `save_to_disk` of a `Dataset` or `DatasetDict` wrote. base: what a relative path is below."""

    path: str
    base: Path = field(default_factory=Path.cwd)

    def describe(self) -> str:
        return f"saved {self.path}"

    def splits(self, data_root: Path | None) -> tuple[str, ...]:
        if (self._folder / "dataset_dict.json").is_file():
            return tuple(sorted(path.parent.name for path in self._folder.glob("*/state.json")))
        return ("train",)

    def state(self, split: str, data_root: Path | None) -> Hashable:
        return stats(sorted(self._of(split).glob("*")))

    def read(self, split: str, data_root: Path | None) -> Rows:
        import datasets

        try:
            with quiet():
                return undecoded(datasets.load_from_disk(str(self._of(split))))
        except Exception as error:  # pyarrow and datasets each have types of their own
            raise UserError(
                f"Could not read {self._of(split)}: {type(error).__name__}: {error}".rstrip(".") + "."
            ) from error

    @property
    def _folder(self) -> Path:
        return self.base / Path(self.path).expanduser()

    def _of(self, split: str) -> Path:
        if not any((self._folder / name).is_file() for name in ("dataset_dict.json", "state.json")):
            raise UserError(
                f"{self._folder} is no folder that `save_to_disk` wrote (no dataset_dict.json, state.json)."
            )
        if split not in self.splits(None):
            raise unknown("source split", split, self.splits(None))
        return self._folder / split if (self._folder / "dataset_dict.json").is_file() else self._folder


@dataclass(frozen=True)
class ImageFolder:
    """Images in folders by split and class, as `datasets`' imagefolder lays them out: `path/train/cat/1.jpg`; without
    folders of splits, all is 'train'. Columns: `image`, and `label` where there are folders of classes."""

    path: str
    base: Path = field(default_factory=Path.cwd)

    def describe(self) -> str:
        return f"images {self.path}"

    def splits(self, data_root: Path | None) -> tuple[str, ...]:
        found = [split for split in SPLITS if (self._folder / split).is_dir()]
        return tuple(found) or ("train",)

    def state(self, split: str, data_root: Path | None) -> Hashable:
        return stats([path for path in sorted(self._of(split).rglob("*")) if path.is_file()])

    def read(self, split: str, data_root: Path | None) -> Rows:
        import datasets

        folder = self._of(split)
        try:
            with quiet():
                return undecoded(datasets.load_dataset("imagefolder", data_dir=str(folder), split="train"))
        except Exception as error:
            raise UserError(
                f"Found no images in {folder} ({type(error).__name__}: {str(error).splitlines()[0]})."
            ) from error

    @property
    def _folder(self) -> Path:
        return self.base / Path(self.path).expanduser()

    def _of(self, split: str) -> Path:
        if split not in self.splits(None):
            raise unknown("source split", split, self.splits(None))
        folder = self._folder / split if (self._folder / split).is_dir() else self._folder
        if not folder.is_dir():
            raise UserError(f"There is no folder {folder} with images.")
        return folder


@dataclass(frozen=True)
class Streamed(Hub):
    """The first `rows` rows of each split of a hub repository, streamed: the rest is not downloaded."""

    rows: int = field(default=1000, kw_only=True)

    def describe(self) -> str:
        return f"{super().describe()} (streamed, {self.rows:,} rows)"

    def read(self, split: str, data_root: Path | None) -> Rows:
        import datasets

        if data_root is None:
            stream = self.stream(split)
        else:
            files = [str(file) for file in self.files(split, data_root)]
            stream = datasets.load_dataset("parquet", data_files={"train": files}, split="train", streaming=True)
        stream = undecoded(stream) if stream.features else stream
        try:
            found = list(stream.take(self.rows))
        except Exception as error:  # the network may go in the midst of it
            raise UserError(
                f"The stream of {super().describe()[4:]} broke off ({type(error).__name__}: {error})".rstrip(".") + "."
            ) from error
        rows: Any = datasets.Dataset.from_list(found, features=stream.features)
        return rows
