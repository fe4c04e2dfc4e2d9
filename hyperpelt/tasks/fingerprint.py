"""A hash of a definition that survives a reformatting and a comment, and changes with everything that matters.

Values are hashed by their content; functions by their parsed source, together with the functions and constants of
their own package that they mention. Used to tell whether a saved model's task is still the same task, and whether
cached tokens are still good.
"""

from __future__ import annotations

import ast
import hashlib
import inspect
import textwrap
from collections.abc import Iterator, Mapping
from dataclasses import fields, is_dataclass
from pathlib import Path
from types import CodeType, FunctionType
from typing import Any


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
    if isinstance(value, list | tuple):
        return "[" + ",".join(_describe(item, seen) for item in value) + "]"
    if isinstance(value, set | frozenset):
        return "{" + ",".join(sorted(_describe(item, seen) for item in value)) + "}"
    if isinstance(value, str | bytes | int | float | complex | Path | None):
        return repr(value)
    if hasattr(value, "func") and hasattr(value, "keywords"):  # functools.partial
        return _describe((value.func, value.args, value.keywords), seen)
    return f"{type(value).__module__}.{type(value).__qualname__}:{getattr(value, '__qualname__', '')}"


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
    package = function.__module__.partition(".")[0]
    for name, cell in zip(function.__code__.co_freevars, function.__closure__ or (), strict=True):
        yield name, cell.cell_contents
    for name in _names(function.__code__):
        value = function.__globals__.get(name)
        if isinstance(value, FunctionType):
            if value.__module__.partition(".")[0] == package:
                yield name, value
        elif isinstance(value, str | int | float | tuple | list | dict | frozenset):
            yield name, value


def _names(code: CodeType) -> list[str]:
    inner = [name for c in code.co_consts if isinstance(c, CodeType) for name in _names(c)]
    return sorted({*code.co_names, *inner})
