"""What belongs together: cause (as COPA) and word-sense (as WiC). Each split has causes and words of its own."""

from __future__ import annotations

from hyperpelt_tasks.tabletop.causes import CAUSES
from hyperpelt_tasks.tabletop.dice import Dice
from hyperpelt_tasks.tabletop.language import filled, sentence
from hyperpelt_tasks.tabletop.opinions import share
from hyperpelt_tasks.tabletop.senses import SENSES
from hyperpelt_tasks.tabletop.suite import Level, Row, rows_of, slip


@rows_of("cause", labels=2)
def cause(dice: Dice, label: int, split: str, level: Level) -> Row:
    """premise, question (cause or effect), choice1, choice2; label 0 = the first belongs to the premise."""
    right, wrong = dice.sample(share(CAUSES, split), 2)
    effect = dice.below(2)
    premise, answer, foil = right[1 - effect], right[effect], wrong[effect]
    texts = filled(f"{premise}|{answer}|{foil}", dice)
    premise, answer, foil = (sentence(text) for text in texts.split("|"))
    choices = [answer, foil] if label == 0 else [foil, answer]
    return {
        "premise": slip(premise, dice, level),
        "question": "effect" if effect else "cause",
        "choice1": choices[0],
        "choice2": choices[1],
        "label": label,
        "scene": texts,
    }


@rows_of("word-sense", labels=2)
def word_sense(dice: Dice, label: int, split: str, level: Level) -> Row:
    """word, sentence1, sentence2; label 1 = the word means the same in both."""
    word = dice.choice(share(list(SENSES), split))
    first = dice.below(2)
    one = dice.choice(SENSES[word][first])
    two = dice.choice([text for text in SENSES[word][first if label else 1 - first] if text != one])
    return {
        "word": word,
        "sentence1": slip(sentence(filled(one, dice)), dice, level),
        "sentence2": slip(sentence(filled(two, dice)), dice, level),
        "label": label,
        "scene": f"{word}/{one}/{two}",
    }
