"""Finished cells on disk: one JSON line each, appended whole, from as many processes as there are.

A line is written by a single `write` under a lock, so a killed process leaves at most a last line without its end; such
a line is not counted, and the next one starts on a line of its own. A line carries a checksum (those of earlier
versions none): one that was changed is not counted either, so that its cell is measured again.

Several processes share the cells of a folder: a cell belongs to whoever holds its lock, `.cell-ID.lock`, which the
operating system takes back when that process ends.
"""

from __future__ import annotations

import fcntl
import json
import math
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from hyperpelt.errors import UserError
from hyperpelt.files.atomic import flush
from hyperpelt.files.checksums import of_json

CELLS = "cells.jsonl"
CHECK = "xxh3"  # of the rest of a line


def check_place(folder: Path) -> None:
    """Raises:
    UserError: a transfer into the folder would take the place of what no transfer wrote.
    """
    there = [name for name in ("summary.json", "table.md", "report.html") if (folder / name).exists()]
    if there and not (folder / CELLS).exists():
        raise UserError(f"{folder} holds {', '.join(there)}, which no transfer wrote: choose another --output.")


def append(path: Path, record: Mapping[str, Any]) -> None:
    """Add one record. UserError if the file cannot be written."""
    plain = _plain(record)
    line = json.dumps({**plain, CHECK: of_json(plain)}, ensure_ascii=False, allow_nan=False) + "\n"
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o666)
    except OSError as error:
        raise UserError(f"Cannot write to {path} ({error.strerror}); choose another --output.") from None
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        size = os.fstat(descriptor).st_size
        broken = size > 0 and os.pread(descriptor, 1, size - 1) != b"\n"
        os.write(descriptor, (b"\n" if broken else b"") + line.encode())
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
    if size == 0:
        flush(path.parent)


def read(path: Path) -> dict[str, dict[str, Any]]:
    """Cell id -> its record; of a cell that was done twice the later one. Lines without their end are left out."""
    if not path.exists():
        return {}
    found = {}
    for line in path.read_bytes().split(b"\n"):
        try:
            record = json.loads(line)
        except ValueError:  # empty, or cut short by a kill
            continue
        if isinstance(record, dict) and "cell" in record and record.pop(CHECK, None) in (None, of_json(record)):
            found[str(record["cell"])] = record
    return found


@contextmanager
def claimed(path: Path, cell: str) -> Iterator[bool]:
    """While inside, nobody else does the cell; False if somebody is at it already."""
    name = path.with_name(f".cell-{cell}.lock")
    lock = FileLock(name)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        lock.acquire(timeout=0)
    except Timeout:
        yield False
        return
    except OSError as error:
        raise UserError(f"Cannot write to {path.parent} ({error.strerror}); choose another --output.") from None
    try:
        yield True
    finally:
        name.unlink(missing_ok=True)  # whoever took it meanwhile finds the cell recorded
        lock.release()


def _plain(value: Any) -> Any:
    """JSON has no nan and no infinity: they become null."""
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
