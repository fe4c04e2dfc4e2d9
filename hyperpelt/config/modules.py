"""Names of modules that a person may give."""

from __future__ import annotations

from importlib.util import find_spec


def importable(name: str) -> bool:
    """Whether Python finds a module of this name; a folder without `__init__.py` is none."""
    spec = find_spec(name) if name.isidentifier() else None
    return spec is not None and spec.origin is not None
