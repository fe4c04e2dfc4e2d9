"""One file: written under another name, flushed, and moved into its place, so that it is the old one or the new one."""

from __future__ import annotations

import errno
import json
import math
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from hyperpelt.files.names import hidden

# What file systems answer that cannot flush a folder: nothing can be done about it.
_CANNOT = {errno.EINVAL, errno.ENOTSUP, errno.EACCES, errno.EBADF}


def flush(path: Path) -> None:
    """Wait until a file, or the names in a folder, are on the disk. OSError if they cannot be."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError as error:
        if not path.is_dir() or error.errno not in _CANNOT:
            raise
    finally:
        os.close(descriptor)


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A path to write to; what is there at the end takes the place of `path`, unless an exception ended it.

    What is no regular file (a device, a pipe) is written to as it is, and never replaced; of a link, its target is.
    """
    with _named(path):
        if path.exists() and not path.is_file():
            yield path
            return
        with _beside(path) as temporary:
            yield temporary


@contextmanager
def _named(path: Path) -> Iterator[None]:
    """A full disk says which file it was that did not fit."""
    try:
        yield
    except OSError as error:
        if error.filename is None and error.errno is not None:
            error.filename = str(path)
        raise


@contextmanager
def _beside(path: Path) -> Iterator[Path]:
    with suppress(OSError, RuntimeError):  # a link to itself has no target: it is replaced
        path = path.resolve() if path.is_symlink() else path
    temporary = hidden(path, "tmp")
    try:
        temporary.touch()
        mode = temporary.stat().st_mode
        yield temporary
        temporary.chmod(mode)  # safetensors writes for its owner alone
        flush(temporary)
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
    flush(path.parent)


def write_text(path: Path, text: str) -> None:
    """Write a text as UTF-8."""
    with replacing(path) as temporary:
        temporary.write_text(text, encoding="utf8")


def write_json(path: Path, content: Any, *, indent: int = 1, ensure_ascii: bool = True) -> None:
    """Write JSON; the options are those of `json.dumps`. What JSON cannot hold is null (`finite`)."""
    write_text(path, json.dumps(finite(content), indent=indent, ensure_ascii=ensure_ascii) + "\n")


def finite(content: Any) -> Any:
    """The same with None for nan and the infinities, which JSON does not have."""
    if isinstance(content, Mapping):
        return {str(key): finite(value) for key, value in content.items()}
    if isinstance(content, (list, tuple)):
        return [finite(value) for value in content]
    return None if isinstance(content, float) and not math.isfinite(content) else content
