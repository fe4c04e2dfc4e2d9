"""Rendering one row: what a render function gets, and what it returns."""

from __future__ import annotations

import traceback
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from functools import partial
from pathlib import Path
from typing import Any

from hyperpelt.errors import UserError
from hyperpelt.tasks.sources import Row


@dataclass(frozen=True, slots=True, kw_only=True)
class Example:
    """One rendered row.

    - **input**: the text the encoder reads; **ending**: the last part of it, which is kept whole where the input is too
      long and is cut before it (a hypothesis after a long premise)
    - **target**: the text the decoder is trained to write
    - **choices**: the candidates to rank, None for an open answer; an empty or null one is no candidate
    - **label**: the gold answer for metrics: an index into choices (classification), a float (regression), a text or a
      tuple of accepted texts (generation; an empty one: the question has no answer)
    - **images**: PIL images, encoded bytes, paths, or undecoded image columns (see `hyperpelt.vision.images`)
    - **group**: rows of equal group are scored together (a MultiRC question)
    - **weight**: of this row's loss, 0 or more
    - **targets**: (text, score in 0..1) pairs where an answer can be written in several ways: training draws one in
      proportion to its score each time, and weights the loss by it (VQA's soft score; an image's captions)

    A render function may leave out what follows from the rest: `choices` if the task has fixed ones, `target` if there
    is a label or `targets`, `label` if there is a target; `Task.example` fills it in. A classification's label may be
    the text of a choice or its index (`hyperpelt.tasks.labels`).
    """

    input: str
    target: str = ""
    choices: tuple[str, ...] | None = None
    label: Any = None
    images: tuple[Any, ...] = ()
    group: Any = None
    weight: float = 1.0
    targets: tuple[tuple[str, float], ...] = ()
    ending: str = ""


class _MissingColumn(KeyError):
    """A render function asked for a column that the row does not have."""


class Columns(dict[str, Any]):
    """A row as a render function sees it: a missing column says so, an unanswered one is None.

    answer: the columns of the answer. answered False: they are None where the row lacks them.
    """

    def __init__(self, row: Row, answer: Sequence[str] = (), *, answered: bool = True) -> None:
        if not isinstance(row, Mapping):
            raise UserError(f"the row is {row!r}, expected a mapping of column names to values")
        super().__init__(row)
        self._given, self._answer = tuple(map(str, row)), answer
        for column in () if answered else answer:
            self.setdefault(column, None)

    def __missing__(self, column: str) -> Any:
        near = get_close_matches(str(column), self._given, n=1)
        hint = f", did you mean {near[0]!r}?" if near else ""
        for mark in ";", "\t", "|":
            if any(column in name.split(mark) for name in self._given if mark in name):
                hint = f": the file seems to part its columns by {mark!r}, so give its options: {{sep: {mark!r}}}"
        if column in self._answer and not hint:
            hint = ", and so no answer: `hyperpelt predict` answers such rows"
        raise _MissingColumn(f"expected column {column!r}, the row has {', '.join(map(repr, self._given))}{hint}")


def reach(row: Row, path: str) -> Any:
    """The value of a column, or of a field inside a struct ('idx.paragraph'); look-ups by key and nothing else."""
    if path in row:
        return row[path]
    value: Any = row
    for name in path.split("."):
        if value is None:  # so is what would be in it
            return None
        if not isinstance(value, Mapping):
            raise UserError(f"{path!r} needs a struct, but the column is {value!r}")
        value = (value if isinstance(value, Columns) else Columns(value))[name]
    return value


def beside(images: Iterable[Any], folder: Path) -> tuple[Any, ...]:
    """Images whose relative paths start from the folder of the file that names them; addresses stay what they are."""
    return tuple(map(partial(_beside, folder=folder), images))


def _beside(image: Any, folder: Path) -> Any:
    if isinstance(image, Mapping) and image.get("bytes") is None and isinstance(image.get("path"), str):
        return {**image, "path": _beside(image["path"], folder)}
    if isinstance(image, str | Path) and str(image) and "://" not in str(image):
        return str(folder / Path(image).expanduser())
    return image


def in_file(number: int | str, row: Row | None) -> str:
    """Where a split's row of that number stands in its file, if it comes from one: ' (row 999 of claims.csv)'."""
    file, there = getattr(row, "file", None), getattr(row, "number", None)
    if file is None or there is None:
        return ""
    return f" of {file.name}" if there == number else f" (row {there} of {file.name})"


class Naming:
    """Says in every error where it happened; what is not a UserError becomes one, with its cause kept.

    A split without a row's number: its rows are being read; otherwise one is being rendered.
    """

    def __init__(
        self, task: str, split: str | None = None, number: int | str | None = None, row: Row | None = None
    ) -> None:
        self.reading = split is not None and number is None
        at = "" if number is None else f", row {number}{in_file(number, row)}"
        self.where = f"Task {task}" + (f", split {split}" if split else "") + at

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: Any, error: BaseException | None, trace: Any) -> None:
        if isinstance(error, UserError):
            raise UserError(f"{self.where}: {error}") from error.__cause__
        if isinstance(error, _MissingColumn):
            raise UserError(f"{self.where}: {error.args[0]}") from None
        if isinstance(error, TypeError) and traceback.extract_tb(trace)[-1].name == "__hash__":
            raise UserError(
                f"{self.where}: expected a source and splits that can be hashed, since rows are kept by them, got an "
                f"{error}: write the lists and mappings in their options as tuples"
            ) from error
        if error is not None and not isinstance(error, (KeyboardInterrupt, GeneratorExit, MemoryError)):
            doing = "reading the rows" if self.reading else "rendering"
            raise UserError(f"{self.where}: {doing} failed with {type(error).__name__}: {error}") from error
