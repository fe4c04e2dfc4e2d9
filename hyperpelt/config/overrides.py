"""`key=value` as a shell gives it: a text is taken as it stands, everything else is YAML.

`output_dir=runs/exp #2` is the folder `runs/exp #2` (in a file, `#` begins a comment), and `output_dir=2024-01-03` is
no date. `null` is null for every key.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from hyperpelt.config.text import Tagless, split_names
from hyperpelt.errors import UserError
from hyperpelt.files.plain_yaml import NotYaml, parse_one

if TYPE_CHECKING:
    from pydantic import BaseModel

Override = str | tuple[str, Any]  # `key=value`, or the two as they are
DEFAULT_METHOD = "hyperpelt"  # what `method.option=value` changes when no method is named


def parse_overrides(values: dict[str, Any], overrides: Sequence[Override], model: type[BaseModel]) -> set[str]:
    """Write overrides into `values`, in order; dotted keys reach inside. Returns the top keys touched.

    The value of a text `key=value` is read as the key of `model` wants it; that of a pair (key, value) is taken as it
    is. Raises UserError for what is no `key=value`.
    """
    kinds = _kinds(model)
    touched = set()
    for override in overrides:
        key, value = _parse(override, kinds) if isinstance(override, str) else override
        _assign(values, key, value)
        touched.add(key.split(".")[0])
    return touched


def _kinds(model: type[BaseModel]) -> dict[str, set[str]]:
    """Of each key the JSON types that it may have, such as {'string', 'null'}."""
    properties = model.model_json_schema()["properties"]
    return {
        name: {str(option.get("type")) for option in field.get("anyOf", [field])} for name, field in properties.items()
    }


def _parse(text: str, kinds: Mapping[str, set[str]]) -> tuple[str, Any]:
    key, found, value = text.partition("=")
    if not found or not key.strip():
        raise UserError(f"{text!r} is not key=value; write for example max_steps=1000.")
    if key != key.rstrip():  # key = value
        key, value = key.strip(), value.strip()
    kind = kinds.get(key.strip(), set())
    if value.strip() == "null":
        return key, None
    if "array" in kind and not value.lstrip().startswith(("[", "{")):
        return key, value  # names with commas, which the key itself takes apart
    if "string" not in kind:
        return key, _parse_yaml(value.strip())
    read = None if kind <= {"string", "null"} else _parse_yaml(value.strip())
    meant = (isinstance(read, bool) and "boolean" in kind) or (isinstance(read, Mapping) and value.lstrip()[0] == "{")
    return key, read if meant else value


def _parse_yaml(text: str) -> Any:
    try:
        return parse_one(text, Tagless)[1]
    except NotYaml:  # '*' and the like are YAML's syntax, but fine names
        return split_names(text[1:-1]) if text.startswith("[") and text.endswith("]") else text


def _assign(values: dict[str, Any], key: str, value: Any) -> None:
    head, dot, rest = key.partition(".")
    if not dot:
        values[head] = value
    elif head == "tasks":  # a task's name may hold dots itself
        tasks = split_names(values.get("tasks")) or {}
        values["tasks"] = (tasks if isinstance(tasks, dict) else dict.fromkeys(tasks)) | {rest: value}
    elif head == "test_split":
        splits = values.get(head, {})
        values[head] = (splits if isinstance(splits, dict) else {"*": splits}) | {rest: value}
    else:
        inner = values.get(head)
        if head == "method" and not isinstance(inner, dict):
            inner = {"name": inner or DEFAULT_METHOD}
        inner = dict(inner) if isinstance(inner, dict) else {}
        _assign(inner, rest, value)
        values[head] = inner
