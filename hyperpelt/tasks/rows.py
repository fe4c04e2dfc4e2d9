"""Choosing rows: which rows of a source split belong to a task's split, remembered once a process."""

from __future__ import annotations

from collections.abc import Hashable, Iterator, Sequence
from functools import cache
from pathlib import Path
from typing import Any
from unicodedata import normalize

import regex

from hyperpelt.errors import UserError
from hyperpelt.tasks.columns import class_names, with_names
from hyperpelt.tasks.rendering import reach
from hyperpelt.tasks.sources import Row, Rows, Source, read_rows
from hyperpelt.tasks.splits import Splits
from hyperpelt.tasks.values import ClassNumber, same_text

# Of `regex`, whose words keep the signs that are written onto letters: to `re`, Hindi's vowels are punctuation.
_MARKS = regex.compile(r"[\W_]+")


def rows_of(source: Source, splits: Splits, split: str, root: Path | None) -> Rows:
    """The rows of 'train', 'validation' or 'test', in the order of the source; UserError if there are none."""
    part = splits.part(split)
    rows = _chosen_rows(source, splits, split, root, source.state(part.split, root))
    if not len(rows):
        raise UserError(f"the split is empty (source split {part.split!r} of {source.describe()}){_why(splits, split)}")
    return rows


def _why(splits: Splits, split: str) -> str:
    if not splits.drop:
        return ""
    dropped = ", ".join(f"{column}: {value!r}" for column, value in splits.drop)
    return (
        f": every row of it is left out by drop ({dropped}). If its answers are not public, say that there is no such "
        f"split, in YAML `splits: {{{split}: null}}`, in Python Splits({split}=None), and evaluate on another one "
        f"(test_split=validation), or halve the validation split (Splits.halved)"
    )


def numbers_of(source: Source, splits: Splits, split: str, root: Path | None) -> Sequence[int]:
    """For each of those rows, its number in the source split."""
    part = splits.part(split)
    numbers = _choose(source, splits, split, root, source.state(part.split, root))
    return range(len(read_rows(source, part.split, root))) if numbers is None else numbers


def iterate(rows: Rows, batch_size: int = 256) -> Iterator[Row]:
    """All rows in order, read in batches where the container can: ten times faster than row by row."""
    if not hasattr(rows, "iter"):
        yield from rows
        return
    for batch in rows.iter(batch_size=batch_size):
        for values in zip(*batch.values(), strict=True):
            yield dict(zip(batch, values, strict=True))


def keys_of(rows: Rows, by: Sequence[str]) -> list[Hashable] | range:
    """One key a row: its columns `by`, texts `evened`. Without columns: each row for itself."""
    if not by:
        return range(len(rows))
    narrow = _narrow(rows, [path.split(".")[0] for path in by])
    return [tuple(_even(reach(row, path)) for path in by) for row in iterate(narrow)]


@cache
def _chosen_rows(source: Source, splits: Splits, split: str, root: Path | None, state: Hashable) -> Rows:
    rows = read_rows(source, splits.part(split).split, root)
    numbers = _choose(source, splits, split, root, state)
    return rows if numbers is None else picked(rows, numbers)


@cache
def _choose(source: Source, splits: Splits, split: str, root: Path | None, state: Hashable) -> Sequence[int] | None:
    """Row numbers of a task's split in its source split, ascending; None for all of them."""
    part = splits.part(split)
    rows = read_rows(source, part.split, root)
    kept = _without_dropped(rows, splits)
    if part.whole:
        return kept
    pool = rows if kept is None else picked(rows, kept)
    chosen = splits.indices(split, keys_of(pool, splits.by))
    assert chosen is not None, "only a whole split takes every row"
    return chosen if kept is None else [kept[i] for i in chosen]


def _without_dropped(rows: Rows, splits: Splits) -> list[int] | None:
    dropped = dict(splits.drop)
    if not dropped:
        return None
    narrow = _narrow(rows, list(dropped))
    names = class_names(narrow)
    kept = [i for i, row in enumerate(iterate(narrow)) if not leaves_out(splits, with_names(row, names))]
    return None if len(kept) == len(rows) else kept


def leaves_out(splits: Splits, row: Row) -> bool:
    """Whether `drop` leaves a row out."""
    return any(_is_dropped(reach(row, column), bad) for column, bad in splits.drop)


def _is_dropped(value: Any, bad: Any) -> bool:
    """Whether a value was written as `bad` is; a class has a name and a number."""
    return same_text(value, bad) or (isinstance(value, ClassNumber) and same_text(int(value), bad))


def picked(rows: Rows, numbers: Sequence[int]) -> Rows:
    """The rows of these numbers, in this order."""
    return rows.select(numbers) if hasattr(rows, "select") else [rows[i] for i in numbers]


def _narrow(rows: Rows, columns: Sequence[str]) -> Rows:
    """The same rows with these columns only, where the container can do that: images are not decoded then."""
    columns = list(dict.fromkeys(columns))
    there = set(getattr(rows, "column_names", None) or ())
    return rows.select_columns(columns) if there.issuperset(columns) and hasattr(rows, "select_columns") else rows


def evened(text: str) -> str:
    """A text without case, spacing and punctuation, however its letters are put together: what still counts as the
    same text."""
    return _MARKS.sub(" ", normalize("NFC", text).casefold()).strip()


def _even(value: Any) -> Hashable:
    # A text of nothing but marks is itself, or all of them would be one.
    return (evened(value) or value) if isinstance(value, str) else repr(value)
