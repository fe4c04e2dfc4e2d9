"""Rendering one row: what a render function gets, what it returns, and how its Example is completed and checked."""

from __future__ import annotations

import operator
import traceback
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from difflib import get_close_matches
from functools import partial
from pathlib import Path
from typing import Any

from hyperpelt.errors import UserError
from hyperpelt.tasks.sources import Row


@dataclass(frozen=True, slots=True, kw_only=True)
class Example:
    """One rendered row.

    input: the text the encoder reads. ending: its last part, which stays whole where the input is too long: what is cut
    then stands before it (a hypothesis after a long premise). target: the text the decoder is trained to write.
    choices: the candidates to rank, None for an open answer. label: the gold for metrics: an index into choices
    (classification), a float (regression), a string or a tuple of accepted strings (generation). images: PIL images,
    encoded bytes, paths, or undecoded image columns (see `hyperpelt.vision.images`). group: rows that are scored
    together (a MultiRC question). weight: of this row's loss. targets: (text, score in 0..1) pairs where an answer can
    be written in several ways: training draws one by score each time, and weighs the loss by it (VQA's soft score; a
    caption of several).

    A render function may leave out what follows from the rest: `choices` when the task has fixed ones, `target` when
    there is a label or `targets`, `label` when there is a target; `Task.example` fills it in.
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
    """A row as a render function sees it: a missing column says so, an unanswered one is None."""

    def __init__(self, row: Row, unanswered: Sequence[str] = ()) -> None:
        if not isinstance(row, Mapping):
            raise UserError(f"the row is {row!r}, expected a mapping of column names to values")
        super().__init__(row)
        for column in unanswered:
            self.setdefault(column, None)

    def __missing__(self, column: str) -> Any:
        near = get_close_matches(str(column), self, n=1)
        hint = f", did you mean {near[0]!r}?" if near else ""
        raise _MissingColumn(f"expected column {column!r}, the row has {', '.join(map(repr, self))}{hint}")


def reach(row: Row, path: str) -> Any:
    """The value of a column, or of a field inside a struct ('idx.paragraph'); look-ups by key and nothing else."""
    if path in row:
        return row[path]
    value: Any = row
    for name in path.split("."):
        if not isinstance(value, Mapping):
            raise UserError(f"{path!r} reaches into a column that is no struct but {value!r}")
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


class Naming:
    """Says in every error where it happened; what is not a UserError becomes one, with its cause kept.

    A split without a row's number: its rows are being read; otherwise one is being rendered.
    """

    def __init__(self, task: str, split: str | None = None, number: int | None = None) -> None:
        self.reading = split is not None and number is None
        self.where = (
            f"Task {task}" + (f", split {split}" if split else "") + ("" if number is None else f", row {number}")
        )

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
        if isinstance(error, Exception):
            doing = "reading the rows" if self.reading else "rendering"
            raise UserError(f"{self.where}: {doing} failed with {type(error).__name__}: {error}") from error


def _complete_classification(example: Example, choices: tuple[str, ...] | None) -> Example:
    if not choices:
        raise UserError("a classification row needs choices: give the task fixed ones, or let render return them")
    label = example.target if example.label is None else example.label
    if isinstance(label, str):
        if label not in choices:
            if label.strip().isdecimal():  # the cell of a CSV, which holds text
                return _complete_classification(replace(example, label=int(label), target=""), choices)
            raise UserError(f"the answer {label!r} is not a choice; expected one of {', '.join(map(repr, choices))}")
        label = choices.index(label)
    try:
        label = operator.index(label)
    except TypeError:
        raise UserError(
            f"the label is {label!r} ({type(label).__name__}), expected the number of a choice as a whole number, "
            f"0 to {len(choices) - 1}, or its text, one of {', '.join(map(repr, choices))}"
        ) from None
    if not 0 <= label < len(choices):
        raise UserError(
            f"unknown label {label}, expected 0 to {len(choices) - 1} ({', '.join(choices)}); rows without a gold "
            f"label are left out by Splits(drop={{column: {label}}})"
        )
    if example.target and example.target != choices[label]:
        raise UserError(f"the target {example.target!r} is not the choice of label {label}, {choices[label]!r}")
    return replace(example, choices=choices, label=label, target=choices[label])


def _complete_regression(example: Example, choices: tuple[str, ...] | None) -> Example:
    gold = example.target if example.label is None else example.label
    try:
        label = float(gold)
    except (TypeError, ValueError):
        raise UserError(f"the label is {gold!r}, expected a number") from None
    if label != label or label in (float("inf"), float("-inf")):
        raise UserError(f"the label is {label}, expected a finite number")
    target = example.target
    if not target:
        target = min(choices, key=lambda choice: abs(float(choice) - label)) if choices else f"{label:g}"
    if choices and target not in choices:
        raise UserError(f"the target {target!r} is not a choice; expected {choices[0]!r} to {choices[-1]!r}")
    return replace(example, choices=choices, label=label, target=target)


def _complete_generation(example: Example, choices: tuple[str, ...] | None) -> Example:
    label = example.label if example.label is not None else example.target
    references = (label,) if isinstance(label, str) else tuple(label) if isinstance(label, Iterable) else ()
    if not references or not all(isinstance(text, str) and text for text in references):
        raise UserError(f"expected a target text or a tuple of accepted answers, got {label!r}")
    target = example.target or (example.targets[0][0] if example.targets else references[0])
    _check_targets(example.targets)
    if choices and target not in choices:
        raise UserError(f"the answer {target!r} is not a choice; expected one of {', '.join(map(repr, choices))}")
    return replace(example, choices=choices, label=label if isinstance(label, str) else references, target=target)


def _check_targets(targets: tuple[tuple[str, float], ...]) -> None:
    for text, score in targets:
        if not isinstance(text, str) or not text or not 0 <= score <= 1:
            raise UserError(f"expected targets as (text, score in 0..1), got {(text, score)!r}")
    if targets and not any(score > 0 for _, score in targets):
        raise UserError("no target has a score above 0, so none can be drawn")


def complete(kind: str, example: Example, choices: tuple[str, ...] | None) -> Example:
    """Fill in what follows from the rest, and check that the answer is one. choices: the task's fixed ones.

    Raises UserError without saying where: `Naming` adds that.
    """
    if not isinstance(example, Example):
        raise UserError(f"render returned {type(example).__name__}, expected a hyperpelt.Example")
    if not isinstance(example.input, str):
        raise UserError(f"the input is {example.input!r}, expected a string")
    own = choices if example.choices is None else tuple(example.choices)
    return _COMPLETE[kind](example, own)


_COMPLETE = {
    "classification": _complete_classification,
    "regression": _complete_regression,
    "generation": _complete_generation,
}
