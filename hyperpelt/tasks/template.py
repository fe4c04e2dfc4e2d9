"""A render function written as templates, for tasks declared in YAML: '{premise}' stands for a column."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from string import Formatter
from typing import Any

from hyperpelt.errors import UserError
from hyperpelt.tasks.rendering import Example, reach


@dataclass(frozen=True, kw_only=True)
class Template:
    """Renders a row by filling columns into templates.

    input, target: texts with {column}, {struct.field} and {number:.1f}. label: the column of the gold answer.
    labels: pairs (value in that column, choice) where the column holds other words than the choices. choices: the
    columns whose texts are the row's own choices, or the name of one column that lists them. group: a column whose
    equal values are scored together. images: columns of images.
    """

    input: str
    target: str = ""
    label: str | None = None
    labels: tuple[tuple[Any, str], ...] = ()
    choices: tuple[str, ...] | str = ()
    group: str | None = None
    images: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        for template in (self.input, self.target):
            self.names(template)

    def __call__(self, row: Mapping[str, Any]) -> Example:
        answer = None if self.label is None else reach(row, self.label)
        target_known = all(reach(row, name) is not None for name in self.names(self.target))
        return Example(
            input=fill(self.input, row),
            target=fill(self.target, row) if target_known else "",
            choices=self._own_choices(row),
            label=self._gold(answer),
            group=None if self.group is None else repr(reach(row, self.group)),
            images=tuple(reach(row, column) for column in self.images),
        )

    def _own_choices(self, row: Mapping[str, Any]) -> tuple[str, ...] | None:
        if isinstance(self.choices, str):
            return tuple(reach(row, self.choices))
        return tuple(str(reach(row, column)) for column in self.choices) or None

    def _gold(self, answer: Any) -> Any:
        if answer is None or not self.labels:
            return tuple(answer) if isinstance(answer, list) else answer
        by_text = {str(value): choice for value, choice in self.labels}
        if str(answer) not in by_text:
            raise UserError(f"unknown label {answer!r}, expected one of {', '.join(map(repr, by_text))}")
        return by_text[str(answer)]

    @staticmethod
    def names(template: str) -> tuple[str, ...]:
        """The columns a template mentions, once each; UserError if it is malformed."""
        try:
            found = [name for _, name, _, _ in Formatter().parse(template) if name is not None]
        except ValueError as error:
            raise UserError(f"the template {template!r} is malformed ({error}); write {{{{ for a brace") from None
        for name in found:
            if not all(part.isidentifier() or " " in part or "-" in part for part in name.split(".")):
                raise UserError(f"the template {template!r} needs a column's name in its braces, got {{{name}}}")
        return tuple(dict.fromkeys(found))


def fill(template: str, row: Mapping[str, Any]) -> str:
    """The template with its columns filled in; nothing but look-ups by key, so a template cannot run code."""
    parts = []
    for literal, name, spec, _ in Formatter().parse(template):
        parts.append(literal)
        if name is not None:
            value = reach(row, name)
            if value is None:
                raise UserError(f"column {name!r} of the template {template!r} is null in this row")
            parts.append(_formatted(value, spec or "", name, template))
    return "".join(parts)


def _formatted(value: Any, spec: str, name: str, template: str) -> str:
    """A format of numbers ({price:.2f}) says that a text, such as a cell of a CSV, means the number it spells."""
    try:
        if isinstance(value, str) and spec and spec[-1] in "bcdeEfFgGnoxX%":
            value = int(value) if spec[-1] in "bcdoxX" else float(value)
        return format(value, spec)
    except (TypeError, ValueError):
        raise UserError(
            f"column {name!r} of the template {template!r} is {value!r}, which :{spec} cannot format"
        ) from None
