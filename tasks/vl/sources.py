"""Two sources that hub repositories of images call for: splits in repositories of their own, and a caption a row."""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hyperpelt import Hub, UserError


@dataclass(frozen=True)
class Gathered:
    """A set whose splits stand in repositories of their own: (split, repository) pairs; a repository has that split."""

    parts: tuple[tuple[str, Hub], ...]

    def describe(self) -> str:
        return "hub " + ", ".join(hub.describe().removeprefix("hub ") for _, hub in self.parts)

    def splits(self, data_root: Path | None) -> tuple[str, ...]:
        return tuple(split for split, _ in self.parts)

    def state(self, split: str, data_root: Path | None) -> Hashable:
        return self._hub(split).state(split, data_root)

    def read(self, split: str, data_root: Path | None) -> Any:
        return self._hub(split).read(split, data_root)

    def _hub(self, split: str) -> Hub:
        if split not in dict(self.parts):
            raise UserError(f"No source split {split!r}: {self.describe()} have {', '.join(dict(self.parts))}.")
        return dict(self.parts)[split]


@dataclass(frozen=True)
class Captioned:
    """A repository with one caption a row, as one row an image: the captions of equal `key` stand in `captions`."""

    hub: Hub
    key: str
    caption: str = "caption"

    def describe(self) -> str:
        return self.hub.describe()

    def splits(self, data_root: Path | None) -> tuple[str, ...]:
        return self.hub.splits(data_root)

    def state(self, split: str, data_root: Path | None) -> Hashable:
        return self.hub.state(split, data_root)

    def read(self, split: str, data_root: Path | None) -> Any:
        rows: Any = self.hub.read(split, data_root)  # a `datasets.Dataset`
        first: dict[Hashable, int] = {}
        captions: dict[Hashable, list[str]] = {}
        for number, row in enumerate(rows.select_columns([self.key, self.caption])):
            first.setdefault(row[self.key], number)
            captions.setdefault(row[self.key], []).append(row[self.caption])
        images = rows.select(list(first.values())).remove_columns([self.caption])
        return images.add_column("captions", list(captions.values()))
