"""An earlier run in the folder of a new one: set aside while the new one may still fail, removed when that is finished.

    .replacing-N     what was there is being moved out of the way, or back: a kill in between is undone
    .replaced-N      what was there, whole

Nothing but the names that a run writes is touched. Whoever calls this holds the folder's lock.
"""

from __future__ import annotations

import os
import re
import shutil
from itertools import count
from pathlib import Path

from hyperpelt.files import folders
from hyperpelt.files.atomic import flush
from hyperpelt.training.checkpoints import list_checkpoints

# Everything a run writes. Checkpoints go first and come back last: where they are tells how far a killed move got.
OURS = (
    "checkpoints", "results.json", "model.safetensors", "config.json", "run.yaml", "report.html", "tensorboard",
    "trackers.json", "wandb", "plugins", "tokenizer",
)  # fmt: skip

# What a run carries along is copied, not moved: a new run that was started from the folder reads its own from there.
COPIED = ("plugins", "tokenizer")

_KINDS = ("replacing", "replaced")


def set_aside(folder: Path) -> Path:
    """Move the run in a folder to `.replaced-N` in it; returns that."""
    number = next(n for n in count(1) if not any((folder / f".{kind}-{n}").exists() for kind in _KINDS))
    moving, moved = (folder / f".{kind}-{number}" for kind in _KINDS)
    moving.mkdir()
    for name in OURS:
        if name in COPIED and (folder / name).is_dir():
            with folders.building(moving / name) as copy:
                shutil.copytree(folder / name, copy, dirs_exist_ok=True)
        elif os.path.lexists(folder / name):
            os.rename(folder / name, moving / name)
    os.rename(moving, moved)
    flush(folder)
    return moved


def is_here(folder: Path) -> bool:
    """Whether a run is set aside in a folder, wholly or in part."""
    return folder.is_dir() and any(_numbered(folder, kind) for kind in _KINDS)


def kept(folder: Path) -> list[Path]:
    """Runs that are set aside in a folder, the latest first."""
    return _numbered(folder, "replaced")


def _numbered(folder: Path, kind: str) -> list[Path]:
    found = {int(match[1]): path for path in folder.iterdir() if (match := re.fullmatch(rf"\.{kind}-(\d+)", path.name))}
    return [found[number] for number in sorted(found, reverse=True)]


def forget(folder: Path) -> None:
    """The new run is finished: remove those that it replaced."""
    for path in kept(folder):
        folders.remove(path)


def settle(folder: Path) -> bool:
    """Undo a replacement that came to nothing, finish one that is done; whether the earlier run is in its place again.

    It comes back if the new run has saved nothing: no checkpoint, no results.
    """
    folders.recover(folder, r"\.replaced-\d+", everyone=True)
    for moving in _numbered(folder, "replacing"):
        _move_back(moving, folder)
    aside = kept(folder)
    if not aside or list_checkpoints(folder / "checkpoints"):
        if aside and (folder / "results.json").exists():
            forget(folder)
        return False
    for name in OURS:
        if os.path.lexists(folder / name):
            folders.remove(folder / name)
    moving = aside[0].with_name(aside[0].name.replace("replaced", "replacing"))
    os.rename(aside[0], moving)
    _move_back(moving, folder)
    return True


def _move_back(moving: Path, folder: Path) -> None:
    for name in COPIED:
        folders.recover(moving, name, everyone=True)
        if os.path.lexists(moving / name) and os.path.lexists(folder / name):  # killed while it was set aside
            shutil.rmtree(moving / name)
    for name in reversed(OURS):
        if os.path.lexists(moving / name) and not os.path.lexists(folder / name):
            os.rename(moving / name, folder / name)
    if not any(moving.iterdir()):
        moving.rmdir()
    flush(folder)
