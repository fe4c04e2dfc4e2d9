"""Columns of `datasets` whose values mean more than they say: images and classes.

Image columns are left as they are stored, {"bytes": ..., "path": ...}: `datasets` would decode every image whenever a
row is read, also for a fingerprint or a look at its label, and a damaged one would end the reading of a whole batch
with an error that names no row. Images are decoded in one place, `hyperpelt.vision.images`, when somebody wants to see
them.

A class is a number whose meaning, its name, stands in the column alone: the numbers that a render function sees know
it.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any

from hyperpelt.tasks.values import ClassNumber


def undecoded(rows: Any) -> Any:
    """The same rows with every image column, and column of lists of images, undecoded; others cost nothing."""
    for name, feature in rows.features.items():
        raw = _raw(feature)
        if raw is not None:
            rows = rows.cast_column(name, raw)
    return rows


def _raw(feature: Any) -> Any:
    import datasets

    if isinstance(feature, datasets.Image) and feature.decode:
        return datasets.Image(decode=False)
    if isinstance(feature, datasets.List) and isinstance(feature.feature, datasets.Image) and feature.feature.decode:
        return datasets.List(datasets.Image(decode=False))
    return None


def class_names(rows: Any) -> dict[str, tuple[str, ...]]:
    """{column: names of its classes} of every `ClassLabel` column; empty for rows that are no `datasets.Dataset`."""
    features = getattr(rows, "features", None) or {}
    return {name: tuple(f.names) for name, f in features.items() if type(f).__name__ == "ClassLabel"}


def with_names(row: Mapping[str, Any], names: Mapping[str, tuple[str, ...]]) -> Mapping[str, Any]:
    """The row, the numbers of whose classes know their names; a number that knows its own keeps them."""
    numbers = {column: row[column] for column in names if isinstance(row.get(column), int)}
    known = {column: number for column, number in numbers.items() if not isinstance(number, ClassNumber)}
    if not known:
        return row
    made = copy.copy(row) if isinstance(row, dict) else dict(row)  # a row may know its file, too
    made.update((column, ClassNumber(number, names[column])) for column, number in known.items())
    return made
