"""Two sentences that mean the same or not: paraphrase (as MRPC), similarity (as STS-B), swaps (as PAWS; a transfer
target).

Right and wrong pairs have new words in equal number and of equal kinds: in a right pair they mean what the old words
meant. Wrong pairs of the other sort (`swaps`) have no new word at all.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from hyperpelt_tasks.tabletop.dice import Dice
from hyperpelt_tasks.tabletop.language import Words, options_of, person, relates, reword, sentence, tell, word, words
from hyperpelt_tasks.tabletop.suite import Level, Row, rows_of, slip
from hyperpelt_tasks.tabletop.world import (
    COLOURS,
    MEETINGS,
    PLACES,
    RELATIONS,
    ROLES,
    SHAPES,
    Deed,
    a_deed,
    altered,
    split_of,
)

FIVE = ("who", "did", "colour", "shape", "where")
TELLING = ("who", "did", "where")  # words of far meanings: which of them are exchanged is plain to see


def restated(deed: Deed, said: Words, slots: Sequence[str], dice: Dice, *, echo: int = 0) -> Words:
    """The words of a sentence with other ones in these slots: what `deed` has there, in a word not used before.

    echo: percent of the words that are kept where they mean what `deed` has.
    """
    told = dict(said)
    for slot in slots:
        concept = getattr(deed, slot)
        if not (said[slot] in options_of(concept) and dice.chance(echo)):
            told[slot] = reword(concept, said[slot], dice)
    return told


@rows_of("paraphrase", labels=2)
def paraphrase(dice: Dice, label: int, split: str, level: Level) -> Row:
    """sentence1, sentence2; label 1 = same.

    Some words are new: synonyms in a right pair, words of another sense in a wrong one.
    """
    if dice.chance(level.swaps):
        return exchange(dice, label, split, level)
    focus = dice.sample(TELLING, level.changes)
    while True:
        deed = a_deed(dice, split=split, keep=("where", *some_of(("colour", "when"), dice)), richly=focus)
        second = deed if label else altered(deed, focus, dice, split=split)
        if second:
            break
    one = words(deed, dice, plain=level.plain, evenly=focus)
    return {
        "sentence1": slip(tell(one, dice), dice, level),
        "sentence2": slip(tell(restated(second, one, focus, dice, echo=level.echo), dice), dice, level),
        "label": label,
        "scene": deed.scene(),
        "scene2": second.scene(),
    }


def some_of(slots: Sequence[str], dice: Dice) -> list[str]:
    """Each of the slots in one of two cases."""
    return [slot for slot in slots if dice.chance(50)]


@rows_of("similarity", labels=6)
def similarity(dice: Dice, label: int, split: str, level: Level) -> Row:
    """sentence1, sentence2; score 0.0 to 5.0: how many of five things (who, did, colour, shape, where) agree."""
    while True:
        deed = a_deed(dice, split=split, keep=FIVE, richly=FIVE)
        second = altered(deed, dice.sample(FIVE, 5 - label), dice, split=split) if label < 5 else deed
        if second:
            break
    one = words(deed, dice, evenly=FIVE)
    two = restated(second, one, FIVE, dice, echo=level.echo)
    return {
        "sentence1": slip(tell(one, dice), dice, level),
        "sentence2": slip(tell(two, dice), dice, level),
        "score": float(label),
        "scene": deed.scene(),
        "scene2": second.scene(),
    }


@rows_of("swaps", labels=2)
def swaps(dice: Dice, label: int, split: str, level: Level) -> Row:
    """sentence1, sentence2; label 1 = same. Both sentences of a wrong pair have the same words."""
    return exchange(dice, label, split, level)


def exchange(dice: Dice, label: int, split: str, level: Level) -> Row:
    """A pair whose sentences differ by nothing but order, if they differ."""
    while True:
        scene, told = dice.choice((meeting, owners, sides))(dice, level)
        if split_of(scene) == split:
            one, two = told(True), told(bool(label))
            return {"sentence1": one, "sentence2": two, "label": label, "scene": scene, "scene2": scene}


Telling = tuple[str, Callable[[bool], str]]  # a scene, and how it is told: as it is (True) or exchanged


def meeting(dice: Dice, level: Level) -> Telling:
    """Who did it to whom, active and passive."""
    people = dice.sample(tuple(ROLES), 2)
    deed, where = dice.choice(tuple(MEETINGS)), dice.choice(tuple(PLACES))

    def told(straight: bool) -> str:
        _, past, participle = dice.choice(MEETINGS[deed])
        who, whom = (person(word(name, dice, plain=level.plain)) for name in (people if straight else people[::-1]))
        clause = dice.choice((f"{who} {past} {whom}", f"{whom} was {participle} by {who}"))
        place = word(where, dice, plain=level.plain)
        return sentence(f"{clause} {place}" if dice.chance(50) else f"{place}, {clause}")

    return f"meeting/{'/'.join(sorted(people))}/{deed}/{where}", told


def owners(dice: Dice, level: Level) -> Telling:
    """Which colour is whose."""
    shapes, colours = dice.sample(tuple(SHAPES), 2), dice.sample(tuple(COLOURS), 2)
    places = dice.sample(tuple(PLACES), 2)

    def told(straight: bool) -> str:
        parts = zip(colours if straight else colours[::-1], shapes, places, strict=True)
        lying = ["the {} {} {}".format(*(word(name, dice, plain=level.plain) for name in names)) for names in parts]
        form = dice.choice(("there are {} and {}", "I see {} and {}", "{} and {} belong to me"))
        return sentence(form.format(*dice.shuffled(lying)))

    return "owners/" + "/".join(sorted(shapes) + sorted(colours) + sorted(places)), told


def sides(dice: Dice, level: Level) -> Telling:
    """Which thing lies on which side of the other."""
    shapes, colours = dice.sample(tuple(SHAPES), 2), [dice.choice(tuple(COLOURS)) for _ in range(2)]
    axis, side = dice.below(len(RELATIONS)), dice.below(2)

    def told(straight: bool) -> str:
        one, two = (
            f"{word(colour, dice, plain=level.plain)} {word(shape, dice, plain=level.plain)}"
            for colour, shape in zip(colours, shapes, strict=True)
        )
        turned = side if straight else 1 - side
        return (
            relates(one, (axis, turned), two, dice) if dice.chance(50) else relates(two, (axis, 1 - turned), one, dice)
        )

    things = sorted(f"{colour}-{shape}" for colour, shape in zip(colours, shapes, strict=True))
    return f"sides/{axis}/{'/'.join(things)}", told
