"""Where an export goes: a folder that holds nothing, or an export, whose place the new one takes.

The files are written into a hidden folder inside, and moved when all are there. `manifest.json` lists what belongs to
the export, so that the same command can do it again after whatever ended it; the file that makes a folder loadable
(`config.json`, PEFT's `adapter_config.json`) goes first and comes last, so that half an export is none.
"""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from hyperpelt.errors import UserError
from hyperpelt.files import folders, manifests
from hyperpelt.files.atomic import flush
from hyperpelt.files.damage import of_files
from hyperpelt.files.manifests import MANIFEST
from hyperpelt.files.names import hidden
from hyperpelt.files.reading import Damaged
from hyperpelt.model.saving import CONFIG, TENSORS, read_config

ENTRIES = (CONFIG, "adapter_config.json")
STAGE = "export"  # beside the folder's files, hidden


def check_place(folder: Path) -> None:
    """Raises:
    UserError: an export into the folder would take the place of something else.
    """
    if folder.exists() and not folder.is_dir():
        raise UserError(f"An export cannot be written to {folder}, which is a file: name a folder.")
    others = sorted(set(_visible(folder)) - set(_listed(folder)))
    if others:
        more = f" and {len(others) - 3} more" if len(others) > 3 else ""
        raise UserError(
            f"{folder} holds {', '.join(others[:3])}{more}, which is no part of an export: name another folder."
        )


def _visible(folder: Path) -> list[str]:
    return [path.name for path in folder.iterdir() if not path.name.startswith(".")] if folder.is_dir() else []


def _listed(folder: Path) -> list[str]:
    """What belongs to the export that is there; nothing if there is none."""
    try:
        manifest = manifests.read(folder)
        names = dict.fromkeys(name.partition("/")[0] for name in manifest["files"])  # of files and folders
        return [MANIFEST, *names] if "export" in manifest else []
    except (Damaged, FileNotFoundError):
        pass
    try:  # a baked task of an earlier version
        exported = str(read_config(folder)["method"]["name"]).startswith("baked-")
    except (UserError, KeyError, TypeError):
        exported = False
    return [CONFIG, TENSORS] if exported else []


@contextmanager
def writing_export(folder: Path, **about: Any) -> Iterator[Path]:
    """A folder to fill, whose files are moved to `folder` at the end. about: what the manifest says of the export.

    Raises:
        UserError: `folder` holds something else than an export, or cannot be written to.
    """
    check_place(folder)
    there = folder.exists()
    try:
        folder.mkdir(parents=True, exist_ok=True)
        folders.recover(folder, "|".join(map(re.escape, (STAGE, *_listed(folder)))))
        stage = hidden(folder / STAGE, "tmp")
        stage.mkdir()
        try:
            yield stage
            folders.flush_all(stage)
            _move(stage, folder, about)
        finally:
            shutil.rmtree(stage, ignore_errors=True)
            if not there and not any(folder.iterdir()):  # nothing was written
                folder.rmdir()
    except Exception as error:
        if isinstance(error, UserError) or of_files(error) is None:  # a full disk is of many kinds
            raise
        raise UserError(f"Cannot write an export to {folder} ({error}).") from None


def _move(stage: Path, folder: Path, about: dict[str, Any]) -> None:
    new = sorted((path.name for path in stage.iterdir()), key=lambda name: name in ENTRIES)
    manifests.write(stage, export=True, **about)
    for name in _listed(folder):
        if name in ENTRIES or name not in (*new, MANIFEST):
            folders.remove(folder / name)
    for name in (MANIFEST, *new):
        if (folder / name).is_dir():
            folders.remove(folder / name)
        os.replace(stage / name, folder / name)
    flush(folder)
