"""SuperGLUE (Wang et al. 2019, arXiv 1905.00537), from aps/super_glue: the seven tasks that GLUE does not have.

Splits follow HyperFormer's rule: below 10,000 training rows the validation split is halved into validation and test
(BoolQ, CB, COPA, WiC, WSC); MultiRC and ReCoRD hold 1,000 training rows out and test on the original validation split.
All answers about one paragraph (MultiRC) or passage (ReCoRD) stay on one side.
"""

from __future__ import annotations

import re
from typing import Any

from hyperpelt import Example, Hub, Splits, Task
from hyperpelt import register as add
from hyperpelt_tasks.rendering import NO_YES, Fields, written

ROW = Any
_HIGHLIGHT = re.compile(r"\s*@highlight\s*")


def register() -> None:
    """Register the seven tasks."""
    _add(
        "boolq",
        Fields(("question", "passage")),
        choices=NO_YES,
        splits=Splits.halved(by=("question", "passage")),
        description="Answer the question about the passage with yes or no.",
    )
    _add(
        "cb",
        Fields(("premise", "hypothesis")),
        choices=("yes", "no", "maybe"),
        metrics=("accuracy", "macro_f1"),
        splits=Splits.halved(by=("premise", "hypothesis")),
        description="If the premise is true, is the hypothesis true: yes, no or maybe?",
    )
    _add(
        "copa",
        cause_or_effect,
        splits=Splits.halved(by="premise"),
        description="Which of the two choices is the cause, or the effect, of the premise?",
    )
    _add(
        "wic",
        word_in_context,
        choices=NO_YES,
        splits=Splits.halved(by=("word", "sentence1", "sentence2")),
        description="Does the word mean the same in both sentences?",
    )
    _add(
        "multirc",
        answer_of_paragraph,
        choices=NO_YES,
        metrics=("f1a", "group_exact_match"),
        splits=Splits.held_out(by="idx.paragraph"),
        description="Is this a right answer to the question about the paragraph?",
    )
    _add(
        "wsc",
        pronoun,
        choices=NO_YES,
        splits=Splits.halved(by=("text", "span1_text", "span2_text")),
        description="Does the pronoun between asterisks stand for the noun?",
    )
    _add(
        "record",
        entity_of_passage,
        kind="generation",
        metrics=("squad_f1", "squad_exact_match"),
        answer=("answers",),
        splits=Splits.held_out(by="idx.passage"),
        description="Which name from the passage fills the gap in the query?",
    )


def cause_or_effect(row: ROW) -> Example:
    """COPA: the answer is the text of the choice; both stand in the input, so that they can be compared."""
    fields = {name: row[name] for name in ("premise", "question", "choice1", "choice2")}
    return written(fields, choices=(row["choice1"], row["choice2"]), label=row["label"])


def word_in_context(row: ROW) -> Example:
    """WiC: the word is set between asterisks where it stands."""
    fields = {"word": row["word"]}
    for n in ("1", "2"):
        fields[f"sentence{n}"] = _mark(row[f"sentence{n}"], row[f"start{n}"], row[f"end{n}"])
    return written(fields, label=row["label"])


def answer_of_paragraph(row: ROW) -> Example:
    """MultiRC: the paragraph comes last, where it can be cut."""
    ids = row["idx"]
    return written(
        {"question": row["question"], "answer": row["answer"], "paragraph": row["paragraph"]},
        label=row["label"],
        group=(ids["paragraph"], ids["question"]),
    )


def pronoun(row: ROW) -> Example:
    """WSC: the pronoun (span2, whose index counts words) is set between asterisks where it stands."""
    before = rf"^((?:\S+\s+){{{row['span2_index']}}})"
    text = re.sub(before + f"({re.escape(row['span2_text'])})", r"\1*\2*", row["text"])
    fields = {"noun": row["span1_text"], "pronoun": row["span2_text"], "text": text}
    return written(fields, label=row["label"])


def entity_of_passage(row: ROW) -> Example:
    """ReCoRD: ranks the passage's entities; any of the accepted answers is right."""
    passage = _HIGHLIGHT.sub(" . ", row["passage"])
    answers = row["answers"]
    return written(
        {"query": row["query"].replace("@placeholder", "___"), "passage": passage},
        choices=tuple(dict.fromkeys(row["entities"])),
        label=None if answers is None else tuple(dict.fromkeys(answers)),
    )


def _mark(text: str, start: int, end: int) -> str:
    return f"{text[:start]}*{text[start:end]}*{text[end:]}"


def _add(name: str, render: Any, **definition: Any) -> None:
    add(Task(name=f"super_glue/{name}", source=Hub("aps/super_glue", name), render=render, **definition))
