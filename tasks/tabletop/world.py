"""What happens in the world: deeds of people with coloured things, and facts about things.

A deed is eight concepts (who, did, size, colour, shape, where, when, why), some of them left out; a fact is a property
of a thing. Both have a canonical text, `scene()`: `split_of` hashes it, and the hash alone decides which split may tell
it. So no two splits, of whatever seed or difficulty, can share a scene.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from hyperpelt_tasks.tabletop import lexicon
from hyperpelt_tasks.tabletop.dice import Dice, digest


def index(*tables: Iterable[tuple[Any, ...]]) -> dict[str, tuple[Any, ...]]:
    """Concepts by their name, which is their first word (a verb's is its base)."""
    concepts = [concept for table in tables for concept in table]
    return {concept[0] if isinstance(concept[0], str) else concept[0][0]: concept for concept in concepts}


COLOURS = index(lexicon.COLOURS)
SIZES = index(lexicon.SIZES)
SHAPES = index(lexicon.SHAPES)
ROLES = index(lexicon.ROLES)
DEEDS = index(lexicon.DEEDS)
MEETINGS = index(lexicon.MEETINGS)
PLACES = index(lexicon.PLACES)
TIMES = index(lexicon.TIMES)
REASONS = index(lexicon.REASONS)
RELATIONS = lexicon.RELATIONS
MATERIALS = index(lexicon.MATERIALS)
OPPOSITE = {one[0]: other[0] for pair in lexicon.OPPOSITES for one, other in (pair, pair[::-1])}
STATES = index([side for pair in lexicon.OPPOSITES for side in pair])
PEOPLE = tuple(lexicon.WOMEN + lexicon.MEN)
SYNONYMS: dict[str, tuple[str, ...]] = {
    **COLOURS,
    **SIZES,
    **SHAPES,
    **ROLES,
    **PLACES,
    **TIMES,
    **REASONS,
    **MATERIALS,
    **STATES,
}

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


COMMON = ("in", "on", "by")  # prepositions of many places


def rich(concepts: Mapping[str, tuple[Any, ...]]) -> tuple[str, ...]:
    """The concepts that have a synonym."""
    return tuple(name for name, words in concepts.items() if len(words) > 1)


RICH = {
    "who": rich(ROLES),
    "did": rich(DEEDS),
    "size": rich(SIZES),
    "colour": rich(COLOURS),
    "shape": rich(SHAPES),
    "where": tuple(place for place in rich(PLACES) if place.split()[0] in COMMON),
    "when": rich(TIMES),
    "why": rich(REASONS),
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

    def scene(self) -> str:
        """The canonical content, for hashing."""
        return "/".join(self)


def a_deed(dice: Dice, *, split: str, keep: Iterable[str] = (), richly: Iterable[str] = (), names: int = 30) -> Deed:
    """A deed of this split with a who, a did, a shape and the slots of `keep`.

    richly: slots whose concept must have a synonym. names: percent of the other agents who have a name, not a role.
    """
    kept, richly = {"who", "did", "shape", *keep}, tuple(richly)
    pools = {slot: (RICH if slot in richly else SLOTS)[slot] if slot in kept else ("",) for slot in SLOTS}
    while True:
        values = {slot: dice.choice(pool) for slot, pool in pools.items()}
        if "who" not in richly and dice.chance(names):
            values["who"] = dice.choice(PEOPLE)
        deed = Deed(**values)
        if split_of(deed.scene()) == split:
            return deed


def peers(slot: str, concept: str, *, richly: bool) -> Sequence[str]:
    if slot == "who" and concept[0].isupper():
        return PEOPLE
    options = (RICH if richly else SLOTS)[slot]
    if slot == "where":
        return [place for place in options if place.split()[0] == concept.split()[0]]
    return options


def other(slot: str, *taken: str, dice: Dice, richly: bool = False) -> str:
    """A concept for the slot instead of the first of `taken`, and none of them."""
    options = peers(slot, taken[0], richly=richly)
    while True:
        option = dice.choice(options)
        if option not in taken:
            return option


def altered(deed: Deed, slots: Sequence[str], dice: Dice, *, split: str, avoid: Sequence[Deed] = ()) -> Deed | None:
    """The deed with other, rich concepts in these slots: again a deed of the split; None if there is none.

    avoid: further deeds whose concepts are not taken either.
    """
    for _ in range(200):
        values = {
            slot: other(slot, *(getattr(told, slot) for told in (deed, *avoid)), dice=dice, richly=True)
            for slot in slots
        }
        candidate = deed._replace(**values)
        if split_of(candidate.scene()) == split:
            return candidate
    return None


def split_of(scene: str) -> str:
    """The one split that may use a scene: by its hash, 80 % train, 10 % validation, 10 % test."""
    tenth = digest(scene) % 10
    return "validation" if tenth == 8 else "test" if tenth == 9 else "train"
