"""Reading JSON that a person, a kill or a bad disk may have changed."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from hyperpelt.errors import UserError


class Damaged(UserError):
    """A file of ours that is not as it was written."""


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
