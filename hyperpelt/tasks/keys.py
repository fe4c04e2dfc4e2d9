"""What the keys of a YAML task may hold; errors name the key, `hyperpelt.tasks.documents.Place` adds file and line."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from hyperpelt.errors import UserError, unknown


def check_keys(content: Mapping[str, Any], known: tuple[str, ...], kind: str) -> None:
    """Raises a UserError that names the nearest key for one that is not known; `kind`: what a key is called there."""
    for key in content:
        if key not in known:
            raise unknown(kind, str(key), known)


def as_mapping(content: Any, where: str) -> Mapping[str, Any]:
    """The value, or a UserError if it is no mapping. `where` names it, as in `as_number`."""
    if not isinstance(content, Mapping):
        raise UserError(f"{where}: expected a mapping, got {content!r}")
    return content


_REQUIRED = "\0required"


def text_at(content: Mapping[str, Any], key: str, default: Any = _REQUIRED) -> Any:
    """The text at a key; a UserError if it is no text, or missing without a default."""
    value = content.get(key, default)
    if value is default and default is not _REQUIRED:
        return default
    if not isinstance(value, str):
        raise UserError(f"{key}: expected a text, got {value!r}")
    return value


def texts_at(content: Mapping[str, Any], key: str, default: tuple[str, ...]) -> tuple[str, ...]:
    """The texts at a key, one of which may stand without a list; a UserError for what is neither."""
    value = content.get(key, default)
    value = (value,) if isinstance(value, str) else value
    if not isinstance(value, (list, tuple)) or not all(isinstance(item, str) for item in value):
        raise UserError(f"{key}: expected a text or a list of texts, got {value!r}")
    return tuple(value)


def as_number(value: Any, where: str) -> Any:
    """The int or float, or what a text spells (words of YAML tasks stay texts); a UserError for what is none."""
    if isinstance(value, int | float):
        return value
    try:
        return float(value) if any(sign in value for sign in ".eE") else int(value)
    except (TypeError, ValueError):
        raise UserError(f"{where}: expected a number, got {value!r}") from None
