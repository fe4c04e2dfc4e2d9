"""Choices that stand in the data: the names of a ClassLabel column, or what a column of texts holds."""

from __future__ import annotations

from pathlib import Path

from hyperpelt.errors import UserError, unknown
from hyperpelt.tasks.sources import Source, read_rows, resolve_root
from hyperpelt.tasks.splits import Splits

MOST_CHOICES = 100  # that are taken from a column's values


def label_names(column: str, source: Source, splits: Splits, data_root: str | Path | None) -> tuple[str, ...]:
    """The names of a ClassLabel column, or the distinct texts of another one (of a CSV), sorted; the data must be at
    hand for that."""
    rows = read_rows(source, splits.part(splits.names()[0]).split, resolve_root(data_root))
    features = getattr(rows, "features", {})
    if column not in features:
        raise unknown("column", column, features)
    names = getattr(features[column], "names", None)
    if names:
        return tuple(names)
    values = {row[column] for row in rows if row[column] not in ("", None)}
    texts = sorted(value for value in values if isinstance(value, str))
    if len(texts) < len(values) or not 2 <= len(texts) <= MOST_CHOICES:
        raise UserError(
            f"choices.names_of: column {column!r} has no label names, and {len(values)} different values, where 2 to "
            f"{MOST_CHOICES} texts are expected; write the choices as a list"
        )
    return tuple(texts)
