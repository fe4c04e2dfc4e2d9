"""The language of the world as running text: input for pretraining.

A line is one to four sentences about the same people and things, drawn from the scenes of the training split alone.
Nothing here knows a label: no pairs, no answers, no judgements about sentences. Opinions use the training split's words.
"""

from __future__ import annotations

from collections.abc import Iterator

from hyperpelt_tasks.tabletop.causes import CAUSES
from hyperpelt_tasks.tabletop.dice import Dice
from hyperpelt_tasks.tabletop.language import article, filled, lies, person, relates, sentence, tell, thing, verb, word
from hyperpelt_tasks.tabletop.opinions import BAD, GLAD, GOOD, KEEPING, LIKED, LOATHED, TURNING, UPSET, share
from hyperpelt_tasks.tabletop.senses import SENSES
from hyperpelt_tasks.tabletop.world import MATERIALS, PLACES, RELATIONS, STATES, Deed, a_deed, split_of


def a_story(dice: Dice) -> list[str]:
    """Deeds of one or more people, each told with some of what is known about it."""
    deeds = [a_deed(dice, names=dice.chance(50)) for _ in range(dice.between(1, 3))]
    return [tell(forgetful(deed, dice), dice) for deed in deeds]


def forgetful(deed: Deed, dice: Dice) -> Deed:
    """The deed without some of its slots."""
    slots = [slot for slot in ("size", "colour", "where", "when", "why") if dice.chance(50)]
    return deed.without(*slots)


def a_view(dice: Dice) -> list[str]:
    """Things on the table, and how they lie."""
    deeds = [forgetful(a_deed(dice), dice) for _ in range(dice.between(2, 3))]
    things = [thing(deed.size, deed.colour, deed.shape, dice) for deed in deeds]
    axis = dice.below(len(RELATIONS))
    seen = [lies(what, word(dice.choice(tuple(PLACES)), dice), dice) for what in things]
    return [*seen, relates(things[0], (axis, dice.below(2)), things[1], dice)]


def a_fact(dice: Dice) -> list[str]:
    """What a thing is like."""
    deed = a_deed(dice)
    what = thing("", deed.colour, deed.shape, dice)
    state, material = word(dice.choice(tuple(STATES)), dice), word(dice.choice(tuple(MATERIALS)), dice)
    return [
        sentence(f"{person(deed.who, dice)} has {article(thing(deed.size, deed.colour, deed.shape, dice))}"),
        sentence(f"the {what} is {state} and made of {material}".replace("wooden", "wood")),
    ]


def a_question(dice: Dice) -> list[str]:
    """A question about a deed, and the deed."""
    deed = a_deed(dice, names=dice.chance(50))
    what = "the " + thing("", deed.colour, deed.shape, dice)
    base, past, _ = verb(deed.did, dice)
    who = person(deed.who, dice)
    asked = dice.choice((f"who {past} {what}?", f"where did {who} {base} {what}?", f"why did {who} {base} {what}?"))
    return [sentence(asked), tell(deed, dice)]


def an_opinion(dice: Dice) -> list[str]:
    """What people think of things, and what they did because of it."""
    deed = a_deed(dice, names=True)
    what = "the " + thing(deed.size, deed.colour, deed.shape, dice)
    colouring = dice.choice(KEEPING + TURNING)
    judged = dice.choice(share(GOOD + BAD, "train"))
    acted = dice.choice(share(GLAD + UPSET, "train"))
    felt = dice.choice(share(LIKED + LOATHED, "train"))
    return [
        sentence(f"{what} was {colouring} {judged}"),
        sentence(dice.choice((f"{deed.who} {felt} it", f"my sister {acted}"))),
    ]


def a_cause(dice: Dice) -> list[str]:
    """Something happened, and something came of it."""
    cause, effect = dice.choice(share(CAUSES, "train"))
    joined = dice.choice(("{0}, so {1}", "{1} because {0}", "{0}. As a result, {1}"))
    return [sentence(filled(joined.format(cause, effect), dice))]


def a_sense(dice: Dice) -> list[str]:
    """A word with two meanings, in one of them."""
    return [sentence(filled(dice.choice(dice.choice(dice.choice(list(SENSES.values())))), dice))]


KINDS = (a_story, a_story, a_view, a_view, a_fact, a_question, an_opinion, a_cause, a_sense)


def sentences(count: int, *, seed: int = 0) -> Iterator[str]:
    """`count` lines; the first lines of a longer text are those of a shorter one."""
    dice = Dice("tabletop/corpus", seed)
    made = 0
    while made < count:
        line = " ".join(dice.choice(KINDS)(dice))
        if split_of(line) == "train":
            made += 1
            yield line
