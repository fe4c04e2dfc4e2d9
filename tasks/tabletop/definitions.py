"""The suite's tasks as hyperpelt knows them: how rows are written out, what may be answered, how it is judged.

`tasks()` makes all of them, at any difficulty and seed; `register` in the package's root registers the default ones.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from hyperpelt import Example, Generator, Task
from hyperpelt_tasks.rendering import DIFFERENT_SAME, NEGATIVE_POSITIVE, NO_YES, Fields, write
from hyperpelt_tasks.tabletop import asking, inference, judged, pairs, sense, vision
from hyperpelt_tasks.tabletop.lexicon import several

SENTENCES = ("sentence1", "sentence2")
THREE_WAY = ("true", "false", "unknown")
COUNTS = ("zero", "one", "two", "three", "four")
SCORES = ("0", "1", "2", "3", "4", "5")

TEXT = several(
    """
    acceptability sentiment paraphrase similarity entailment nli answerable reading cause word-sense answer describe
    """
)
TEXT_TRANSFER = ("review", "claim", "swaps")
VISION = ("vqa", "pairs", "visual-entailment", "caption")
VISION_TRANSFER = ("count", "foil")


@dataclass(frozen=True)
class Open:
    """A render function for open answers: these columns, then all accepted answers in the column `answers`."""

    columns: tuple[str, ...]
    answers: str

    def __call__(self, row: Mapping[str, Any]) -> Example:
        return Example(input=write({name: row[name] for name in self.columns}), label=row[self.answers])


@dataclass(frozen=True)
class Seen:
    """A render function with pictures: the scenes in the columns `pictures` are drawn, the rest is as in `text`."""

    pictures: tuple[str, ...]
    columns: tuple[str, ...]
    answers: str = "label"

    def __call__(self, row: Mapping[str, Any]) -> Example:
        from hyperpelt_tasks.tabletop.render import draw

        text = write({name: row[name] for name in self.columns}) if self.columns else "describe the picture"
        return Example(input=text, label=row[self.answers], images=tuple(draw(row[name]) for name in self.pictures))


@dataclass(frozen=True)
class Definition:
    """A task of the suite without what `tasks` chooses: its name's prefix, difficulty, seed and size."""

    name: str
    rows: Callable[..., Any]
    render: Any
    description: str
    fields: Mapping[str, Any]

    def task(self, prefix: str, options: Mapping[str, Any]) -> Task:
        source = Generator(self.rows, options=options)
        name = f"{prefix}/{self.name}"
        return Task(name=name, source=source, render=self.render, description=self.description, **self.fields)


def _text(name: str, rows: Callable[..., Any], render: Any, description: str, **fields: Any) -> Definition:
    return Definition(name, rows, render, description, fields)


def _seen(name: str, rows: Callable[..., Any], render: Seen, description: str, **fields: Any) -> Definition:
    return Definition(name, rows, render, description, {"modalities": ("text", "image"), **fields})


DEFINITIONS = (
    _text(
        "acceptability",
        judged.acceptability,
        Fields(("sentence",)),
        "Is the sentence right or wrong English?",
        choices=("wrong", "right"),
        metrics=("matthews",),
    ),
    _text(
        "sentiment",
        judged.sentiment,
        Fields(("sentence",)),
        "Does the speaker feel negative or positive about the thing?",
        choices=NEGATIVE_POSITIVE,
    ),
    _text(
        "paraphrase",
        pairs.paraphrase,
        Fields(SENTENCES),
        "Do the two sentences tell the same or different things?",
        choices=DIFFERENT_SAME,
        metrics=("accuracy", "f1"),
    ),
    _text(
        "similarity",
        pairs.similarity,
        Fields(SENTENCES, "score"),
        "How much do the two sentences agree, from 0 (in nothing) to 5 (in everything)?",
        kind="regression",
        choices=SCORES,
        metrics=("pearson", "spearman"),
        answer=("score",),
    ),
    _text(
        "entailment",
        inference.entailment,
        Fields(("premise", "hypothesis")),
        "Does the hypothesis follow from the premise, yes or no?",
        choices=NO_YES,
    ),
    _text(
        "nli",
        inference.nli,
        Fields(("premise", "hypothesis")),
        "By the premise, is the hypothesis true, false or unknown?",
        choices=THREE_WAY,
    ),
    _text(
        "answerable",
        asking.answerable,
        Fields(("question", "sentence")),
        "Is the answer to the question present in the sentence or absent?",
        choices=("absent", "present"),
    ),
    _text(
        "reading",
        inference.reading,
        Fields(("passage", "question")),
        "Answer the question about the passage with yes or no.",
        choices=NO_YES,
    ),
    _text(
        "cause",
        sense.cause,
        Fields(("premise", "question", "choice1", "choice2")),
        "Is the first or the second choice the cause, or the effect, of the premise?",
        choices=("first", "second"),
    ),
    _text(
        "word-sense",
        sense.word_sense,
        Fields(("word", *SENTENCES)),
        "Is the meaning of the word different in the two sentences, or the same?",
        choices=DIFFERENT_SAME,
    ),
    _text(
        "answer",
        asking.answer,
        Open(("context", "question"), "answers"),
        "Answer the question with words from the context.",
        kind="generation",
        metrics=("squad_exact_match", "squad_f1"),
        answer=("answers",),
    ),
    _text(
        "describe",
        asking.describe,
        Open(("data",), "references"),
        "Tell in one sentence what the data say.",
        kind="generation",
        metrics=("token_f1",),
        answer=("references",),
    ),
    _text(
        "review",
        judged.review,
        Fields(("text",)),
        "Is this a negative or a positive review?",
        choices=NEGATIVE_POSITIVE,
    ),
    _text(
        "claim",
        inference.claim,
        Fields(("evidence", "claim")),
        "Does the evidence support the claim, yes or no?",
        choices=NO_YES,
    ),
    _text(
        "swaps",
        pairs.swaps,
        Fields(SENTENCES),
        "Do the two sentences of like words tell the same or different things?",
        choices=DIFFERENT_SAME,
    ),
    _seen(
        "vqa",
        vision.vqa,
        Seen(("image",), ("question",), "answers"),
        "Answer the question about the picture.",
        kind="generation",
        metrics=("squad_exact_match",),
        answer=("answers",),
    ),
    _seen(
        "pairs",
        vision.pairs,
        Seen(("left", "right"), ("statement",)),
        "Is the statement about the two pictures true or false?",
        choices=("false", "true"),
    ),
    _seen(
        "visual-entailment",
        vision.visual_entailment,
        Seen(("image",), ("hypothesis",)),
        "By the picture, is the hypothesis true, false or unknown?",
        choices=THREE_WAY,
    ),
    _seen(
        "caption",
        vision.caption,
        Seen(("image",), (), "captions"),
        "Describe the picture.",
        kind="generation",
        metrics=("token_f1",),
        answer=("captions",),
    ),
    _seen(
        "count",
        vision.count,
        Seen(("image",), ("question",)),
        "How many are in the picture, from zero to four?",
        choices=COUNTS,
    ),
    _seen(
        "foil",
        vision.foil,
        Seen(("image",), ("caption",)),
        "Is the caption right for the picture, yes or no?",
        choices=NO_YES,
    ),
)


def tasks(*, prefix: str = "tabletop", seed: int = 0, difficulty: str = "default", **settings: int) -> list[Task]:
    """All tasks of the suite, text first.

    prefix: of their names. difficulty: easy, default or hard; `settings` replaces single fields of `suite.Level`,
    and `rows=` the size of the splits.
    """
    # What is as by default stays unsaid, so that the default tasks keep their fingerprints.
    options = (
        settings | ({"seed": seed} if seed else {}) | ({"difficulty": difficulty} if difficulty != "default" else {})
    )
    return [definition.task(prefix, options) for definition in DEFINITIONS]
