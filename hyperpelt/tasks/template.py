"""A render function written as templates, for tasks declared in YAML: '{premise}' stands for a column."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from string import Formatter
from typing import Any

from hyperpelt.errors import UserError
from hyperpelt.tasks.completing import own_choices
from hyperpelt.tasks.rendering import Example, reach
from hyperpelt.tasks.values import is_missing, known_by, number_text, plain, truth_of, whole_number

PLACE = "place"  # instead of pairs in `labels`: the label is the place of a choice, counted from 0, whatever its text


@dataclass(frozen=True, kw_only=True)
class Template:
    """Renders a row by filling columns into templates.

    input, target: texts with {column}, {struct.field} and {number:.1f}. label: the column of the gold answer.
    labels: pairs (value in that column, choice) where the column holds other words than the choices; or `place`: it
    holds the place of one of the row's own choices, which may be numbers themselves. choices: the columns whose texts
    are the row's own choices, or the name of one column that lists them. group: a column whose equal values are scored
    together. images: columns of images, or of lists of them.
    """

    input: str
    target: str = ""
    label: str | None = None
    labels: tuple[tuple[Any, str], ...] | str = ()
    choices: tuple[str, ...] | str = ()
    group: str | None = None
    images: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        for template in (self.input, self.target):
            self.names(template)

    def __call__(self, row: Mapping[str, Any]) -> Example:
        answer = None if self.label is None else reach(row, self.label)
        target_known = all(reach(row, name) is not None for name in self.names(self.target))
        text, choices = fill(self.input, row), self._own_choices(row)
        return Example(
            input=text,
            target=fill(self.target, row) if target_known else "",
            choices=choices,
            label=self._gold(answer, choices),
            group=None if self.group is None else repr(reach(row, self.group)),
            images=tuple(self._pictures(row)),
        )

    def _pictures(self, row: Mapping[str, Any]) -> Iterator[Any]:
        """Those that are there: a row may have fewer than others have."""
        for column in self.images:
            found = reach(row, column)
            yield from (image for image in (found if isinstance(found, list | tuple) else [found]) if image is not None)

    def _own_choices(self, row: Mapping[str, Any]) -> tuple[Any, ...] | None:
        if isinstance(self.choices, str):
            options, where = reach(row, self.choices), f"column {self.choices!r}"
        elif self.choices:
            options, where = [reach(row, column) for column in self.choices], f"columns {', '.join(self.choices)}"
        else:
            return None
        if isinstance(options, list | tuple):
            options = [_written(option) for option in options]
        return own_choices(options, where)

    def _gold(self, answer: Any, choices: tuple[Any, ...] | None) -> Any:
        if answer is None or not self.labels:
            return tuple(answer) if isinstance(answer, list) else answer
        if isinstance(self.labels, str):
            return self._at(answer, choices or ())
        by_text = {text: choice for value, choice in self.labels for text in known_by(value)}
        truth = truth_of(answer)
        alike = [text for text in by_text if truth is not None and truth_of(text) == truth]
        found = [text for text in known_by(answer) if text in by_text]
        if len({by_text[text] for text in alike}) == 1:
            found = found or alike
        if not found and not is_missing(answer):
            expected = ", ".join(repr(str(value)) for value, _ in self.labels)
            raise UserError(f"unknown label {answer!r}, expected one of {expected}")
        return by_text[found[0]] if found else None

    @staticmethod
    def _at(answer: Any, choices: tuple[Any, ...]) -> Any:
        """The text of the choice in this place."""
        place = whole_number(answer)
        if place is None or not 0 <= place < len(choices):
            raise UserError(f"the label is {answer!r}, expected the index of a choice, 0 to {len(choices) - 1}")
        if choices[place] is None:
            raise UserError(f"the label {place} is the index of an empty choice")
        return choices[place]

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
    """A format of numbers ({price:.2f}) says that a text, such as a cell of a CSV, means the number it spells. Without
    one, a number of 32 bits has the digits that were put into them."""
    try:
        if not spec and isinstance(value, float) and not value.is_integer():
            return number_text(value)
        if isinstance(value, str) and spec and spec[-1] in "bcdeEfFgGnoxX%":
            value = int(value) if spec[-1] in "bcdoxX" else float(value)
        return format(value, spec)
    except (TypeError, ValueError):
        raise UserError(
            f"column {name!r} of the template {template!r} is {value!r}, which :{spec} cannot format"
        ) from None


def _written(value: Any) -> Any:
    """A choice as text: numbers and words as they are written in a file."""
    value = plain(value)
    if is_missing(value) or isinstance(value, str):
        return value
    if isinstance(value, int | float) and not isinstance(value, bool):
        return number_text(value)
    return known_by(value)[0] if isinstance(value, bool) else value
