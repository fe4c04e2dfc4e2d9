"""YAML documents read safely, with the line that each begins at; words stay the words they are."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hyperpelt.errors import UserError, cut, shown
from hyperpelt.files.reading import read_text

if TYPE_CHECKING:
    from hyperpelt.files.plain_yaml import Bounded


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
    from hyperpelt.files.plain_yaml import LARGEST, NotYaml, parse_all

    try:
        for line, content in parse_all(read_text(path, largest=LARGEST), _loader()):
            if not isinstance(content, Mapping):
                raise UserError(f"{path}:{line}: expected the keys of a task, got {shown(content)}")
            yield line, content
    except NotYaml as error:
        line_after = f":{error.line}" if error.line else ""
        raise UserError(f"{path}{line_after}: not valid YAML: {cut(error.problem)}") from error


def _loader() -> type[Bounded]:
    """A safe loader that keeps words as written: no booleans, no dates; numbers only if they print back the same."""
    import re

    import yaml

    from hyperpelt.files.plain_yaml import Bounded

    class Loader(Bounded):
        yaml_implicit_resolvers: dict[str, list[Any]] = {}  # noqa: RUF012  (the shape of yaml's own)

        def construct_mapping(self, node: Any, deep: bool = False) -> dict[Any, Any]:
            seen: set[Any] = set()
            for key, _ in node.value:
                if key.id != "scalar":
                    raise yaml.constructor.ConstructorError(None, None, "a key that is no text", key.start_mark)
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
