"""How the suite's rows are made: one loop for all tasks.

A task is a function `make(dice, label, split, level) -> row`: it draws a scene of the split, tells it so that the
answer is `label`, and returns the row's columns, `scene` (canonical) among them. `rows` calls it until the split is
full: classes in equal numbers, no text twice. The same (task, split, seed, difficulty) gives the same rows on every
machine.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import wraps
from typing import Any

from hyperpelt import UserError
from hyperpelt_tasks.tabletop.dice import Dice
from hyperpelt_tasks.tabletop.language import inner

SPLIT_ROWS = {"train": 4000, "validation": 500, "test": 500}
Row = dict[str, Any]


@dataclass(frozen=True, kw_only=True)
class Level:
    """How hard the rows are. Percentages are of rows or of words, as said.

    things: how many things or events a passage tells of.
    plain: percent of words told by their plain name; the others get a synonym.
    changes: how many words of a wrong statement mean another thing; at most three.
    echo: percent of these words that a right statement repeats; the others get a synonym.
    swaps: percent of pairs where a wrong statement only exchanges words (who did it to whom, which colour is whose).
    twists: percent of opinions that are turned around ("far from ugly") or set against somebody else's.
    noise: percent of texts with a slip of the pen (a typo, no capitals, a filler in front).
    """

    things: int = 2
    plain: int = 60
    changes: int = 2
    echo: int = 15
    swaps: int = 10
    twists: int = 30
    noise: int = 10


LEVELS = {
    "easy": Level(plain=85, changes=3, echo=30, swaps=0, twists=0, noise=0),
    "default": Level(),
    "hard": Level(things=4, plain=30, changes=1, echo=0, swaps=50, twists=60, noise=25),
}
Make = Callable[[Dice, int, str, Level], Row]


def level_of(difficulty: str, overrides: dict[str, int]) -> Level:
    """A named level with single settings replaced. Raises UserError for a name or a setting that does not exist."""
    if difficulty not in LEVELS:
        raise UserError(
            f"Unknown difficulty {difficulty!r} of the tabletop suite: expected one of {', '.join(LEVELS)}."
        )
    try:
        return replace(LEVELS[difficulty], **overrides)
    except TypeError:
        known = ", ".join(Level.__dataclass_fields__)
        raise UserError(f"Unknown settings among {', '.join(overrides)}: a difficulty has {known}.") from None


def rows_of(name: str, *, labels: int) -> Callable[[Make], Callable[..., Iterator[Row]]]:
    """Decorator: from `make` to a generator's function, `fn(split, seed=, difficulty=, rows=, **settings of Level)`."""

    def decorate(make: Make) -> Callable[..., Iterator[Row]]:
        @wraps(make)
        def rows(
            split: str, *, seed: int = 0, difficulty: str = "default", rows: int | None = None, **settings: int
        ) -> Iterator[Row]:
            level = level_of(difficulty, settings)
            dice = Dice("tabletop", name, split, seed)
            yield from draw(make, dice, split, level, labels=labels, count=rows or SPLIT_ROWS[split])

        return rows

    return decorate


def draw(make: Make, dice: Dice, split: str, level: Level, *, labels: int, count: int) -> Iterator[Row]:
    """`count` rows with balanced labels and different texts."""
    seen: set[tuple[object, ...]] = set()
    waiting: list[int] = []
    for _ in range(count):
        waiting = waiting or dice.shuffled(range(labels))
        label = waiting.pop()
        while True:
            row = make(dice, label, split, level)
            key = tuple(value for column, value in row.items() if column != "scene")
            if key not in seen:
                break
        seen.add(key)
        yield row


FILLERS = ("Well,", "You know,", "So,", "By the way,", "As I said,", "Listen:", "In fact,", "Yes,")


def slip(text: str, dice: Dice, level: Level) -> str:
    """The text, in `level.noise` of 100 cases with a slip of the pen."""
    if not dice.chance(level.noise):
        return text
    match dice.below(4):
        case 0:
            return text.lower()
        case 1:
            return text.rstrip(".")
        case 2:
            return f"{dice.choice(FILLERS)} {inner(text)}."
        case _:
            return typo(text, dice)


def typo(text: str, dice: Dice) -> str:
    """Two neighbouring letters inside a long word exchanged."""
    words = text.split(" ")
    long = [place for place, word in enumerate(words) if len(word) > 5 and word.isalpha()]
    if long:
        place = dice.choice(long)
        word, cut = words[place], dice.between(1, len(words[place]) - 3)
        words[place] = word[:cut] + word[cut + 1] + word[cut] + word[cut + 2 :]
    return " ".join(words)
