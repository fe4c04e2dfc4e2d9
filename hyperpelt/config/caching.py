"""Where what can be made again is kept: tokenised sets, features of images, mended databases."""

from __future__ import annotations

import os
from pathlib import Path

from hyperpelt.config.paths import place
from hyperpelt.errors import UserError

VARIABLE = "HYPERPELT_CACHE"


def user_cache() -> Path:
    """HYPERPELT_CACHE, else `hyperpelt` in XDG_CACHE_HOME or in ~/.cache. It need not exist.

    Raises:
        UserError: none of them is named, and who runs this has no home.
    """
    return place(os.environ.get(VARIABLE) or Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache", "hyperpelt"))


def writable(folder: Path) -> Path:
    """The folder, made if absent.

    Raises:
        UserError: it cannot be made or written to.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"Cannot make the cache folder {folder} ({error.strerror}); set {VARIABLE}.") from None
    if not os.access(folder, os.W_OK):
        raise UserError(f"Cannot write to the cache folder {folder}; set {VARIABLE} to one that you own.")
    return folder
