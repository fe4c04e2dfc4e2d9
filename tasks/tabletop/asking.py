"""Questions and open answers: answerable (as QNLI), answer (as SQuAD), describe (data to text)."""

from __future__ import annotations

from hyperpelt_tasks.tabletop.dice import Dice
from hyperpelt_tasks.tabletop.inference import deeds_of
from hyperpelt_tasks.tabletop.language import Words, person, sentence, tell, thing, words
from hyperpelt_tasks.tabletop.suite import Level, Row, rows_of, slip
from hyperpelt_tasks.tabletop.world import a_deed

OPEN = ("who", "where", "when", "why")


def question(said: Words, slot: str, dice: Dice) -> str:
    """A question for one slot of a deed, in the deed's words."""
    base, past, participle = said["did"]
    who = person(said["who"])
    what = "the " + thing({key: told for key, told in said.items() if key != slot})
    asked = {
        "who": (f"who {past} {what}?", f"by whom was {what} {participle}?"),
        "where": (f"where did {who} {base} {what}?", f"where was {what} {participle}?"),
        "when": (f"when did {who} {base} {what}?", f"when was {what} {participle}?"),
        "why": (f"why did {who} {base} {what}?", f"why was {what} {participle}?"),
        "colour": (f"what colour was {what} that {who} {past}?", f"what is the colour of {what}?"),
    }
    return sentence(dice.choice(asked[slot]))


@rows_of("answerable", labels=2)
def answerable(dice: Dice, label: int, split: str, level: Level) -> Row:
    """question, sentence; label 1 = the sentence holds the answer. It tells two of who, where, when and why."""
    deed = a_deed(dice, split=split, keep=("colour", *OPEN))
    slot, *others = dice.shuffled(OPEN)
    told = [slot, others[0]] if label else others[:2]
    heard = deed.without(*(hidden for hidden in OPEN if hidden not in told))
    return {
        "question": question(words(deed, dice, plain=level.plain), slot, dice),
        "sentence": slip(tell(words(heard, dice, plain=level.plain), dice), dice, level),
        "label": label,
        "scene": deed.scene(),
    }


@rows_of("answer", labels=4)
def answer(dice: Dice, label: int, split: str, level: Level) -> Row:
    """context, question, answers; the answer stands in the context."""
    slot = ("who", "where", "when", "colour")[label]
    deeds = deeds_of(dice, level.things, split=split, keep=("colour", "where", "when"))
    said = [words(deed, dice, plain=level.plain) for deed in deeds]
    return {
        "context": slip(" ".join(dice.shuffled([tell(one, dice) for one in said])), dice, level),
        "question": question(said[0], slot, dice),
        "answers": (said[0][slot],),
        "scene": "+".join(sorted(deed.scene() for deed in deeds)),
    }


@rows_of("describe", labels=1)
def describe(dice: Dice, label: int, split: str, level: Level) -> Row:
    """data, references: a deed as a list of its parts, and sentences that tell it."""
    keep = dice.sample(("size", "colour", "where", "when", "why"), dice.between(1, 3))
    deed = a_deed(dice, split=split, keep=keep)
    said = words(deed, dice, plain=100)
    return {
        "data": ", ".join(f"{slot}: {getattr(deed, slot)}" for slot in dice.shuffled(deed.told())),
        "references": tuple(tell(said, dice, form=form) for form in (0, 1, 2)),
        "scene": deed.scene(),
    }
