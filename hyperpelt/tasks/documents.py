"""YAML documents read safely, with the line that each begins at; words stay the words they are."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from hyperpelt.errors import UserError


class Place:
    """Adds file and line to errors."""

    def __init__(self, where: str) -> None:
        self.where = where

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: Any, error: BaseException | None, trace: Any) -> None:
        if isinstance(error, UserError) and self.where not in str(error):
            raise UserError(f"{self.where}: {error}") from error.__cause__


def documents(path: Path) -> Iterator[tuple[int, Mapping[str, Any]]]:
    """(line, content) of every document of a YAML file."""
    import yaml

    loader = _loader()(path.read_text(encoding="utf8"))
    try:
        while loader.check_node():
            node = loader.get_node()
            content = loader.construct_document(node)
            line = node.start_mark.line + 1
            if not isinstance(content, Mapping):
                raise UserError(f"{path}:{line}: expected the keys of a task, got {content!r}")
            yield line, content
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        line = f":{mark.line + 1}" if mark else ""
        raise UserError(f"{path}{line}: not valid YAML: {getattr(error, 'problem', None) or error}") from error
    finally:
        loader.dispose()


def _loader() -> type:
    """A safe loader that keeps words as written: no booleans, no dates; numbers only if they print back the same."""
    import re

    import yaml

    class Loader(yaml.SafeLoader):
        yaml_implicit_resolvers: dict[str, list[Any]] = {}  # noqa: RUF012  (the shape of yaml's own)

        def construct_mapping(self, node: Any, deep: bool = False) -> dict[Any, Any]:
            seen: set[Any] = set()
            for key, _ in node.value:
                if key.value in seen:
                    raise yaml.constructor.ConstructorError(None, None, f"key {key.value!r} twice", key.start_mark)
                seen.add(key.value)
            return super().construct_mapping(node, deep)

    def number(kind: Callable[[str], int | float]) -> Callable[[Any, Any], Any]:
        return lambda loader, node: value if str(value := kind(node.value)) == node.value else node.value

    null, integer, decimal = (f"tag:yaml.org,2002:{name}" for name in ("null", "int", "float"))
    Loader.add_implicit_resolver(null, re.compile(r"(~|null|)$"), ["~", "n", ""])
    Loader.add_implicit_resolver(integer, re.compile(r"[-+]?\d+$"), list("-+0123456789"))
    Loader.add_implicit_resolver(decimal, re.compile(r"[-+]?\d+\.\d+$"), list("-+0123456789"))
    Loader.add_constructor(integer, number(int))
    Loader.add_constructor(decimal, number(float))
    return Loader
