"""Bytes as people write and read them: 500MB, 20 GB (powers of ten)."""

from __future__ import annotations

import re

from hyperpelt.errors import UserError

UNITS = {"": 1, "k": 10**3, "m": 10**6, "g": 10**9, "t": 10**12}


def num_bytes(size: str, *, where: str) -> int:
    """A size such as 500MB in bytes; `none` is 0, which stands for no limit.

    - **where**: the flag or key it was given for, for the message

    Raises:
        UserError: it is no size.
    """
    text = size.strip().lower()
    match = re.fullmatch(r"(\d+(?:\.\d+)?) *([kmgt]?)b?", text)
    if text == "none":
        return 0
    if match is None or not float(match[1]):
        raise UserError(f"{where}: expected a size such as 500MB or 20GB, or none, got {size!r}.")
    return int(float(match[1]) * UNITS[match[2]])


def as_text(count: float) -> str:
    """Bytes for people: `266.1 MB`."""
    for unit in ("B", "kB", "MB", "GB"):
        if count < 1000:
            return f"{count:.0f} {unit}" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1000
    return f"{count:.1f} TB"
