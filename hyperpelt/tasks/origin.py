"""Where in a user's code something was defined: the first frame outside `hyperpelt` itself."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path
from types import FrameType


@dataclass(frozen=True)
class Place:
    """A line of code. `file` may be a name like '<stdin>'."""

    file: str
    line: int

    @property
    def folder(self) -> Path:
        """The folder relative paths start from: the file's own, or the working folder for interactive code."""
        path = Path(self.file)
        return path.parent.absolute() if path.is_file() else Path.cwd()

    def __str__(self) -> str:
        return f"{self.file}:{self.line}"


def caller() -> Place:
    """The place outside `hyperpelt` that called into it.

    Private helpers (`_add`) that define many tasks in one file are looked through: the line that calls them is the one
    that names the task.
    """
    frame: FrameType | None = sys._getframe(1)
    while frame is not None and _ours(frame):
        frame = frame.f_back
    if frame is None:
        return Place("<unknown>", 0)
    while frame.f_code.co_name.startswith("_") and _same_file(frame, frame.f_back):
        frame = frame.f_back
        assert frame is not None
    return Place(frame.f_code.co_filename, frame.f_lineno)


def _same_file(frame: FrameType, outer: FrameType | None) -> bool:
    return outer is not None and outer.f_code.co_filename == frame.f_code.co_filename


def _ours(frame: FrameType) -> bool:
    # By module name, not by file: the __init__ of a dataclass has no file.
    name = frame.f_globals.get("__name__") or ""
    return name == "hyperpelt" or name.startswith("hyperpelt.")
