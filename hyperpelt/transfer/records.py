"""Finished cells on disk: one JSON line each, appended whole, from as many processes as there are.

A line is written by a single `write` under a lock, so a killed process leaves at most a last line without its end; such
a line is not counted, and the next one starts on a line of its own.
"""

from __future__ import annotations

import fcntl
import json
import math
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from hyperpelt.errors import UserError

CELLS = "cells.jsonl"


def append(path: Path, record: Mapping[str, Any]) -> None:
    """Add one record. UserError if the file cannot be written."""
    line = json.dumps(_plain(record), ensure_ascii=False, allow_nan=False) + "\n"
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
        if isinstance(record, dict) and "cell" in record:
            found[str(record["cell"])] = record
    return found


def _plain(value: Any) -> Any:
    """JSON has no nan and no infinity: they become null."""
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
