"""How the world is told: noun phrases, deeds in several constructions, facts, opinions.

Every function draws its wording from the `Dice` it is given. `word` picks one of a concept's words; with `avoid` it picks
one that does not stand in that text, where the concept has another.
"""

from __future__ import annotations

from collections.abc import Sequence

from hyperpelt_tasks.tabletop.dice import Dice
from hyperpelt_tasks.tabletop.lexicon import MEN, WOMEN
from hyperpelt_tasks.tabletop.world import COLOURS, DEEDS, PEOPLE, RELATIONS, SYNONYMS, TIMES, Deed


def word(name: str, dice: Dice, *, plain: int = 50, avoid: str = "") -> str:
    """A word for the concept: its name in `plain` of 100 cases, else a synonym; not one that stands in `avoid`."""
    options = [option for option in SYNONYMS.get(name, (name,)) if option not in avoid] or [name]
    if options[0] != name:
        return dice.choice(options)
    return name if len(options) == 1 or dice.chance(plain) else dice.choice(options[1:])


def verb(name: str, dice: Dice, *, plain: int = 50, avoid: str = "") -> tuple[str, str, str]:
    """Base, past and participle of a word for the deed."""
    fresh = [forms for forms in DEEDS[name] if forms[1] not in avoid and forms[2] not in avoid] or DEEDS[name][:1]
    return fresh[0] if len(fresh) == 1 or dice.chance(plain) else fresh[1]


def sentence(text: str) -> str:
    """One capital, one full stop, single spaces."""
    text = " ".join(text.split())
    return text[0].upper() + text[1:] + ("" if text[-1] in ".?!" else ".")


def article(phrase: str) -> str:
    """The phrase with a or an."""
    return ("an " if phrase[0] in "aeiou" else "a ") + phrase


def listed(items: Sequence[str]) -> str:
    """a, b and c."""
    return " and ".join(part for part in (", ".join(items[:-1]), items[-1]) if part)


def thing(size: str, colour: str, shape: str, dice: Dice, *, plain: int = 50, avoid: str = "") -> str:
    """"large red ball", or the same in other words; what is empty stays untold."""
    parts = [word(part, dice, plain=plain, avoid=avoid) for part in (size, colour, shape or "thing") if part]
    return " ".join(parts)


def person(name: str, dice: Dice, *, plain: int = 50, avoid: str = "") -> str:
    """A name as it is; a role with its article; "someone" for nobody told."""
    if not name or name[0].isupper():
        return name or "someone"
    return "the " + word(name, dice, plain=plain, avoid=avoid)


def tell(deed: Deed, dice: Dice, *, plain: int = 50, avoid: str = "", form: int | None = None) -> str:
    """The deed as one sentence, in one of five constructions (active, passive, fronted, cleft, "was the one to")."""
    who = person(deed.who, dice, plain=plain, avoid=avoid)
    what = "the " + thing(deed.size, deed.colour, deed.shape, dice, plain=plain, avoid=avoid)
    base, past, participle = verb(deed.did, dice, plain=plain, avoid=avoid)
    told = [word(part, dice, plain=plain, avoid=avoid) for part in (deed.where, deed.when, deed.why) if part]
    rest = " ".join(told)
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
