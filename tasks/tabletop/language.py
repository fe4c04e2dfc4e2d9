"""How the world is told: words for concepts, noun phrases, deeds in several constructions, facts.

Telling has two steps. `words` chooses a word for every concept of a deed; `tell` puts chosen words into a sentence.
So a second sentence can keep the words of a first one, or replace some of them by `reword`. Every function draws from
the `Dice` it is given.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from hyperpelt_tasks.tabletop.dice import Dice
from hyperpelt_tasks.tabletop.lexicon import MEN, WOMEN
from hyperpelt_tasks.tabletop.world import COLOURS, DEEDS, PEOPLE, RELATIONS, SYNONYMS, TIMES, Deed

Words = dict[str, Any]  # slot of a deed: the word told; for "did" base, past and participle


def options_of(name: str) -> Sequence[Any]:
    """All words of a concept: strings, or the forms of a verb. A person's name has only itself."""
    return DEEDS.get(name) or SYNONYMS.get(name) or (name,)


def word(name: str, dice: Dice, *, plain: int = 60) -> Any:
    """A word for the concept: its name in `plain` of 100 cases, else a synonym if there is one."""
    options = options_of(name)
    return options[0] if len(options) == 1 or dice.chance(plain) else dice.choice(options[1:])


def reword(name: str, used: Any, dice: Dice) -> Any:
    """A word for the concept that is not `used`; the same one if it has no other."""
    return dice.choice([option for option in options_of(name) if option != used] or [used])


def words(deed: Deed, dice: Dice, *, plain: int = 60, evenly: Sequence[str] = ()) -> Words:
    """A word for every slot that is told; in the slots of `evenly`, each of a concept's words is as likely."""
    said = {slot: word(getattr(deed, slot), dice, plain=plain) for slot in deed.told()}
    return said | {slot: dice.choice(options_of(getattr(deed, slot))) for slot in evenly}


def sentence(text: str) -> str:
    """One capital, one full stop, single spaces."""
    text = " ".join(text.split())
    return text[0].upper() + text[1:] + ("" if text[-1] in ".?!" else ".")


def inner(text: str) -> str:
    """A sentence as part of another: no capital, unless it begins with a name, and no full stop."""
    first = text.split()[0].rstrip(",.")
    return (text if first in PEOPLE else text[0].lower() + text[1:]).rstrip(".")


def article(phrase: str) -> str:
    """The phrase with a or an."""
    return ("an " if phrase[0] in "aeiou" else "a ") + phrase


def person(said: str) -> str:
    """A name as it is, a role with its article."""
    return said if not said or said[0].isupper() else "the " + said


def thing(said: Words) -> str:
    """ "large red ball"; what is not told is left out."""
    return " ".join(said[slot] for slot in ("size", "colour", "shape") if slot in said)


def tell(said: Words, dice: Dice, *, form: int | None = None) -> str:
    """A deed as one sentence, in one of five constructions (active, passive, fronted, cleft, "was the one to").

    Without a "who" it is always passive.
    """
    who, what = person(said.get("who", "")), "the " + thing(said)
    base, past, participle = said["did"]
    told = [said[slot] for slot in ("where", "when", "why") if slot in said]
    rest = " ".join(told)
    if not who:
        return sentence(f"{what} was {participle} {rest}")
    match dice.below(5) if form is None else form:
        case 1:
            return sentence(f"{what} was {participle} by {who} {rest}")
        case 2 if told:
            return sentence(f"{told[-1]}, {who} {past} {what} {' '.join(told[:-1])}")
        case 3:
            return sentence(f"it was {who} who {past} {what} {rest}")
        case 4:
            return sentence(f"{who} was the one to {base} {what} {rest}")
        case _:
            return sentence(f"{who} {past} {what} {rest}")


def lies(what: str, where: str, dice: Dice) -> str:
    """A thing and its place, in one of four constructions. `what` has no article."""
    match dice.below(4):
        case 0:
            return sentence(f"there is {article(what)} {where}")
        case 1:
            return sentence(f"{where} you can see {article(what)}")
        case 2:
            return sentence(f"{where} lies {article(what)}")
        case _:
            return sentence(f"the {what} is {where}")


def relates(one: str, relation: tuple[int, int], two: str, dice: Dice) -> str:
    """Where one thing lies as seen from another. `relation` is (axis, direction)."""
    axis, direction = relation
    return sentence(f"the {one} is {dice.choice(RELATIONS[axis][direction])} the {two}")


def filled(text: str, dice: Dice) -> str:
    """A clause with its person, pronouns, colour and time filled in ({n} {p} {s} {c} {d}); no full stop."""
    woman = " her " in f" {text} " or (" his " not in f" {text} " and dice.chance(50))
    blanks = {
        "n": dice.choice(WOMEN if woman else MEN),
        "p": "she" if woman else "he",
        "s": "her" if woman else "his",
        "c": dice.choice(tuple(COLOURS)),
        "d": word(dice.choice(tuple(TIMES)), dice),
    }
    return text.format(**blanks)


def names(dice: Dice, count: int) -> list[str]:
    """Different people's names."""
    return dice.sample(PEOPLE, count)
