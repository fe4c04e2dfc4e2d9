"""Which choice a row's label means.

The choice's own text wins; only then may a label be the place of a choice, counted from 0. A truth value is never a
place. Where the choices are numbers themselves, and one of their places is the text of another choice (ratings 1 to 5),
no label is taken as a place: half of them would mean one thing and half the other.

A class of a `ClassLabel` column is known by its name where the names are among the choices, and by its place where none
of them is.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any
from unicodedata import normalize

from hyperpelt.errors import UserError
from hyperpelt.tasks.values import ClassNumber, is_missing, known_by, plain, truth_of, whole_number

NO_ANSWER = "leave such rows out: Splits(drop={{column: {0!r}}}), in YAML `splits: {{drop: {{column: {1}}}}}`"


def place_of(label: Any, choices: Sequence[str | None]) -> int:
    """The place in `choices` that a label means. A choice may be None (no candidate, but it has its place).

    Raises UserError for a label that is no choice, whichever way it is read.
    """
    if is_missing(label):
        raise UserError(f"the row has no answer (its label is {label!r}); {NO_ANSWER.format(None, 'null')}")
    named = isinstance(label, ClassNumber) and label.name is not None
    texts = list(known_by(label))
    found = [text for text in texts if text in choices] or _truth(label, choices)
    if found:
        return choices.index(found[0])
    if named and set(label.names) & set(choices):
        raise UserError(
            f"the answer {label.name!r} (class {int(label)}) is not a choice; expected one of {_all(choices)}"
        )
    number = whole_number(label)
    if number is None:
        raise _no_choice(plain(label), choices)
    if not 0 <= number < len(choices):
        raise _no_place(number, choices)
    if not named and places_clash(choices):
        raise UserError(
            f"the label {number} is ambiguous: as text it is not a choice "
            f"({_all(choices)}); as an index, counted from 0, it would be {choices[number]!r}, but other indices are "
            f"texts of choices. Write the choice itself, or translate: `labels: {{{number}: ...}}` in YAML"
        )
    return number


def places_clash(choices: Sequence[str | None]) -> bool:
    """Whether a number could mean one choice by its text and another one by its place."""
    return any(str(place) in choices and choices[place] != str(place) for place in range(len(choices)))


def _truth(label: Any, choices: Sequence[str | None]) -> list[str]:
    """The choice that spells the same truth value in other case, if there is just one."""
    truth = truth_of(label)
    found = [choice for choice in choices if truth is not None and choice is not None and choice.casefold() == truth]
    return found if len(found) == 1 else []


def _no_choice(label: Any, choices: Sequence[str | None]) -> UserError:
    if isinstance(label, bool):
        return UserError(
            f"the label is the boolean {str(label).lower()}, which is not a choice ({_all(choices)}) and never the "
            f"index of one: translate it, in YAML `labels: {{true: ..., false: ...}}`, in Python in the render function"
        )
    if not isinstance(label, str):
        return UserError(
            f"the label is {label!r} ({type(label).__name__}), expected the text of a choice, one of {_all(choices)}, "
            f"or its index, 0 to {len(choices) - 1}"
        )
    message = f"the answer {label!r} is not a choice; expected one of {_all(choices)}"
    near = [choice for choice in choices if choice is not None and _evened(choice) == _evened(label)]
    if near:
        how = "case or blanks" if normalize("NFC", label) == label else f"how letters are put together ({label!a})"
        message += f". {near[0]!r} differs in {how}: translate it, in YAML `labels: {{{label!r}: {near[0]}}}`"
    return UserError(message)


def _evened(text: str) -> str:
    """As most people see it: with one kind of blanks, and an accent that stands beside its letter on it."""
    return normalize("NFKC", text).strip().casefold()


def _no_place(number: int, choices: Sequence[str | None]) -> UserError:
    message = (
        f"unknown label {number}: as text it is not a choice ({_all(choices)}), and indices are counted from 0 to "
        f"{len(choices) - 1}"
    )
    if number < 0:
        return UserError(f"{message}. If it marks rows without an answer, {NO_ANSWER.format(number, number)}")
    if number == len(choices):
        message += f". If labels count from 1, say so: in YAML `labels: {{1: {choices[0]}, ...}}`, in Python label - 1"
    return UserError(message)


def _all(choices: Sequence[str | None]) -> str:
    return ", ".join(repr(choice) for choice in choices if choice is not None)
