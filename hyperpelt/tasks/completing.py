"""How a rendered row's Example is checked, and completed by what follows from the rest."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Any

from hyperpelt.errors import UserError, shown
from hyperpelt.tasks.labels import NO_ANSWER, place_of
from hyperpelt.tasks.rendering import Example
from hyperpelt.tasks.values import is_missing, number_text, plain

Choices = tuple[str | None, ...] | None  # None in the place of one that is empty
LARGEST = 1e38  # weights are float32


def _complete_classification(example: Example, choices: Choices) -> Example:
    if not choices:
        raise UserError("a classification row needs choices: give the task fixed ones, or let render return them")
    if example.label is None and example.target:
        if example.target not in choices:
            raise UserError(f"the answer {example.target!r} is not a choice; expected one of {_listed(choices)}")
        chosen = example.target
    else:
        chosen = _text_at(choices, place_of(example.label, choices))
    if example.target and example.target != chosen:
        raise UserError(f"the target {example.target!r} is not the choice of label {example.label!r}, {chosen!r}")
    there = _there(choices)
    return replace(example, choices=there, label=there.index(chosen), target=chosen)


def _text_at(choices: tuple[str | None, ...], place: int) -> str:
    text = choices[place]
    if text is None:
        raise UserError(f"the label {place} is the index of an empty choice")
    return text


def _complete_regression(example: Example, choices: Choices) -> Example:
    gold = example.target if example.label is None else example.label
    if is_missing(gold):
        raise UserError(f"the row has no answer (its label is {gold!r}); {NO_ANSWER.format(None, 'null')}")
    label = _number(gold)
    target = example.target
    if not target and choices:
        target = min(_there(choices), key=lambda choice: abs(float(choice) - label))
    elif not target:
        target = gold.strip() if isinstance(gold, str) else number_text(plain(gold))
    if choices and target not in choices:
        raise UserError(f"the target {target!r} is not a choice; expected {choices[0]!r} to {choices[-1]!r}")
    return replace(example, choices=None if choices is None else _there(choices), label=label, target=target)


def _number(gold: Any) -> float:
    """A finite number, or a text that spells one; a truth value is none."""
    try:
        if isinstance(plain(gold), bool) or (isinstance(gold, str) and "_" in gold):  # which Python would take
            raise TypeError
        label = float(gold)
    except (TypeError, ValueError):
        raise UserError(f"the label is {gold!r}, expected a number") from None
    if label != label or label in (float("inf"), float("-inf")):
        raise UserError(f"the label is {label}, expected a finite number")
    return label


def _complete_generation(example: Example, choices: Choices) -> Example:
    label = example.label if example.label is not None else example.target
    references = _references(label)
    written = example.targets[0][0] if example.targets else next(filter(None, references), "")
    target = example.target or written
    _check_targets(example.targets)
    there = None if choices is None else _there(choices)
    if there and target not in there:
        raise UserError(f"the answer {target!r} is not a choice; expected one of {_listed(there)}")
    one = isinstance(label, str) or not isinstance(label, Iterable)
    return replace(example, choices=there, label=references[0] if one else references, target=target)


def _references(label: Any) -> tuple[str, ...]:
    """The accepted answers: one text or number, or several. An empty list: the question has no answer, and to write
    nothing is right (SQuAD 2.0)."""
    one = isinstance(label, str) or not isinstance(label, Iterable)
    if one and is_missing(label):
        raise UserError(
            f"the row has no answer (its label is {label!r}): give a text or a list of accepted ones; an empty list "
            f"says that there is none to give. Otherwise {NO_ANSWER.format(None, 'null')}"
        )
    given = [label] if one else list(label)
    texts = tuple(number_text(plain(text)) if _is_number(text) else text for text in given)
    if not all(isinstance(text, str) for text in texts) or isinstance(label, Mapping):
        raise UserError(f"expected a target text or a tuple of accepted answers, got {label!r}")
    return texts or ("",)


def _is_number(value: Any) -> bool:
    value = plain(value)
    return isinstance(value, int | float) and not isinstance(value, bool) and value == value


def _check_targets(targets: tuple[tuple[str, float], ...]) -> None:
    if targets and not any(score > 0 for _, score in targets):
        raise UserError("no target has a score above 0, so none can be drawn")


def complete(kind: str, example: Example, choices: tuple[str, ...] | None, *, answered: bool = True) -> Example:
    """Fill in what follows from the rest, and check that the answer is one. choices: the task's fixed ones. answered
    False: target and label stay empty.

    Raises UserError without saying where: `Naming` adds that.
    """
    if not isinstance(example, Example):
        raise UserError(f"render returned {type(example).__name__}, expected a hyperpelt.Example")
    if not isinstance(example.input, str):
        raise UserError(f"the input is {example.input!r}, expected a string")
    _check_fields(example)
    if not example.input.endswith(example.ending):
        raise UserError(f"the input ends in {example.input[-60:]!r}, not in its ending {example.ending[-60:]!r}")
    own = choices if example.choices is None else own_choices(example.choices)
    if not answered:
        there = None if own is None else _there(own)
        return replace(example, choices=there, target="", label=None, targets=())
    return _COMPLETE[kind](example, own)


def _is_scored(pair: Any) -> bool:
    if not isinstance(pair, list | tuple) or len(pair) != 2:
        return False
    text, score = pair[0], plain(pair[1])
    is_number = isinstance(score, int | float) and not isinstance(score, bool)
    return isinstance(text, str) and bool(text) and is_number and 0 <= score <= 1


def _check_fields(example: Example) -> None:
    """What a render function may have put into the other fields; half characters are no text that can be encoded."""
    if not isinstance(example.ending, str):
        raise UserError(f"the ending is {shown(example.ending)}, expected a string")
    if not isinstance(example.target, str):
        raise UserError(f"the target is {shown(example.target)}, expected a string")
    weight = plain(example.weight)
    if isinstance(weight, bool) or not isinstance(weight, int | float) or not 0 <= weight <= LARGEST:
        raise UserError(f"the weight is {shown(example.weight)}, expected a number from 0 to {LARGEST:g}")
    if not isinstance(example.targets, list | tuple) or not all(map(_is_scored, example.targets)):
        raise UserError(f"expected targets as (text, score in 0..1), got {shown(example.targets)}")
    if isinstance(example.images, str | bytes) or not isinstance(example.images, Iterable):
        raise UserError(f"the images are {shown(example.images)}, expected a tuple of images")
    choices = example.choices if isinstance(example.choices, list | tuple) else ()
    texts = (example.input, example.target, *(pair[0] for pair in example.targets), *choices)
    for text in texts:
        if isinstance(text, str) and not text.isascii():
            try:
                text.encode("utf8")
            except UnicodeEncodeError as problem:
                found = problem.object[problem.start : problem.end]
                raise UserError(f"expected text, got half a character ({found!a})") from None


def own_choices(given: Any, where: str = "the row's choices") -> tuple[str | None, ...]:
    """A row's own choices as a render function gives them, None in the place of each that is empty or null.

    Raises UserError for what is no list of texts (a text would be taken apart into its letters), or holds none.
    """
    if isinstance(given, str | bytes | Mapping) or not isinstance(given, Iterable):
        raise UserError(
            f"{where}: expected a list of texts, got {given!r}. CSV holds no lists: give each option a column of its "
            f"own (in YAML `choices: {{columns: [a, b, c]}}`), or say `types: {{options: json}}` if its cells are JSON"
        )
    choices = tuple(None if is_missing(choice) else choice for choice in given)
    for choice in choices:
        if choice is not None and not isinstance(choice, str):
            raise UserError(f"{where}: expected texts, got {choice!r} ({type(choice).__name__})")
    if not _there(choices):
        raise UserError(f"{where}: all of them are empty")
    return choices


def _there(choices: Choices) -> tuple[str, ...]:
    return tuple(choice for choice in choices or () if choice is not None)


def _listed(choices: Choices) -> str:
    return ", ".join(map(repr, _there(choices)))


_COMPLETE = {
    "classification": _complete_classification,
    "regression": _complete_regression,
    "generation": _complete_generation,
}
