"""Reading text and JSON that a person, a kill or a bad disk may have changed."""

from __future__ import annotations

import json
import stat
from pathlib import Path
from typing import Any

from hyperpelt.errors import UserError


class Damaged(UserError):
    """A file of ours that is not as it was written."""


def read_text(path: Path, *, largest: int) -> str:
    """The text of a file of at most `largest` bytes.

    Raises:
        UserError: it is no regular file (reading might never end), too large, no UTF-8, or cannot be read.
        FileNotFoundError: there is none.
    """
    content = read_bytes(path, largest=largest)
    try:
        return content.decode("utf8")
    except UnicodeDecodeError:
        raise UserError(f"{path} is not a text file: expected UTF-8.") from None


def read_bytes(path: Path, *, largest: int) -> bytes:
    """What a regular file of at most `largest` bytes holds. Raises as `read_text`."""
    try:
        about = path.stat()
        if not stat.S_ISREG(about.st_mode):
            raise UserError(f"{path} is no regular file.")
        if about.st_size > largest:
            raise UserError(f"{path} has {about.st_size:,} bytes; at most {largest:,} are read.")
        with path.open("rb") as file:
            content = file.read(largest + 1)
    except FileNotFoundError:
        raise
    except OSError as error:
        raise UserError(f"{path} cannot be read ({error.strerror}).") from None
    except ValueError as error:  # a NUL in the path
        raise UserError(f"{str(path)!r} cannot be read ({error}).") from None
    if len(content) > largest:  # of files that say 0, such as those in /proc
        raise UserError(f"{path} has more than the {largest:,} bytes that are read.")
    return content


def read_json(path: Path) -> Any:
    """What a JSON file holds.

    Raises:
        Damaged: it is no JSON, or cannot be read; with the path.
        FileNotFoundError: there is none.
    """
    try:
        return json.loads(path.read_text(encoding="utf8"))
    except FileNotFoundError:
        raise
    except OSError as error:
        raise Damaged(f"{path} cannot be read ({error.strerror}).") from None
    except (ValueError, RecursionError) as error:  # no UTF-8, no JSON, ten thousand brackets
        raise Damaged(f"{path} is not valid JSON ({error}): truncated or edited.") from None


def read_object(path: Path) -> dict[str, Any]:
    """The object in a JSON file; as `read_json`, and Damaged for anything else."""
    content = read_json(path)
    if not isinstance(content, dict):
        raise Damaged(f"{path} holds {type(content).__name__} where a JSON object was expected.")
    return content
