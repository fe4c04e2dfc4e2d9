"""Questions and open answers: answerable (as QNLI), answer (as SQuAD), describe (data to text)."""

from __future__ import annotations

from hyperpelt_tasks.tabletop.dice import Dice
from hyperpelt_tasks.tabletop.inference import deeds_of
from hyperpelt_tasks.tabletop.language import Words, person, sentence, tell, thing, words
from hyperpelt_tasks.tabletop.pairs import restated
from hyperpelt_tasks.tabletop.suite import Level, Row, rows_of, slip
from hyperpelt_tasks.tabletop.world import a_deed, altered

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
    """question, sentence; label 1 = the sentence holds the answer.

    It tells two of who, where, when and why. A sentence without the answer tells two others of the same deed, or
    tells of another deed; the words for the deed are new in right pairs, too.
    """
    focus = ("did", "shape")
    slot, *others = dice.shuffled(OPEN)
    elsewhere = not label and dice.chance(70)
    told = others[:2] if not (label or elsewhere) else [slot, others[0]]
    while True:
        deed = a_deed(dice, split=split, keep=("colour", *OPEN), richly=focus)
        meant = altered(deed, focus, dice, split=split) if elsewhere else deed
        if meant:
            break
    said = words(deed, dice, plain=level.plain, evenly=focus)
    heard = {
        slot: text
        for slot, text in restated(meant, said, focus, dice, echo=level.echo).items()
        if slot not in OPEN or slot in told
    }
    return {
        "question": question(said, slot, dice),
        "sentence": slip(tell(heard, dice), dice, level),
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
