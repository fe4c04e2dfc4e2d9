"""Does it follow? entailment (as RTE), nli (as MNLI), reading (as BoolQ).

A premise tells of several deeds, or of facts about several things. A statement about one of them is made wrong in two ways,
and each way has right statements of the same make, so that no count of words tells them apart:

    a word of another sense    right ones have a synonym there, which the premise does not use either (lexical)
    a word of another thing    right ones repeat the premise's word; who is bound to what decides (binding)
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from hyperpelt_tasks.tabletop.dice import Dice
from hyperpelt_tasks.tabletop.language import options_of, reword, sentence, tell, word, words
from hyperpelt_tasks.tabletop.suite import Level, Row, rows_of, slip
from hyperpelt_tasks.tabletop.world import OPPOSITE, RICH, SHAPES, Deed, a_deed, altered, split_of

TOLD = ("who", "did", "colour", "shape", "where")


def deeds_of(dice: Dice, count: int, *, split: str, keep: Sequence[str], richly: Sequence[str] = ()) -> list[Deed]:
    """Deeds that differ from each other in every slot."""
    deeds: list[Deed] = []
    while len(deeds) < count:
        deed = a_deed(dice, split=split, keep=keep, richly=richly)
        if all(one != two or not one for told in deeds for one, two in zip(deed, told, strict=True)):
            deeds.append(deed)
    return deeds


@rows_of("entailment", labels=2)
def entailment(dice: Dice, label: int, split: str, level: Level) -> Row:
    """premise, hypothesis; label 1 = it follows. The hypothesis is about one deed, and leaves out its colour or place."""
    left = dice.choice(("colour", "where"))
    focus = dice.sample([slot for slot in TOLD if slot != left], dice.between(1, 2))
    deeds = deeds_of(dice, level.things, split=split, keep=TOLD, richly=focus)
    binding = dice.chance(level.swaps)
    said = [words(deed, dice, plain=level.plain, evenly=focus) for deed in deeds]
    other = altered(deeds[0], focus, dice, split=split, avoid=deeds[1:])
    if other is None:
        return entailment.make(dice, label, split, level)
    if binding:
        claim = said[0] | ({} if label else {slot: said[1][slot] for slot in focus})
    else:
        meant = deeds[0] if label else other
        claim = said[0] | {slot: reword(getattr(meant, slot), said[0][slot], dice) for slot in focus}
    premise = " ".join(tell(one, dice) for one in dice.shuffled(said))
    return {
        "premise": slip(premise, dice, level),
        "hypothesis": tell({slot: told for slot, told in claim.items() if slot != left}, dice),
        "label": label,
        "scene": "+".join(sorted(deed.scene() for deed in deeds)),
    }


class Fact(NamedTuple):
    """What one thing is like: `shape` names the thing, `kind` says in which respect, `value` how."""

    shape: str
    kind: str
    value: str


STATES = tuple(OPPOSITE)[::2]
VALUES: dict[str, tuple[str, ...]] = {
    "colour": RICH["colour"],
    "size": RICH["size"],
    "where": RICH["where"],
    "owner": RICH["who"],
    **{state: (state, OPPOSITE[state]) for state in STATES},
}
KINDS = ("colour", "size", "where", "owner", "where", "owner", *STATES)


class Saying(NamedTuple):
    """A fact in words."""

    shape: str
    kind: str
    value: str

    def clause(self) -> str:
        if self.kind == "owner":
            return f"the {self.shape} belongs to the {self.value}"
        return f"the {self.shape} is {self.value}"

    def question(self) -> str:
        if self.kind == "owner":
            return f"does the {self.shape} belong to the {self.value}?"
        return f"is the {self.shape} {self.value}?"


def views_of(dice: Dice, count: int, *, split: str) -> list[Fact]:
    """Two facts about each of `count` things. The first things share one kind and have one each that the other lacks."""
    while True:
        shared, *own = dict.fromkeys(dice.sample(KINDS, len(KINDS)))
        shapes = dice.sample(tuple(SHAPES), count)
        facts = []
        values = dice.sample(VALUES[shared], 2)
        for place, shape in enumerate(shapes):
            kinds = dice.shuffled([shared, own[place]])
            for kind in kinds:
                value = values[place % 2] if kind == shared else dice.choice(VALUES[kind])
                facts.append(Fact(shape, kind, value))
        if split_of(scene_of(facts)) == split:
            return facts


def scene_of(facts: Sequence[Fact]) -> str:
    return "+".join(sorted("/".join(fact) for fact in facts))


def passage(said: Sequence[Saying], dice: Dice) -> str:
    """The facts thing by thing: "The ball is red and belongs to the cook."."""
    told = []
    for shape in dict.fromkeys(fact.shape for fact in said):
        first, second = (fact.clause() for fact in said if fact.shape == shape)
        told.append(sentence(f"{first} and {second.removeprefix(f'the {shape} ')}"))
    return " ".join(told)


def put(facts: Sequence[Fact], dice: Dice, level: Level) -> list[Saying]:
    """Words for the facts; a thing keeps its word."""
    shapes = {fact.shape: word(fact.shape, dice, plain=level.plain) for fact in facts}
    return [Saying(shapes[fact.shape], fact.kind, dice.choice(options_of(fact.value))) for fact in facts]


def claim(facts: Sequence[Fact], said: Sequence[Saying], label: int, dice: Dice, level: Level) -> Saying:
    """A statement about one of the first two things: 0 = true, 1 = false, 2 = not told."""
    place = dice.below(2)
    mine, others = facts[2 * place : 2 * place + 2], facts[2 - 2 * place : 4 - 2 * place]
    told = {fact.kind for fact in mine}
    shared = next(fact.kind for fact in mine if fact.kind in {twin.kind for twin in others})
    binding = dice.chance(level.swaps)
    if label == 2:
        twin = next(fact for fact in others if fact.kind not in told)
        kind = twin.kind if binding else dice.choice([kind for kind in KINDS if kind not in told | {twin.kind}])
        value = twin.value if binding else dice.choice(VALUES[kind])
    else:
        fact = next(fact for fact in mine if fact.kind == shared) if binding else dice.choice(mine)
        twin = next(fact for fact in others if fact.kind == shared)
        kind, value = fact.kind, fact.value
        if label == 1:
            taken = {fact.value, twin.value} if fact.kind == shared and len(VALUES[kind]) > 2 else {fact.value}
            value = twin.value if binding else dice.choice([v for v in VALUES[kind] if v not in taken])
    used = [saying.value for saying in said]
    name = next(saying.shape for saying, fact in zip(said, facts, strict=True) if fact.shape == mine[0].shape)
    if binding:
        return Saying(
            name,
            kind,
            next(s.value for s, fact in zip(said, facts, strict=True) if (fact.kind, fact.value) == (kind, value)),
        )
    spoken = next((saying for saying in used if saying in options_of(value)), "")
    return Saying(name, kind, reword(value, spoken, dice))


@rows_of("nli", labels=3)
def nli(dice: Dice, label: int, split: str, level: Level) -> Row:
    """premise, hypothesis; label 0 = true, 1 = false, 2 = unknown (the premise does not tell)."""
    facts = views_of(dice, level.things, split=split)
    said = put(facts, dice, level)
    return {
        "premise": slip(passage(said, dice), dice, level),
        "hypothesis": sentence(claim(facts, said, label, dice, level).clause()),
        "label": label,
        "scene": scene_of(facts),
    }


@rows_of("reading", labels=2)
def reading(dice: Dice, label: int, split: str, level: Level) -> Row:
    """passage, question; label 1 = yes. The passage also tells of a deed that nobody asks about."""
    facts = views_of(dice, level.things, split=split)
    said = put(facts, dice, level)
    deed = a_deed(dice, split=split, keep=("colour", "when"))
    story = tell(words(deed, dice, plain=level.plain), dice)
    return {
        "passage": slip(" ".join(dice.shuffled([passage(said, dice), story])), dice, level),
        "question": sentence(claim(facts, said, 1 - label, dice, level).question()),
        "label": label,
        "scene": scene_of(facts) + "+" + deed.scene(),
    }
