"""One text, one judgement: acceptability (as CoLA), sentiment (as SST-2), and review (as Yelp; a transfer target).

Counting words does not help. Every error of `acceptability` breaks the agreement of two words that do not touch, and
each of the two is as frequent in good sentences; opinions are told in words that the other splits do not use.
"""

from __future__ import annotations

from hyperpelt_tasks.tabletop.dice import Dice
from hyperpelt_tasks.tabletop.language import person, sentence, tell, thing, word, words
from hyperpelt_tasks.tabletop.lexicon import DEEDS, MEN, ROLES, WOMEN
from hyperpelt_tasks.tabletop.opinions import BAD, GLAD, GOOD, KEEPING, LIKED, LOATHED, TURNING, UPSET, share
from hyperpelt_tasks.tabletop.suite import Level, Row, rows_of, slip
from hyperpelt_tasks.tabletop.world import COLOURS, a_deed

PEOPLE_ACT = [roles[0] for roles in ROLES]


@rows_of("acceptability", labels=2)
def acceptability(dice: Dice, label: int, split: str, level: Level) -> Row:
    """sentence; label 1 = acceptable. Verbs and roles of each split are its own."""
    deed = a_deed(dice, split=split, keep=("colour", "where"), names=0)
    who = "the " + dice.choice(share(PEOPLE_ACT, split))
    forms = dice.choice(share(DEEDS, split))[0]
    what = thing(words(deed, dice, plain=level.plain))
    where = word(deed.where, dice, plain=level.plain)
    error = dice.choice((swapped, swapped, swapped, agreement, auxiliary, auxiliary, reflexive, numerus))
    return {
        "sentence": sentence(error(dice, bool(label), who, forms, what, where)),
        "label": label,
        "scene": deed._replace(who=who, did=forms[0]).scene(),
    }


def swapped(dice: Dice, good: bool, who: str, forms: tuple[str, str, str], what: str, where: str) -> str:
    """The verb and the person change places: "the kicked doctor the red ball"."""
    noun, verb = who.removeprefix("the "), forms[1]
    first, second = (noun, verb) if good else (verb, noun)
    if dice.chance(50):
        return f"the {first} {second} the {what} {where}"
    return f"{where}, the {first} {second} the {what}"


def agreement(dice: Dice, good: bool, who: str, forms: tuple[str, str, str], what: str, where: str) -> str:
    """Subject and verb disagree across a second noun: "the balls near the cube is new"."""
    many, near = dice.chance(50), dice.chance(50)
    verb = ("are", "were") if many == good else ("is", "was")
    near_noun = who + ("s" if near else "")
    heads = ("keys", "chairs", "boxes", "pictures") if many else ("key", "chair", "box", "picture")
    return f"the {dice.choice(heads)} of {near_noun} {dice.choice(verb)} {where}"


def auxiliary(dice: Dice, good: bool, who: str, forms: tuple[str, str, str], what: str, where: str) -> str:
    """The auxiliary and the verb's form disagree across the subject: "did the cook hid the ball?"."""
    base, past, _ = forms
    asks = dice.chance(50)
    verb = base if asks == good else past
    return f"did {who} {verb} the {what} {where}?" if asks else f"yesterday {who} {verb} the {what} {where}"


def reflexive(dice: Dice, good: bool, who: str, forms: tuple[str, str, str], what: str, where: str) -> str:
    """The reflexive has the wrong sex: "Anna hurt himself"."""
    woman = dice.chance(50)
    name = dice.choice(WOMEN if woman else MEN)
    pronoun = "herself" if woman == good else "himself"
    told = dice.choice(("hurt", "saw", "blamed", "praised", "washed", "painted"))
    return f"{name} {told} {pronoun} {where}"


def numerus(dice: Dice, good: bool, who: str, forms: tuple[str, str, str], what: str, where: str) -> str:
    """A determiner and its noun disagree across an adjective: "these red cube"."""
    many = dice.chance(50)
    determiner = dice.choice(("these", "those", "two", "many") if many else ("this", "that", "a single", "every"))
    colour = dice.choice(tuple(COLOURS))
    noun = dice.choice(("ball", "cube", "ring", "star", "cone")) + ("s" if many == good else "")
    return f"{who} {forms[1]} {determiner} {colour} {noun} {where}"


def opinion(dice: Dice, good: bool, what: str, split: str, level: Level) -> str:
    """A clause that tells what its speaker feels about a thing."""
    match dice.below(4):
        case 0:
            liked, acted = (LIKED, GLAD) if good else (LOATHED, UPSET)
            if dice.chance(50):
                return f"my sister {dice.choice(share(acted, split))} when she saw {what}"
            return f"we all {dice.choice(share(liked, split))} {what}"
        case 1 if dice.chance(level.twists * 2):
            said, meant = share(BAD if good else GOOD, split), share(GOOD if good else BAD, split)
            return f"some people call {what} {dice.choice(said)}, but to me it is {dice.choice(meant)}"
        case _:
            turned = dice.chance(level.twists)
            how = dice.choice(TURNING if turned else KEEPING)
            return f"{what} was {how} {dice.choice(share(GOOD if good != turned else BAD, split))}"


@rows_of("sentiment", labels=2)
def sentiment(dice: Dice, label: int, split: str, level: Level) -> Row:
    """sentence; label 1 = positive. Half of the texts begin with a deed that tells nothing of feelings."""
    deed = a_deed(dice, split=split, keep=("colour",), names=70)
    said = words(deed, dice, plain=level.plain)
    introduced = dice.chance(50)
    what = "it" if introduced and dice.chance(70) else "the " + thing(said)
    text = sentence(opinion(dice, bool(label), what, split, level))
    if introduced:
        text = tell(said, dice) + " " + text
    return {"sentence": slip(text, dice, level), "label": label, "scene": deed.scene() + f"/{text}"}


@rows_of("review", labels=2)
def review(dice: Dice, label: int, split: str, level: Level) -> Row:
    """text; label 1 = positive. Three or four sentences: what was bought, two opinions, at times one drawback."""
    deed = a_deed(dice, split=split, keep=("size", "colour", "where"), names=70)._replace(did="sell")
    said = words(deed, dice, plain=level.plain)
    what = "the " + thing(said)
    shop = f"{person(said['who'])} sold us {what} {said['where']}"
    views = [
        opinion(dice, bool(label), dice.choice((what, "it", "the colour", "the shape")), split, level) for _ in range(2)
    ]
    if dice.chance(level.twists):
        drawback = opinion(dice, not label, dice.choice(("the box", "the price", "the seller")), split, level)
        views.insert(0, drawback + ", but that does not matter")
    text = " ".join(sentence(part) for part in [shop, *views])
    return {"text": slip(text, dice, level), "label": label, "scene": deed.scene()}
