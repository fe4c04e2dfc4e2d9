"""GLUE (Wang et al. 2019, arXiv 1804.07461), from nyu-mll/glue, by the protocol of HyperFormer and HyperPELT.

Small sets (RTE, MRPC, STS-B, CoLA, WNLI): the validation split is halved into validation and test. Large sets (SST-2,
QQP, MNLI, QNLI): 1,000 training rows leave train and become validation, and the original validation split is the test
(MNLI: the matched one). The protocol is written down for each task and never guessed from the size of a local copy.
Rows with the same text stay on one side of each cut. GLUE's own unlabelled test splits are not used.
"""

from __future__ import annotations

from typing import Any

from hyperpelt import Example, Hub, Mixture, Splits, Task
from hyperpelt import register as add
from hyperpelt_tasks.rendering import DIFFERENT_SAME, NEGATIVE_POSITIVE, YES_MAYBE_NO, YES_NO, Fields, written

SENTENCES = ("sentence1", "sentence2")
SCORES = tuple(f"{fifth / 5:.1f}" for fifth in range(26))  # STS-B: 0.0, 0.2, ... 5.0
PAPER = ("cola", "sst2", "mrpc", "qqp", "stsb", "mnli", "qnli", "rte")  # WNLI is left out, as in most papers


def register() -> None:
    """Register the nine tasks and the mixture of eight."""
    small, large = Splits.halved, Splits.held_out
    _add(
        "cola",
        ("sentence",),
        choices=("unacceptable", "acceptable"),
        metrics=("matthews",),
        splits=small(by="sentence"),
        description="Is the sentence grammatical English?",
    )
    _add(
        "sst2",
        ("sentence",),
        choices=NEGATIVE_POSITIVE,
        splits=large(by="sentence"),
        description="Is this part of a film review negative or positive?",
    )
    _add(
        "mrpc",
        SENTENCES,
        choices=DIFFERENT_SAME,
        metrics=("accuracy", "f1"),
        splits=small(by=SENTENCES),
        description="Do the two sentences from the news mean the same?",
    )
    _add(
        "qqp",
        ("question1", "question2"),
        choices=DIFFERENT_SAME,
        metrics=("accuracy", "f1"),
        splits=large(by=("question1", "question2")),
        description="Do the two questions ask the same?",
    )
    add(
        Task(
            name="glue/stsb",
            source=Hub("nyu-mll/glue", "stsb"),
            render=similarity,
            kind="regression",
            choices=SCORES,
            metrics=("pearson", "spearman"),
            splits=small(by=SENTENCES),
            description="How similar in meaning are the two sentences, from 0.0 (nothing in common) to 5.0 (the same)?",
        )
    )
    _add(
        "mnli",
        ("premise", "hypothesis"),
        choices=YES_MAYBE_NO,
        splits=large(test="validation_matched", by=("premise", "hypothesis")),
        description="If the premise is true, is the hypothesis true: yes, maybe or no?",
    )
    _add(
        "qnli",
        ("question", "sentence"),
        choices=YES_NO,
        splits=large(by=("question", "sentence")),
        description="Does the sentence hold the answer to the question?",
    )
    _add(
        "rte",
        SENTENCES,
        choices=YES_NO,
        splits=small(by=SENTENCES),
        description="If the first sentence is true, is the second one true?",
    )
    _add(
        "wnli",
        SENTENCES,
        choices=("no", "yes"),
        splits=small(by=SENTENCES),
        description="Does the second sentence follow from the first when its pronoun is resolved?",
    )
    add(Mixture(name="glue", rates=[f"glue/{name}" for name in PAPER], description="GLUE as in HyperFormer's paper"))


def similarity(row: Any) -> Example:
    """STS-B as T5 writes it: the score rounded to the nearest 0.2; the label stays the true score."""
    score = row["label"]
    target = "" if score is None else f"{round(5 * score) / 5:.1f}"
    return written({name: row[name] for name in SENTENCES}, target=target, label=score)


def _add(name: str, columns: tuple[str, ...], **definition: Any) -> None:
    add(Task(name=f"glue/{name}", source=Hub("nyu-mll/glue", name), render=Fields(columns), **definition))
