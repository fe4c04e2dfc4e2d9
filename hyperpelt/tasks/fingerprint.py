"""A hash of a definition that survives a reformatting and a comment, and changes with what the definition says.

Values are hashed by their content; functions by their parsed source, together with the constants that they mention and
with the functions of their own package, or of files beside their own, that they call by name or as `module.name`. What
they reach otherwise (other packages, methods) is not seen: cached tokens therefore are found by rendered rows, too.
"""

from __future__ import annotations

import ast
import hashlib
import inspect
import re
import textwrap
from collections.abc import Iterator, Mapping
from dataclasses import fields, is_dataclass
from functools import partial, partialmethod
from pathlib import Path
from types import CodeType, FunctionType, ModuleType
from typing import Any

from hyperpelt.tasks.neighbours import without_prefix

PLAIN = (str, int, float, tuple, list, dict, frozenset, re.Pattern)


def fingerprint(*values: Any) -> str:
    """Sixteen hexadecimal digits for any nesting of plain values, dataclasses and functions."""
    text = "\x1e".join(_describe(value, frozenset()) for value in values)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def _describe(value: Any, seen: frozenset[int]) -> str:
    if isinstance(value, FunctionType):
        return _describe_function(value, seen)
    if is_dataclass(value) and not isinstance(value, type):
        # Where a definition stands on this machine (its base folder, its origin) is not part of what it means.
        kept = [f.name for f in fields(value) if f.name not in ("base", "origin")]
        held = ",".join(_describe(getattr(value, name), seen) for name in kept)
        call = vars(type(value)).get("__call__")  # a render function that carries its own settings
        return f"{type(value).__name__}({held})" + ("" if call is None else _describe(call, seen))
    if isinstance(value, Mapping):
        return "{" + ",".join(f"{_describe(k, seen)}:{_describe(v, seen)}" for k, v in value.items()) + "}"
    if isinstance(value, (list, tuple)):
        return "[" + ",".join(_describe(item, seen) for item in value) + "]"
    if isinstance(value, re.Pattern):
        return repr((value.pattern, value.flags))
    if isinstance(value, (set, frozenset)):
        return "{" + ",".join(sorted(_describe(item, seen) for item in value)) + "}"
    if isinstance(value, str | bytes | int | float | complex | Path | None):
        return repr(value)
    if isinstance(value, (partial, partialmethod)):
        return _describe((value.func, value.args, value.keywords), seen)
    return f"{without_prefix(type(value).__module__)}.{type(value).__qualname__}:{getattr(value, '__qualname__', '')}"


def _describe_function(function: FunctionType, seen: frozenset[int]) -> str:
    if id(function) in seen:
        return function.__qualname__
    seen = seen | {id(function)}
    mentioned = ",".join(f"{name}={_describe(value, seen)}" for name, value in _mentioned(function))
    defaults = _describe((function.__defaults__, function.__kwdefaults__), seen)
    return f"{_source(function)}|{defaults}|{mentioned}"


def _source(function: FunctionType) -> str:
    """The body without comments, layout, docstring and decorators (whose arguments the task's fields already hold)."""
    try:
        tree = ast.parse(textwrap.dedent(inspect.getsource(function)))
    except (OSError, TypeError, SyntaxError):  # typed at a prompt, or a lambda cut out of a larger statement
        return _bytecode(function.__code__)
    node = tree.body[0]
    if not isinstance(node, ast.FunctionDef):
        return _bytecode(function.__code__)
    node.decorator_list = []
    if ast.get_docstring(node) is not None:
        node.body = node.body[1:]
    return ast.unparse(node) if node.body else node.name


def _bytecode(code: CodeType) -> str:
    constants = [_bytecode(c) if isinstance(c, CodeType) else repr(c) for c in code.co_consts]
    return f"{code.co_code.hex()}{constants}{code.co_names}"


def _mentioned(function: FunctionType) -> Iterator[tuple[str, Any]]:
    """Closure cells and globals that the function names: constants, and functions of its own top-level package."""
    for name, cell in zip(function.__code__.co_freevars, function.__closure__ or (), strict=True):
        yield name, cell.cell_contents
    names = _names(function.__code__)
    for name in names:
        value = function.__globals__.get(name)
        within = (
            ((f"{name}.{inner}", vars(value).get(inner)) for inner in names) if isinstance(value, ModuleType) else ()
        )
        for called, found in ((name, value), *within):
            found = getattr(found, "__wrapped__", found)  # behind a cache
            if isinstance(found, FunctionType):
                if _is_near(found, function):
                    yield called, found
            elif isinstance(found, PLAIN) or (is_dataclass(found) and not isinstance(found, type)):
                yield called, found


def _is_near(one: FunctionType, other: FunctionType) -> bool:
    """Of one top-level package, or of files of one folder (a plugin and its helpers)."""
    packages = {function.__module__.partition(".")[0] for function in (one, other)}
    folders = {Path(function.__code__.co_filename).parent for function in (one, other)}
    return len(packages) == 1 or len(folders) == 1


def _names(code: CodeType) -> list[str]:
    inner = [name for c in code.co_consts if isinstance(c, CodeType) for name in _names(c)]
    return sorted({*code.co_names, *inner})
