"""Image columns of `datasets`, left as they are stored: {"bytes": ..., "path": ...}.

`datasets` would decode every image whenever a row is read, also for a fingerprint or a look at its label, and a damaged
one would end the reading of a whole batch with an error that names no row. Images are decoded in one place,
`hyperpelt.vision.images`, when somebody wants to see them.
"""

from __future__ import annotations

from typing import Any


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
