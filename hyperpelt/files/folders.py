"""Whole folders: built under another name and moved into their place, so that a folder is the old one or the new one.

Where there is an old one, two renames follow each other. A kill between them leaves both folders whole and neither in
its place: `recover` puts the old one back.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from hyperpelt.files.atomic import flush
from hyperpelt.files.names import hidden, leftovers


@contextmanager
def building(target: Path) -> Iterator[Path]:
    """A new folder to fill; at the end it takes the place of `target`, unless an exception ended it."""
    new = hidden(target, "tmp")
    new.mkdir(parents=True)
    try:
        yield new
        flush_all(new)
        _swap_in(new, target)
    except BaseException:
        shutil.rmtree(new, ignore_errors=True)
        raise


def flush_all(folder: Path) -> None:
    """Wait until all that a folder holds is on the disk, for others to read."""
    mode = folder.stat().st_mode & 0o666  # what others may do with the folder, without entering it
    for path in folder.rglob("*"):
        if path.is_file():
            path.chmod(mode)  # safetensors writes for its owner alone
        flush(path)
    flush(folder)


def _swap_in(new: Path, target: Path) -> None:
    old = hidden(target, "old") if target.exists() else None
    if old is not None:
        os.rename(target, old)
    try:
        os.rename(new, target)
    except BaseException:
        if old is not None:
            os.rename(old, target)
        raise
    flush(target.parent)
    if old is not None:
        _discard(old, hidden(target, "gone"))


def remove(path: Path) -> None:
    """Delete a file or folder; at no moment does a half-deleted folder have its name."""
    if not path.is_dir() or path.is_symlink():
        path.unlink(missing_ok=True)
    else:
        _discard(path, hidden(path, "gone"))


def _discard(folder: Path, doomed: Path) -> None:
    os.rename(folder, doomed)
    shutil.rmtree(doomed, ignore_errors=True)


def _always(_: Path) -> bool:
    return True


def recover(folder: Path, name: str, *, everyone: bool = False, whole: Callable[[Path], bool] = _always) -> None:
    """Undo what dead processes left half done in a folder: put back what was about to be replaced, remove the rest.

    - **name**: a regular expression of the names that this folder's owner writes; others are left alone
    - **everyone**: for who holds the folder's lock: nobody else is at work here
    - **whole**: whether a folder that would be put back is as it was
    """
    for leftover in leftovers(folder, name, everyone=everyone):
        place = folder / leftover.name
        if leftover.kind == "old" and not place.exists() and whole(leftover.path):
            os.rename(leftover.path, place)
        elif leftover.path.is_dir() and not leftover.path.is_symlink():
            shutil.rmtree(leftover.path, ignore_errors=True)
        else:
            leftover.path.unlink(missing_ok=True)
