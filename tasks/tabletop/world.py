"""What happens in the world: deeds of people with coloured things, and facts about things.

A deed is eight concepts (who, did, size, colour, shape, where, when, why), some of them left out; a fact is a property
of a thing. Both are plain tuples of concept names, so that their `repr` is canonical: `split_of` hashes it, and the hash
alone decides which split may use it. No two splits, of any seed, can share a scene.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

from hyperpelt_tasks.tabletop import lexicon
from hyperpelt_tasks.tabletop.dice import Dice, digest


def index(*tables: Iterable[tuple]) -> dict[str, tuple]:
    """Concepts by their name, which is their first word (a verb's is its base)."""
    concepts = [concept for table in tables for concept in table]
    return {concept[0] if isinstance(concept[0], str) else concept[0][0]: concept for concept in concepts}


COLOURS = index(lexicon.COLOURS)
SIZES = index(lexicon.SIZES)
SHAPES = index(lexicon.SHAPES)
ROLES = index(lexicon.ROLES)
DEEDS = index(lexicon.DEEDS)
PLACES = index(lexicon.PLACES)
TIMES = index(lexicon.TIMES)
REASONS = index(lexicon.REASONS)
RELATIONS = lexicon.RELATIONS
MATERIALS = index(lexicon.MATERIALS)
OPPOSITE = {one[0]: other[0] for pair in lexicon.OPPOSITES for one, other in (pair, pair[::-1])}
STATES = index([side for pair in lexicon.OPPOSITES for side in pair])
PEOPLE = tuple(lexicon.WOMEN + lexicon.MEN)
SYNONYMS: dict[str, tuple[str, ...]] = {**COLOURS, **SIZES, **SHAPES, **ROLES, **PLACES, **TIMES, **REASONS, **MATERIALS, **STATES}

# What each place of a deed may hold.
SLOTS: dict[str, tuple[str, ...]] = {
    "who": tuple(ROLES),
    "did": tuple(DEEDS),
    "size": tuple(SIZES),
    "colour": tuple(COLOURS),
    "shape": tuple(SHAPES),
    "where": tuple(PLACES),
    "when": tuple(TIMES),
    "why": tuple(REASONS),
}


class Deed(NamedTuple):
    """Somebody did something to a thing. An empty string: not told."""

    who: str
    did: str
    size: str
    colour: str
    shape: str
    where: str = ""
    when: str = ""
    why: str = ""

    def told(self) -> list[str]:
        """The names of the slots that are told."""
        return [slot for slot in self._fields if getattr(self, slot)]

    def without(self, *slots: str) -> Deed:
        """The same deed, told without these slots."""
        return self._replace(**dict.fromkeys(slots, ""))


def a_deed(dice: Dice, *, names: bool = False) -> Deed:
    """A deed with every slot filled; its agent has a role, or a name."""
    values = {slot: dice.choice(options) for slot, options in SLOTS.items()}
    if names:
        values["who"] = dice.choice(PEOPLE)
    return Deed(**values)


def other(slot: str, *taken: str, dice: Dice) -> str:
    """A concept for the slot that is none of those taken."""
    return dice.choice([option for option in SLOTS[slot] if option not in taken])


def split_of(scene: object) -> str:
    """The one split that may use a scene: by its hash, 80 % train, 10 % validation, 10 % test."""
    tenth = digest(repr(scene)) % 10
    return "validation" if tenth == 8 else "test" if tenth == 9 else "train"
