"""Facts about things: "The ball is red and belongs to the cook. The cube is blue and in the garden."

Two things share one kind of fact (both have a colour), and each has a kind of its own. A statement that binds a thing
to the other one's value is false or untold, and has no word that the facts do not have: only who is bound to what
decides.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from hyperpelt_tasks.tabletop.dice import Dice
from hyperpelt_tasks.tabletop.language import options_of, sentence, word
from hyperpelt_tasks.tabletop.world import OPPOSITE, RICH, SHAPES, split_of

TRUE, FALSE, UNTOLD = 0, 1, 2
STATES = tuple(OPPOSITE)[::2]
VALUES: dict[str, tuple[str, ...]] = {
    "colour": RICH["colour"],
    "size": RICH["size"],
    "where": RICH["where"],
    "owner": RICH["who"],
    **{state: (state, OPPOSITE[state]) for state in STATES},
}
KINDS = tuple(VALUES)


class Fact(NamedTuple):
    """What one thing is like: `shape` names the thing, `kind` says in which respect, `value` how.

    Concepts, or words.
    """

    shape: str
    kind: str
    value: str

    def predicate(self) -> str:
        return f"belongs to the {self.value}" if self.kind == "owner" else f"is {self.value}"

    def clause(self) -> str:
        return f"the {self.shape} {self.predicate()}"

    def question(self) -> str:
        if self.kind == "owner":
            return f"does the {self.shape} belong to the {self.value}?"
        return f"is the {self.shape} {self.value}?"


def facts_of(dice: Dice, count: int, *, split: str) -> list[list[Fact]]:
    """For each of `count` things a fact of the shared kind and one of a kind of its own."""
    while True:
        shared, *own = dice.sample(KINDS, count + 1)
        values = dice.sample(VALUES[shared], 2)
        shapes = dice.sample(tuple(SHAPES), count)
        facts = [
            [Fact(shape, shared, values[place % 2]), Fact(shape, own[place], dice.choice(VALUES[own[place]]))]
            for place, shape in enumerate(shapes)
        ]
        if split_of(scene_of(facts)) == split:
            return facts


def scene_of(facts: Sequence[Sequence[Fact]]) -> str:
    return "facts/" + "/".join(sorted("-".join(fact) for pair in facts for fact in pair))


def worded(facts: Sequence[Sequence[Fact]], dice: Dice, *, plain: int) -> list[list[Fact]]:
    """The facts with words instead of concepts; a thing keeps its word."""
    said = []
    for pair in facts:
        name = word(pair[0].shape, dice, plain=plain)
        said.append([Fact(name, fact.kind, dice.choice(options_of(fact.value))) for fact in pair])
    return said


def passage(said: Sequence[Sequence[Fact]], dice: Dice) -> str:
    """The facts thing by thing, in any order."""
    pairs = (dice.shuffled(pair) for pair in dice.shuffled(said))
    return " ".join(sentence(f"{one.clause()} and {two.predicate()}") for one, two in pairs)


def bound(said: Sequence[Sequence[Fact]], truth: int, dice: Dice) -> Fact:
    """A statement about one of the first two things with a value that stands in the passage."""
    mine, twin = dice.shuffled(said[:2])
    source = {TRUE: dice.choice(mine), FALSE: twin[0], UNTOLD: twin[1]}[truth]
    return source._replace(shape=mine[0].shape)
