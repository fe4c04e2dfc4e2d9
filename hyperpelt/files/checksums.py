"""Checksums of what we write, to tell a flipped bit or a lost end: xxh3, 128 bits, about as fast as memory is read.

They guard against accidents. What must also stand against intent is hashed with SHA-256.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from xxhash import xxh3_128

BLOCK = 1 << 22


def of_file(path: Path) -> str:
    """Of a file's content."""
    state = xxh3_128()
    with path.open("rb") as file:
        while block := file.read(BLOCK):
            state.update(block)
    return state.hexdigest()


def of_parts(parts: Iterable[Any]) -> str:
    """Of several buffers (bytes, contiguous arrays), in order, with their lengths."""
    state = xxh3_128()
    for part in parts:
        view = memoryview(part).cast("B")
        state.update(len(view).to_bytes(8, "little"))
        state.update(view)
    return state.hexdigest()


def of_json(content: Any) -> str:
    """Of plain values, in whatever order their keys stand."""
    return xxh3_128(json.dumps(content, sort_keys=True).encode()).hexdigest()
