"""Paths as people write them: `~` and `~user` are homes wherever a path may be given, also where no shell sees them."""

from __future__ import annotations

import os
from pathlib import Path

from hyperpelt.errors import UserError


def at_home(path: str) -> str:
    """The path with `~` or `~user` replaced by that home. Raises UserError if there is no such user."""
    expanded = os.path.expanduser(path)
    if expanded.startswith("~") and not Path(path).exists():
        name = expanded.partition("/")[0]
        raise UserError(f"The path {path!r} starts from the home of {name[1:] or 'you'}, which is not known here.")
    return expanded


def place(path: str | Path) -> Path:
    """The same for a path of either kind."""
    return Path(at_home(str(path)))
