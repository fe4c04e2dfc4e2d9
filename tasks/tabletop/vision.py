"""Looking at tables: vqa (as VQA), pairs (as NLVR2), visual-entailment (as SNLI-VE), caption (as COCO), and the
transfer targets count and foil (as FOIL).

The text is drawn first and the answer second, each alone; then a table is looked for that makes this answer right. So
the text says nothing of the answer, and only the picture can.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from hyperpelt_tasks.tabletop.dice import Dice
from hyperpelt_tasks.tabletop.language import article, inner, options_of, sentence
from hyperpelt_tasks.tabletop.lexicon import RELATIONS
from hyperpelt_tasks.tabletop.suite import Level, Row, rows_of
from hyperpelt_tasks.tabletop.table import (
    NUMBERS,
    SEEN_COLOURS,
    SEEN_SHAPES,
    Sort,
    Table,
    a_sort,
    a_table,
    counted,
    search,
)
from hyperpelt_tasks.tabletop.world import split_of

ROWS = (("upper", "top"), ("lower", "bottom"))
TOLD = (("colour", "shape"), ("size", "colour", "shape"), ("colour",), ("shape",), ("size", "shape"))


class Statement(NamedTuple):
    """A sentence about a table, the sorts of things it talks about, and whether it is true of a table."""

    text: str
    sorts: tuple[Sort, ...]
    holds: Callable[[Table], bool]


def beside(table: Table, one: Sort, two: Sort, axis: int, side: int) -> bool:
    """Whether some `one` lies on that side of some `two`. Axis 0: columns (side 0 = left); 1: rows (side 0 = above)."""
    sign = 1 if side == 0 else -1
    return any(
        sign * ((a.row if axis else a.column) - (b.row if axis else b.column)) < 0
        for a in table.of(one)
        for b in table.of(two)
        if a != b
    )


def there_is(dice: Dice, level: Level) -> Statement:
    """ "There is a small red ball." """
    sort = a_sort(dice, told=dice.choice(TOLD[:2]))
    noun = article(sort.said(dice, plain=level.plain))
    text = dice.choice((f"there is {noun}", f"you can see {noun}", f"{noun} lies on the table"))
    return Statement(sentence(text), (sort,), lambda table: bool(table.of(sort)))


def there_are(dice: Dice, level: Level) -> Statement:
    """ "Exactly two balls are red." """
    sort = a_sort(dice, told=dice.choice(TOLD[2:]))
    number = dice.between(1, 3)
    noun, nouns = (sort.said(dice, plain=level.plain, many=many) for many in (False, True))
    text = f"there {'is' if number == 1 else 'are'} exactly {NUMBERS[number]} {noun if number == 1 else nouns}"
    return Statement(sentence(text), (sort,) * number, lambda table: len(table.of(sort)) == number)


def lies_beside(dice: Dice, level: Level) -> Statement:
    """ "A red ball is left of a cube." """
    one, two = a_sort(dice, told=dice.choice(TOLD[:1])), a_sort(dice, told=dice.choice(TOLD[:1]))
    axis, side = dice.below(2), dice.below(2)
    how = dice.choice(RELATIONS[axis][side])
    text = f"{article(one.said(dice, plain=level.plain))} is {how} {article(two.said(dice, plain=level.plain))}"
    return Statement(sentence(text), (one, two), lambda table: beside(table, one, two, axis, side))


STATEMENTS = (there_is, there_are, lies_beside)


def in_a_quarter(dice: Dice, level: Level, quarter: int) -> Statement:
    """ "There is a red ball in the upper left." The quarter: 0 to 3, left to right, top to bottom."""
    sort = a_sort(dice, told=dice.choice(TOLD))
    noun = article(sort.said(dice, plain=level.plain))
    place = f"{dice.choice(ROWS[quarter // 2])} {('left', 'right')[quarter % 2]}"
    text = dice.choice((f"there is {noun} in the {place}", f"in the {place} you can see {noun}"))
    return Statement(sentence(text), (sort,), lambda table: any(item.quarter == quarter for item in table.of(sort)))


def items_of(level: Level) -> int:
    """How many things lie on a table at least."""
    return level.things + 1


@rows_of("foil", labels=2)
def foil(dice: Dice, label: int, split: str, level: Level) -> Row:
    """image, caption; label 1 = right."""
    while True:
        text, sorts, holds = dice.choice(STATEMENTS)(dice, level)
        table = search(dice, lambda t, holds=holds: holds(t) == bool(label), sorts, split=split, count=items_of(level))
        if table:
            return {"image": table.scene(), "caption": text, "label": label, "scene": table.scene()}


@rows_of("visual-entailment", labels=3)
def visual_entailment(dice: Dice, label: int, split: str, level: Level) -> Row:
    """image, hypothesis; label 0 = true, 1 = false, 2 = unknown: the cloth lies on the quarter that is spoken of.

    Every table has a cloth, so that neither the picture alone nor the words alone tell anything.
    """
    while True:
        quarter, beyond = dice.below(4), dice.between(1, 3)
        text, sorts, holds = in_a_quarter(dice, level, quarter)
        table = search(
            dice,
            lambda t, holds=holds: holds(t) == (label == 0),
            sorts,
            split=split,
            count=items_of(level),
            cloth=quarter if label == 2 else (quarter + beyond) % 4,
        )
        if table:
            return {"image": table.scene(), "hypothesis": text, "label": label, "scene": table.scene()}


class Claim(NamedTuple):
    """A sentence about a left and a right table."""

    text: str
    sorts: tuple[Sort, ...]
    holds: Callable[[Table, Table], bool]


def on_each(dice: Dice, level: Level) -> Claim:
    """One statement for both pictures, for one of the two, or for neither."""
    text, sorts, holds = dice.choice(STATEMENTS)(dice, level)
    number = dice.below(3)
    wanted = ({2}, {1}, {0})[number]
    front = ("of both pictures", "of exactly one of the pictures", "of neither picture")[number]
    return Claim(sentence(f"{front} it is true that {inner(text)}"), sorts, lambda a, b: holds(a) + holds(b) in wanted)


def one_has_more(dice: Dice, level: Level) -> Claim:
    """ "The left picture has more balls than the right one." """
    sort = a_sort(dice, told=dice.choice(TOLD[2:]))
    nouns = sort.said(dice, plain=level.plain, many=True)
    left = dice.chance(50)
    first, second = ("left", "right") if left else ("right", "left")
    sign = 1 if left else -1
    return Claim(
        sentence(f"the {first} picture has more {nouns} than the {second} one"),
        (sort, sort),
        lambda a, b: sign * (len(a.of(sort)) - len(b.of(sort))) > 0,
    )


def together(dice: Dice, level: Level) -> Claim:
    """ "The two pictures have three balls in all." """
    sort = a_sort(dice, told=dice.choice(TOLD[2:]))
    number = dice.between(1, 4)
    noun, nouns = (sort.said(dice, plain=level.plain, many=many) for many in (False, True))
    text = f"together the pictures show {counted(number, noun, nouns)}"
    return Claim(sentence(text), (sort, sort), lambda a, b: len(a.of(sort)) + len(b.of(sort)) == number)


@rows_of("pairs", labels=2)
def pairs(dice: Dice, label: int, split: str, level: Level) -> Row:
    """left, right (images), statement; label 1 = true."""
    anything = {"split": split, "count": items_of(level)}
    # A left table may leave no right one: better a new pair than a long search. Nine tables of ten are of other splits.
    tries = 40 if split == "train" else 300
    while True:
        text, sorts, holds = dice.choice((on_each, on_each, one_has_more, together))(dice, level)
        left = search(dice, lambda table: True, sorts, **anything)
        assert left is not None
        right = search(
            dice,
            lambda table, holds=holds, left=left: holds(left, table) == bool(label),
            sorts,
            tries=tries,
            **anything,
        )
        if right and right != left:
            return {
                "left": left.scene(),
                "right": right.scene(),
                "statement": text,
                "label": label,
                "scene": left.scene(),
                "scene2": right.scene(),
            }


class Asked(NamedTuple):
    """A question, what must be on the table, whether a table answers it as wanted, and the accepted answers."""

    text: str
    sorts: tuple[Sort, ...]
    holds: Callable[[Table], bool]
    answers: tuple[str, ...]


def ask_property(dice: Dice, level: Level) -> Asked:
    """Colour, shape or size of the only thing that fits."""
    name = dice.choice(("colour", "shape", "size"))
    rest = a_sort(dice, told=tuple(other for other in ("size", "colour", "shape") if other != name and other != "size"))
    if name != "size" and dice.chance(50):
        rest = rest._replace(size=dice.choice(("small", "large")))
    value = dice.choice({"colour": SEEN_COLOURS, "shape": SEEN_SHAPES, "size": ("small", "large")}[name])
    whole = rest._replace(**{name: value})
    noun = rest.said(dice, plain=level.plain)
    forms = {
        "colour": (f"what colour is the {noun}?", f"what is the colour of the {noun}?"),
        "shape": (f"what shape is the {noun}?", f"what shape does the {noun} have?"),
        "size": (f"is the {noun} large or small?", f"is the {noun} small or large?"),
    }
    answers = tuple(options_of(value)) if name != "size" else (value,)
    return Asked(
        sentence(dice.choice(forms[name])),
        (whole,),
        lambda table: [rest.fits(item) and whole.fits(item) for item in table.of(rest)] == [True],
        answers,
    )


def ask_number(dice: Dice, level: Level) -> Asked:
    """How many there are, none to four."""
    sort, number = a_sort(dice, told=dice.choice(TOLD[2:])), dice.below(5)
    nouns = sort.said(dice, plain=level.plain, many=True)
    text = dice.choice((f"how many {nouns} are there?", f"how many {nouns} do you see?"))
    answers = (("zero", "none", "no", "0"), ("one", "1"), ("two", "2"), ("three", "3"), ("four", "4"))[number]
    return Asked(sentence(text), (sort,) * number, lambda table: len(table.of(sort)) == number, answers)


def ask_whether(dice: Dice, level: Level) -> Asked:
    """A statement turned into a question."""
    text, sorts, holds = dice.choice((there_is, lies_beside))(dice, level)
    wanted = dice.chance(50)
    asked = f"is it true that {inner(text)}?"
    return Asked(sentence(asked), sorts, lambda table: holds(table) == wanted, ("yes",) if wanted else ("no",))


@rows_of("vqa", labels=4)
def vqa(dice: Dice, label: int, split: str, level: Level) -> Row:
    """image, question, answers (all that are right; the first is the usual one).

    The label only chooses the question's kind.
    """
    while True:
        text, sorts, holds, answers = (ask_property, ask_property, ask_number, ask_whether)[label](dice, level)
        table = search(dice, holds, sorts, split=split, count=items_of(level))
        if table:
            return {"image": table.scene(), "question": text, "answers": answers, "scene": table.scene()}


@rows_of("count", labels=5)
def count(dice: Dice, label: int, split: str, level: Level) -> Row:
    """image, question; label = how many, 0 to 4. Things are named by two properties, unlike in vqa."""
    while True:
        sort = a_sort(dice, told=dice.choice((("size",), ("colour",), ("shape",))))
        nouns = sort.said(dice, plain=level.plain, many=True)
        text = dice.choice(("count the {}.", "what is the number of {}?", "how often do you see {}?")).format(nouns)
        table = search(
            dice, lambda t, sort=sort: len(t.of(sort)) == label, (sort,) * label, split=split, count=items_of(level) + 2
        )
        if table:
            return {"image": table.scene(), "question": sentence(text), "label": label, "scene": table.scene()}


def captions(table: Table, dice: Dice, level: Level) -> list[str]:
    """Five different descriptions of one table: what lies where, and a list of all."""
    nouns = [Sort(*item[:3])._replace(size=item.size if item.size != "medium" else "") for item in table.items]
    phrases = [article(sort.said(dice, plain=100)) for sort in nouns]
    told = [sentence(f"{', '.join(phrases[:-1])} and {phrases[-1]} on a table")]
    while len(told) < 5:
        one, two = dice.sample(range(len(table.items)), 2)
        a, b = table.items[one], table.items[two]
        axis = 0 if a.column != b.column and (a.row == b.row or dice.chance(50)) else 1
        side = int((a.row > b.row) if axis else (a.column > b.column))
        how = RELATIONS[axis][side][dice.below(2) if level.plain < 100 else 0]
        text = sentence(f"{phrases[one]} {how} {phrases[two]}")
        if text not in told:
            told.append(text)
    return told


@rows_of("caption", labels=1)
def caption(dice: Dice, label: int, split: str, level: Level) -> Row:
    """image, captions: five references."""
    while True:
        table = a_table(dice, level.things + dice.below(2) + 1)
        if split_of(table.scene()) == split:
            return {"image": table.scene(), "captions": tuple(captions(table, dice, level)), "scene": table.scene()}
