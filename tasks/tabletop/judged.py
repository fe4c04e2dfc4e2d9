"""One text, one judgement: acceptability (as CoLA), sentiment (as SST-2), and review (as Yelp; a transfer target).

Counting words does not help. Every error of `acceptability` breaks the agreement of two words that do not touch, and
each of the two is as frequent in good sentences; opinions are told in words that the other splits do not use.
"""

from __future__ import annotations

from hyperpelt_tasks.tabletop.dice import Dice
from hyperpelt_tasks.tabletop.language import Words, person, sentence, tell, thing, words
from hyperpelt_tasks.tabletop.lexicon import DEEDS, MEN, ROLES, WOMEN
from hyperpelt_tasks.tabletop.opinions import BAD, GLAD, GOOD, KEEPING, LIKED, LOATHED, TURNING, UPSET, share
from hyperpelt_tasks.tabletop.suite import Level, Row, rows_of, slip
from hyperpelt_tasks.tabletop.world import a_deed, split_of

ROLE_NAMES = [roles[0] for roles in ROLES]


@rows_of("acceptability", labels=2)
def acceptability(dice: Dice, label: int, split: str, level: Level) -> Row:
    """sentence; label 1 = acceptable. The scene is the right sentence. Each split has verbs and roles of its own."""
    while True:
        deed = a_deed(dice, split=split, keep=("colour", "where"), names=0)
        said = words(deed, dice, plain=level.plain)
        said |= {"who": dice.choice(share(ROLE_NAMES, split)), "did": dice.choice(share(DEEDS, split))[0]}
        pair = dice.choice((swapped, swapped, swapped, swapped, auxiliary, auxiliary, agreement, reflexive))(dice, said)
        wrong, right = map(sentence, pair)
        if split_of(right) == split:
            return {"sentence": right if label else wrong, "label": label, "scene": right}


Pair = tuple[str, str]  # wrong, right


def swapped(dice: Dice, said: Words) -> Pair:
    """The verb and the person change places: "the kicked doctor the red ball"."""
    who, past = said["who"], said["did"][1]
    form = dice.choice(("the {} {} the {what} {where}", "{where}, the {} {} the {what}"))
    rest = {"what": thing(said), "where": said["where"]}
    return form.format(past, who, **rest), form.format(who, past, **rest)


def auxiliary(dice: Dice, said: Words) -> Pair:
    """The auxiliary and the verb's form disagree across the subject: "did the cook hid the ball?"."""
    base, past, _ = said["did"]
    rest = f"the {thing(said)} {said['where']}"
    if dice.chance(50):
        return f"did the {said['who']} {past} {rest}?", f"did the {said['who']} {base} {rest}?"
    return f"yesterday the {said['who']} {base} {rest}", f"yesterday the {said['who']} {past} {rest}"


def agreement(dice: Dice, said: Words) -> Pair:
    """Subject and verb disagree across a second noun: "the keys of the cook is on the bed"."""
    many = dice.below(2)
    heads = (("key", "chair", "box", "picture"), ("keys", "chairs", "boxes", "pictures"))[many]
    front = f"the {dice.choice(heads)} of the {said['who']}{'s' * dice.below(2)}"
    verbs = dice.choice((("is", "are"), ("was", "were")))
    return f"{front} {verbs[1 - many]} {said['where']}", f"{front} {verbs[many]} {said['where']}"


def reflexive(dice: Dice, said: Words) -> Pair:
    """The reflexive has the wrong sex: "Anna hurt himself"."""
    woman = dice.below(2)
    name = dice.choice((MEN, WOMEN)[woman])
    told = dice.choice(("hurt", "saw", "blamed", "praised", "washed", "painted"))
    wrong, right = (f"{name} {told} {('himself', 'herself')[sex]} {said['where']}" for sex in (1 - woman, woman))
    return wrong, right


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
    return {"sentence": slip(text, dice, level), "label": label, "scene": deed.scene()}


@rows_of("review", labels=2)
def review(dice: Dice, label: int, split: str, level: Level) -> Row:
    """text; label 1 = positive. Three or four sentences: what was bought, two opinions, at times one drawback."""
    while True:
        deed = a_deed(dice, split=split, keep=("size", "colour", "where"), names=70)._replace(did="sell")
        if split_of(deed.scene()) == split:
            break
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
