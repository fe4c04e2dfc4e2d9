"""Does it follow? entailment (as RTE), nli (as MNLI), reading (as BoolQ) and claim (as SciTail; a transfer target).

The world is small: a person does one thing only. So what the premise tells of somebody is all there is to tell,
another deed of the same person is false, and a deed of somebody else is unknown.

A statement is made wrong in two ways, and each has right statements of the same make, so that no count of words tells
them apart: by words of another sense (right ones have synonyms there, which the premise does not use either), or, in
`level.swaps` of 100 cases, by binding a thing to what the passage says of another (`facts`).
"""

from __future__ import annotations

from collections.abc import Sequence

from hyperpelt_tasks.tabletop import facts
from hyperpelt_tasks.tabletop.dice import Dice
from hyperpelt_tasks.tabletop.language import Words, inner, person, sentence, tell, thing, words
from hyperpelt_tasks.tabletop.pairs import TELLING, restated, some_of
from hyperpelt_tasks.tabletop.suite import Level, Row, rows_of, slip
from hyperpelt_tasks.tabletop.world import Deed, a_deed, altered


def deeds_of(dice: Dice, count: int, *, split: str, keep: Sequence[str], richly: Sequence[str] = ()) -> list[Deed]:
    """Deeds that differ from each other in every slot."""
    deeds: list[Deed] = []
    while len(deeds) < count:
        deed = a_deed(dice, split=split, keep=keep, richly=richly)
        if all(one != two or not one for told in deeds for one, two in zip(deed, told, strict=True)):
            deeds.append(deed)
    return deeds


def stated(
    dice: Dice, count: int, right: bool, *, split: str, level: Level, keep: Sequence[str], changes: Sequence[str]
) -> tuple[str, str, Words]:
    """(scene, premise, words of a statement about one of its deeds). A wrong one has other deeds in `changes`."""
    while True:
        deeds = deeds_of(dice, count, split=split, keep=keep, richly=changes)
        meant = deeds[0] if right else altered(deeds[0], changes, dice, split=split, avoid=deeds[1:])
        if meant:
            break
    said = [words(deed, dice, plain=level.plain, evenly=changes) for deed in deeds]
    premise = " ".join(tell(one, dice) for one in dice.shuffled(said))
    scene = "+".join(sorted(deed.scene() for deed in deeds))
    return scene, slip(premise, dice, level), restated(meant, said[0], changes, dice, echo=level.echo)


def about_facts(dice: Dice, truth: int, *, split: str, level: Level) -> tuple[str, str, facts.Fact]:
    """(scene, passage, statement) where only binding decides."""
    told = facts.facts_of(dice, level.things, split=split)
    said = facts.worded(told, dice, plain=level.plain)
    return facts.scene_of(told), slip(facts.passage(said, dice), dice, level), facts.bound(said, truth, dice)


@rows_of("entailment", labels=2)
def entailment(dice: Dice, label: int, split: str, level: Level) -> Row:
    """premise, hypothesis; label 1 = it follows. The hypothesis is about one deed of several, and tells less of it."""
    if dice.chance(level.swaps):
        scene, premise, fact = about_facts(dice, facts.TRUE if label else facts.FALSE, split=split, level=level)
        return {"premise": premise, "hypothesis": sentence(fact.clause()), "label": label, "scene": scene}
    changes = dice.sample(TELLING, level.changes)
    scene, premise, claim = stated(
        dice, level.things, bool(label), split=split, level=level, keep=("colour", "where"), changes=changes
    )
    left = dice.choice([slot for slot in ("colour", "where") if slot not in changes])
    hypothesis = tell({slot: told for slot, told in claim.items() if slot != left}, dice)
    return {"premise": premise, "hypothesis": hypothesis, "label": label, "scene": scene}


@rows_of("nli", labels=3)
def nli(dice: Dice, label: int, split: str, level: Level) -> Row:
    """premise, hypothesis; label 0 = true, 1 = false (the person did another thing), 2 = unknown (another person)."""
    if dice.chance(level.swaps):
        scene, premise, fact = about_facts(dice, label, split=split, level=level)
        return {"premise": premise, "hypothesis": sentence(fact.clause()), "label": label, "scene": scene}
    focus = ("who", "did", "shape", "where")
    others = {0: (), 1: ("did", "where"), 2: focus}[label]
    while True:
        deed = a_deed(dice, split=split, keep=("where", *some_of(("colour", "when"), dice)), richly=focus)
        meant = altered(deed, others, dice, split=split) if others else deed
        if meant:
            break
    said = words(deed, dice, plain=level.plain, evenly=focus)
    return {
        "premise": slip(tell(said, dice), dice, level),
        "hypothesis": tell(restated(meant, said, focus, dice, echo=level.echo), dice),
        "label": label,
        "scene": deed.scene(),
    }


def asked(said: Words, dice: Dice) -> str:
    """A yes/no question for a deed."""
    base, _, participle = said["did"]
    who, what, rest = person(said["who"]), "the " + thing(said), said.get("where", "")
    forms = (f"did {who} {base} {what} {rest}?", f"was {what} {participle} by {who} {rest}?")
    return sentence(dice.choice(forms).replace(" ?", "?"))


@rows_of("reading", labels=2)
def reading(dice: Dice, label: int, split: str, level: Level) -> Row:
    """passage, question; label 1 = yes. The passage tells several deeds, and a fact that nobody asks about."""
    if dice.chance(level.swaps):
        scene, text, fact = about_facts(dice, facts.TRUE if label else facts.FALSE, split=split, level=level)
        return {"passage": text, "question": sentence(fact.question()), "label": label, "scene": scene}
    changes = dice.sample(TELLING, level.changes)
    scene, text, claim = stated(
        dice, level.things, bool(label), split=split, level=level, keep=("where",), changes=changes
    )
    aside = facts.worded(facts.facts_of(dice, 1, split=split), dice, plain=level.plain)
    text = " ".join(dice.shuffled([text, sentence(aside[0][0].clause())]))
    return {"passage": text, "question": asked(claim, dice), "label": label, "scene": scene}


@rows_of("claim", labels=2)
def claim(dice: Dice, label: int, split: str, level: Level) -> Row:
    """evidence, claim; label 1 = supported. One deed with its reason, and a claim without it."""
    changes = dice.sample(TELLING, level.changes)
    scene, evidence, told = stated(
        dice, 1, bool(label), split=split, level=level, keep=("colour", "where", "why"), changes=changes
    )
    told.pop("why")
    front = dice.choice(("People say that {}", "It is told that {}", "They claim that {}"))
    return {
        "evidence": evidence,
        "claim": sentence(front.format(inner(tell(told, dice)))),
        "label": label,
        "scene": scene,
    }
