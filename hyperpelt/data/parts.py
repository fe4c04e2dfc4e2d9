"""Files of tokenised rows: Arrow, memory-mapped, with a checksum of every value.

A part holds some rows of a split, by their place in it. It is written beside its name and renamed, so that it is there
whole or not at all; one that was damaged since is not opened.
"""

from __future__ import annotations

import glob
import json
import logging
import os
import re
from collections.abc import Callable, Mapping, Sequence
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Int

from hyperpelt.files import checksums, folders
from hyperpelt.files.atomic import replacing

_log = logging.getLogger(__name__)
PART = 1 << 16  # rows of a part at most: what is held in memory while they are made
FURTHER = ("images", "target_ids", "target_lengths", "target_scores")  # columns that only some parts have
Made = tuple[dict[str, Any], dict[str, Any]]  # columns of rows, and what to tell of them
Stamp = list[int] | None  # a file's size and the time of its last change in nanoseconds; None: there is none


class Part:
    """Some rows. `places` are ascending: where in the split its rows stand; `cut` has bit 0 where a source was cut, bit
    1 where a target was."""

    def __init__(self, columns: Mapping[str, Any], about: dict[str, Any]) -> None:
        self.columns, self.about = columns, about
        self.ragged = {name: _ragged(columns[name]) for name in ("input_ids", "labels")}
        self.ragged |= {name: _ragged(columns[name]) for name in FURTHER if name in columns}
        self.places, self.numbers, self.weights, self.cut = (
            columns[name].to_numpy() for name in ("place", "number", "weight", "cut")
        )

    @classmethod
    def open(cls, path: Path) -> Part:
        """A file's. Its arrays are views of the mapped file: nothing is read before it is asked for."""
        import pyarrow as pa

        table = pa.ipc.open_file(pa.memory_map(str(path))).get_batch(0)
        columns = {name: table.column(name) for name in table.schema.names}
        return cls(columns, json.loads(table.schema.metadata[b"hyperpelt"]))

    @property
    def has_targets(self) -> bool:
        """Whether rows have several targets."""
        return "target_scores" in self.ragged

    def of(self, column: str, index: int) -> np.ndarray:
        """A row's values; none where the part has no such column."""
        if column not in self.ragged:
            return np.zeros(0)
        values, starts = self.ragged[column]
        return values[starts[index] : starts[index + 1]]

    def lengths(self, column: str) -> Int[np.ndarray, " N"]:
        return np.diff(self.ragged[column][1])


def open_whole(path: Path) -> Part | None:
    """The part, or None if it is not as it was written (then its rows are made again)."""
    try:
        found = Part.open(path)
        if found.about.get("xxh3") == _checksum(found.columns, found.about):
            return found
        reason = "its checksum differs"
    except Exception as problem:  # whatever is wrong with it, it can be made again
        reason = str(problem)
    _log.warning("%s is not as it was written (%s): its rows are tokenised again.", path, reason)
    return None


def write(path: Path, columns: Mapping[str, Any], about: Mapping[str, Any]) -> None:
    """Write a part. columns: lists of rows, or arrays."""
    import pyarrow as pa

    arrays = as_arrays(columns)
    about = {**about, "xxh3": _checksum(arrays, about)}
    schema = pa.schema([pa.field(name, array.type) for name, array in arrays.items()])
    schema = schema.with_metadata({"hyperpelt": json.dumps(about)})
    with (
        replacing(path) as temporary,
        pa.OSFile(str(temporary), "wb") as sink,
        pa.ipc.new_file(sink, schema) as writer,
    ):
        writer.write_batch(pa.record_batch(list(arrays.values()), schema=schema))


def complete(
    stem: str, asked: Int[np.ndarray, " R"], make: Callable[..., Made], about: Mapping[str, Any]
) -> list[Path]:
    """The paths of all parts, among which are those of the asked rows: made, where they are not there yet."""
    parts: dict[Path, Part] = {}
    for path in sorted(Path(stem).parent.glob(f"{glob.escape(Path(stem).name)}.*.arrow")):
        part = open_whole(path)
        if part is None or _is_outdated(part):
            path.unlink()
        else:
            parts[path] = part
    paths = list(parts)
    held = [(part.places, part.about["left_out"]) for part in parts.values()]
    known = [np.zeros(0, np.int64), *(places for both in held for places in both)]
    missing = np.setdiff1d(asked, np.concatenate(known).astype(np.int64))
    taken = {path.name for path in paths}
    free = (path for path in (Path(f"{stem}.{number}.arrow") for number in count()) if path.name not in taken)
    for start in range(0, len(missing), PART):
        made, found = make(missing[start : start + PART], done=start, total=len(missing))
        paths.append(next(free))
        write(paths[-1], made, {**found, **about})
    return paths


def _is_outdated(part: Part) -> bool:
    """Whether an image that was looked for in a file is another one there now. One that is gone is as it was."""
    return any(now != before for file, before in part.about.get("image_files", {}).items() if (now := stamp(file)))


def stamp(file: str | Path) -> Stamp:
    """What differs when a file was changed."""
    try:
        about = os.stat(file)
    except (OSError, ValueError):
        return None
    return [about.st_size, about.st_mtime_ns]


def clear_away(stem: str) -> None:
    """What killed processes left of this set; who holds its lock is the only one at work on it."""
    name = Path(stem).name
    for earlier in Path(stem).parent.glob(f"{glob.escape(name)}.*.tmp"):  # as earlier versions wrote
        earlier.unlink(missing_ok=True)
    folders.recover(Path(stem).parent, rf"{re.escape(name)}\.\d+\.arrow", everyone=True)


def as_arrays(columns: Mapping[str, Any]) -> dict[str, Any]:
    """Columns of Arrow from lists of rows, or arrays."""
    import pyarrow as pa

    return {
        name: _as_ragged(values) if isinstance(values, list) else pa.array(values) for name, values in columns.items()
    }


def _checksum(columns: Mapping[str, Any], about: Mapping[str, Any]) -> str:
    """Of every value of a part, and of what is said of it."""
    rest = {key: value for key, value in about.items() if key != "xxh3"}
    parts = [checksums.of_json(rest).encode()]
    for name, column in columns.items():
        parts += [name.encode(), str(column.type).encode()]
        ragged = hasattr(column, "offsets")
        parts += [column.offsets.to_numpy(), column.values.to_numpy()] if ragged else [column.to_numpy()]
    return checksums.of_parts(parts)


def _as_ragged(rows: Sequence[Sequence[int]]) -> Any:
    import pyarrow as pa

    starts = np.concatenate([[0], np.cumsum([len(ids) for ids in rows])]).astype(np.int64)
    if any(isinstance(ids, np.ndarray) for ids in rows):  # bytes of image keys, scores
        flat = np.concatenate(rows)
    else:
        flat = np.fromiter((token for ids in rows for token in ids), np.int32, count=int(starts[-1]))
    return pa.LargeListArray.from_arrays(pa.array(starts), pa.array(flat))


def _ragged(column: Any) -> tuple[np.ndarray, Int[np.ndarray, " N1"]]:
    return column.values.to_numpy(), column.offsets.to_numpy()
