"""Settings that people write in YAML, on a command line or in Python: known names, and values of the right type.

A method, a tuner, a weight source and a hypernetwork all take keyword settings with annotated types. What is wrong
with one is said before anything is built, in the words of the one who wrote it.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from dataclasses import is_dataclass
from math import isfinite
from types import UnionType
from typing import Any, Union, get_args, get_origin, get_type_hints

from hyperpelt.errors import UserError, unknown


def check_settings(what: str, values: Mapping[str, Any], takes: Callable[..., Any], *more: str) -> dict[str, Any]:
    """`values` as keyword arguments for `takes`, a function or dataclass.

    Where a tuple is wanted, a list or a single string becomes one; where a float is wanted, so does an int.

    - **what**: what the settings belong to, for messages ("tuner 'lora'")
    - **more**: names that are known although `takes` has no such parameter

    Raises:
        UserError: not a mapping; an unknown name (names the nearest); a value of another type than annotated.
    """
    if not isinstance(values, Mapping):
        raise UserError(f"Expected the settings of {what} as a mapping of names to values, got {values!r}.")
    known = [*inspect.signature(takes).parameters, *more]
    hints = _hints(takes)
    checked = {}
    for name, value in values.items():
        if name not in known:
            raise unknown(f"setting of {what}", str(name), known)
        hint = hints.get(name, Any)
        value = _converted(value, hint)
        if not _fits(value, hint):
            raise UserError(f"Setting {name!r} of {what} must be {_words(hint)}, got {value!r}.")
        if isinstance(value, float) and not isfinite(value):
            raise UserError(f"Setting {name!r} of {what} must be a finite number, got {value!r}.")
        checked[name] = value
    return checked


def check_at_least(minimum: int, what: str, **values: int) -> None:
    """Raises:
    UserError: one of the values is smaller than `minimum`.
    """
    for name, value in values.items():
        if value < minimum:
            raise UserError(f"Setting {name!r} of {what} must be at least {minimum}, got {value}.")


def _hints(takes: Callable[..., Any]) -> dict[str, Any]:
    try:
        return get_type_hints(takes if is_dataclass(takes) or not isinstance(takes, type) else takes.__init__)
    except NameError:
        # A plugin may annotate with names that exist for type checkers only: its values go unchecked.
        return {}


def _converted(value: Any, hint: Any) -> Any:
    if get_origin(hint) is tuple:
        return (value,) if isinstance(value, str) else tuple(value) if isinstance(value, list) else value
    if type(value) is int and hint is not int and float in (hint, *get_args(hint)) and int not in get_args(hint):
        return float(value)
    return value


def _fits(value: Any, hint: Any) -> bool:
    if hint is Any:
        return True
    origin = get_origin(hint)
    if origin in (Union, UnionType):
        return any(_fits(value, option) for option in get_args(hint))
    if hint in (int, float):
        return isinstance(value, (int, float) if hint is float else int) and not isinstance(value, bool)
    if origin is tuple:
        return isinstance(value, tuple) and all(_fits(item, get_args(hint)[0]) for item in value)
    kind = origin or hint
    return isinstance(value, kind) if isinstance(kind, type) else True


def _words(hint: Any) -> str:
    return hint.__name__ if isinstance(hint, type) and get_origin(hint) is None else str(hint).replace("typing.", "")
