"""The language of the world as running text: input for pretraining.

A line is one to four sentences about the same people and things. Deeds are drawn from the training split's scenes
alone, opinions, causes and ambiguous words from its lists. Nothing here knows a label: no pairs, no answers, no
judgements.
"""

from __future__ import annotations

from collections.abc import Iterator

from hyperpelt_tasks.tabletop.asking import OPEN, question
from hyperpelt_tasks.tabletop.causes import CAUSES
from hyperpelt_tasks.tabletop.dice import Dice
from hyperpelt_tasks.tabletop.facts import facts_of, passage, worded
from hyperpelt_tasks.tabletop.language import filled, lies, person, relates, sentence, tell, thing, word, words
from hyperpelt_tasks.tabletop.lexicon import RELATIONS
from hyperpelt_tasks.tabletop.opinions import BAD, GLAD, GOOD, KEEPING, LIKED, LOATHED, TURNING, UPSET, share
from hyperpelt_tasks.tabletop.senses import SENSES
from hyperpelt_tasks.tabletop.world import PLACES, Deed, a_deed

SPLIT = "train"
SLOTS = ("size", "colour", "where", "when", "why")


def some_deed(dice: Dice) -> Deed:
    """A deed told in part."""
    return a_deed(dice, split=SPLIT, keep=[slot for slot in SLOTS if dice.chance(50)], names=50)


def a_story(dice: Dice) -> list[str]:
    """Deeds of one to three people."""
    return [tell(words(some_deed(dice), dice), dice) for _ in range(dice.between(1, 3))]


def a_view(dice: Dice) -> list[str]:
    """Things on the table, and how they lie."""
    things = [thing(words(some_deed(dice), dice)) for _ in range(dice.between(2, 3))]
    seen = [lies(what, word(dice.choice(tuple(PLACES)), dice), dice) for what in things]
    return [*seen, relates(things[0], (dice.below(len(RELATIONS)), dice.below(2)), things[1], dice)]


def a_fact(dice: Dice) -> list[str]:
    """What things are like."""
    return [passage(worded(facts_of(dice, dice.between(1, 3), split=SPLIT), dice, plain=60), dice)]


def a_question(dice: Dice) -> list[str]:
    """A question about a deed, and the deed."""
    deed = a_deed(dice, split=SPLIT, keep=("colour", *OPEN))
    asked = question(words(deed, dice), dice.choice((*OPEN, "colour")), dice)
    return [asked, tell(words(deed.without(dice.choice(OPEN)), dice), dice)]


def an_opinion(dice: Dice) -> list[str]:
    """What people think of things, and what they did because of it."""
    said = words(a_deed(dice, split=SPLIT, keep=("colour",), names=100), dice)
    judged = f"{dice.choice(KEEPING + TURNING)} {dice.choice(share(GOOD + BAD, SPLIT))}"
    acted, felt = dice.choice(share(GLAD + UPSET, SPLIT)), dice.choice(share(LIKED + LOATHED, SPLIT))
    more = dice.choice((f"{person(said['who'])} {felt} it", f"my sister {acted}"))
    return [sentence(f"the {thing(said)} was {judged}"), sentence(more)]


def a_cause(dice: Dice) -> list[str]:
    """Something happened, and something came of it."""
    cause, effect = dice.choice(share(CAUSES, SPLIT))
    joined = dice.choice(("{0}, so {1}", "{1} because {0}", "{0}. As a result, {1}"))
    return [sentence(filled(joined.format(cause, effect), dice))]


def a_sense(dice: Dice) -> list[str]:
    """A word with two meanings, in one of them."""
    contexts = SENSES[dice.choice(share(list(SENSES), SPLIT))]
    return [sentence(filled(dice.choice(dice.choice(contexts)), dice))]


KINDS = (a_story, a_story, a_story, a_view, a_fact, a_question, an_opinion, a_cause, a_sense)


def sentences(count: int, *, seed: int = 0) -> Iterator[str]:
    """`count` lines; the first lines of a longer text are those of a shorter one."""
    dice = Dice("tabletop/corpus", seed)
    for _ in range(count):
        yield " ".join(dice.choice(KINDS)(dice))
