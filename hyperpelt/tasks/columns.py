"""Columns of `datasets` whose values mean more than they say: images and classes.

Image columns are left as they are stored, {"bytes": ..., "path": ...}: `datasets` would decode every image whenever a
row is read, also for a fingerprint or a look at its label, and a damaged one would end the reading of a whole batch
with an error that names no row. Images are decoded in one place, `hyperpelt.vision.images`, when somebody wants to see
them. Sound and video, which nobody here reads, would call for packages to decode them.

A class is a number whose meaning, its name, stands in the column alone: the numbers that a render function sees know
it.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from hyperpelt.tasks.values import ClassNumber


def undecoded(rows: Any) -> Any:
    """The same rows as plain values, with nothing decoded: images, sound, video stay as they are stored, in lists and
    structs too, and no tensors or data frames are made of numbers. A transform that its author set stays."""
    if getattr(rows, "format", {}).get("type") not in (None, "custom"):
        rows = rows.with_format(None)
    for name, feature in rows.features.items():
        raw = _raw(feature)
        if raw != feature:
            rows = rows.cast_column(name, raw)
    return rows


def _raw(feature: Any) -> Any:
    if isinstance(feature, dict):
        return {name: _raw(inner) for name, inner in feature.items()}
    if hasattr(feature, "feature"):  # of lists
        return replace(feature, feature=_raw(feature.feature))
    is_file = "StructType" in type(getattr(feature, "pa_type", None)).__name__  # of bytes and path; JSON is none
    return replace(feature, decode=False) if is_file and getattr(feature, "decode", False) else feature


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
