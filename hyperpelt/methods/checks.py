"""What a method's parts leave unused: settings that would be taken and then silently play no part."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from hyperpelt.errors import UserError, unknown
from hyperpelt.methods.base import Method


def check_all_used(chosen: Method) -> Method:
    """The method, if its parts use every source and every head that was written for one.

    Raises:
        UserError: a misspelt name of either, which would silently leave all at its defaults.
    """
    for name, source in chosen.sources.items():
        parts = [part.name for part in chosen.parts if name in part.sources]
        if not parts:
            used = dict.fromkeys(used for part in chosen.parts for used in part.sources)
            raise UserError(
                f"No part of method {chosen.name!r} uses the source {name!r}: its parts use {', '.join(used)}. Name it "
                "as the `source` of a part, or take it out of `sources`."
            )
        network = getattr(source.visual, "network", source.hypernetwork)
        for head in network.heads:
            if head not in (*parts, "default"):
                raise unknown(f"part in the heads of source {name!r}", str(head), [*parts, "default"])
    return chosen


def is_idle(key: str, values: Mapping[str, Any], make: Callable[..., Method], move: Callable[[Method], Method]) -> bool:
    """Whether a setting that tells in a method no longer does once its per-task tensors were moved elsewhere."""
    given = make(**values)
    try:
        without = make(**{name: value for name, value in values.items() if name != key})
    except (TypeError, UserError):
        return False  # what cannot be left out plays a part
    return given != without and move(given) == move(without)
