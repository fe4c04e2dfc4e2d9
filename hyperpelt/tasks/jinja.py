"""A render function written in Jinja2, as promptsource's are: `input ||| target`, with the choices beside it.

    JinjaTemplate(
        name="can we infer",
        jinja="{{premise}} Are we justified in saying that {{hypothesis}} ||| {{answer_choices[label]}}",
        answer_choices="Yes ||| Maybe ||| No",
    )

Templates run in Jinja's sandbox: they read the row, and reach nothing else. One that mentions a column the row lacks,
or fails, is told with the row; so is one that writes nothing.

Source: promptsource (Bach et al. 2022, arXiv 2202.01279), whose files `read_promptsource` reads.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hyperpelt.errors import UserError, unknown
from hyperpelt.tasks.rendering import Example

if TYPE_CHECKING:
    from jinja2 import nodes
    from jinja2.sandbox import SandboxedEnvironment

PARTED = "|||"
OURS = ("answer_choices", "range", "zip", "len")  # what a template may read beside the row's columns


@dataclass(frozen=True, kw_only=True)
class JinjaTemplate:
    """Renders a row.

    name: for messages. answer_choices: a template too; "" for open answers. answer: columns that a row to predict on
    lacks; the input must not need them.
    """

    name: str
    jinja: str
    answer_choices: str = ""
    answer: tuple[str, ...] = ("label",)

    def __post_init__(self) -> None:
        self.columns()

    def columns(self) -> frozenset[str]:
        """The columns that the template mentions. Raises UserError if it is malformed."""
        from jinja2 import TemplateSyntaxError

        try:
            return _columns(self.jinja) | _columns(self.answer_choices)
        except TemplateSyntaxError as error:
            raise UserError(f"the template {self.name!r} is malformed ({error})") from None

    def __call__(self, row: Mapping[str, Any]) -> Example:
        for column in sorted(self.columns()):
            if column not in row and column not in self.answer:
                raise UserError(f"the template {self.name!r} needs a column that is not there. {_hint(column, row)}")
        answered = all(row.get(column) is not None for column in self.answer if column in self.columns())
        try:
            return self._rendered(row, answered=answered)
        except _NoPlace as place:  # a number such as -1 instead of an answer, which the task's kind judges
            unanswered = self._rendered(row, answered=False)
            return replace(unanswered, label=None if unanswered.choices is None else place.args[0])

    def _rendered(self, row: Mapping[str, Any], *, answered: bool) -> Example:
        texts = [text.strip() for text in self._filled(self.answer_choices, row, (), answered).split(PARTED)]
        choices = tuple(texts) if self.answer_choices else None
        read, _, written = self._filled(self.jinja, row, choices or (), answered).partition(PARTED)
        if not read.strip() or (answered and not written.strip()):
            empty = "target" if read.strip() else "input"
            raise UserError(f"the template {self.name!r} writes no {empty} for this row")
        return Example(input=read.strip(), target=written.strip() if answered else "", choices=choices)

    def _filled(self, text: str, row: Mapping[str, Any], choices: tuple[str, ...], answered: bool) -> str:
        from jinja2 import TemplateError

        try:
            return _compiled(text, answered).render({**row, "answer_choices": list(choices), "zip": zip, "len": len})
        except (TemplateError, TypeError, ValueError, LookupError, ArithmeticError, AttributeError) as error:
            told = str(error).strip().splitlines() or [type(error).__name__]
            raise UserError(f"the template {self.name!r} fails on this row: {told[0]}") from None


def _hint(column: str, row: Mapping[str, Any]) -> str:
    return str(unknown("column", column, list(row)))


class _NoPlace(Exception):
    """A number below 0 where a place in a list is asked for, as an unlabelled row's -1: Python would count from the
    end, and the row would have the last answer."""


@cache
def _environment(*, strict: bool) -> SandboxedEnvironment:
    """strict: what is not there is an error; else, for rows without an answer, nothing."""
    from jinja2 import ChainableUndefined, StrictUndefined
    from jinja2.sandbox import ImmutableSandboxedEnvironment

    class Environment(ImmutableSandboxedEnvironment):
        def getitem(self, obj: Any, argument: Any) -> Any:
            if isinstance(obj, list | tuple) and isinstance(argument, int) and argument < 0:
                if strict:
                    raise _NoPlace(argument)
                return self.undefined(obj=obj, name=str(argument))
            return super().getitem(obj, argument)

    return Environment(undefined=StrictUndefined if strict else ChainableUndefined)


def _parsed(text: str, strict: bool) -> nodes.Template:
    """The template's tree. What its author counts from the end (`words[-1]`) is written as a piece, `words[-1:][0]`:
    only what a row says is checked."""
    from jinja2 import nodes

    tree = _environment(strict=strict).parse(text)
    for found in list(tree.find_all(nodes.Getitem)):
        if isinstance(found.arg, nodes.Neg) and isinstance(found.arg.node, nodes.Const):
            end = found.arg.node.value - 1
            piece = nodes.Slice(found.arg, nodes.Const(-end) if end else None, None, lineno=found.lineno)
            found.node, found.arg = nodes.Getitem(found.node, piece, "load", lineno=found.lineno), nodes.Const(0)
    tree.set_environment(_environment(strict=strict))
    return tree


@cache
def _columns(text: str) -> frozenset[str]:
    from jinja2 import meta

    return frozenset(meta.find_undeclared_variables(_parsed(text, strict=True))) - frozenset(OURS)


@cache
def _compiled(text: str, strict: bool) -> Any:
    return _environment(strict=strict).from_string(_parsed(text, strict))


def read_promptsource(path: Path, answer: tuple[str, ...]) -> Iterator[JinjaTemplate]:
    """The templates of a promptsource file (`templates.yaml`). Raises UserError for one that is none."""
    from hyperpelt.files.plain_yaml import LARGEST, Bounded, NotYaml, parse_one
    from hyperpelt.files.reading import read_text

    class Loader(Bounded):
        """Their tags stand for plain mappings."""

    for tag in ("!Template", "!TemplateMetadata"):
        Loader.add_constructor(tag, lambda loader, node: loader.construct_mapping(node, deep=True))
    try:
        content = parse_one(read_text(path, largest=LARGEST), Loader)[1]
        entries = list(content["templates"].values())
        made = [(str(entry["name"]), str(entry["jinja"]), entry.get("answer_choices") or "") for entry in entries]
    except OSError as error:
        raise UserError(f"templates: cannot read {path} ({error.strerror})") from None
    except (NotYaml, KeyError, TypeError, AttributeError) as error:
        raise UserError(f"templates: {path} is not a promptsource file ({type(error).__name__}: {error})") from None
    for name, jinja, choices in made:
        yield JinjaTemplate(name=name, jinja=jinja, answer_choices=choices, answer=answer)
