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


def similarity(row: Any) -> Example:
    """STS-B as T5 writes it: the score rounded to the nearest 0.2; the label stays the true score."""
    score = row["label"]
    target = "" if score is None else f"{round(5 * score) / 5:.1f}"
    return written({name: row[name] for name in SENTENCES}, target=target, label=score)


# Name on the hub -> how its rows are written out, and the task's other fields.
SETS: dict[str, dict[str, Any]] = {
    "cola": {
        "render": Fields(("sentence",)),
        "choices": ("unacceptable", "acceptable"),
        "metrics": ("matthews",),
        "splits": Splits.halved(by="sentence"),
        "description": "Is the sentence grammatical English?",
    },
    "sst2": {
        "render": Fields(("sentence",)),
        "choices": NEGATIVE_POSITIVE,
        "splits": Splits.held_out(by="sentence"),
        "description": "Is this part of a film review negative or positive?",
    },
    "mrpc": {
        "render": Fields(SENTENCES),
        "choices": DIFFERENT_SAME,
        "metrics": ("accuracy", "f1"),
        "splits": Splits.halved(by=SENTENCES),
        "description": "Do the two sentences from the news mean the same?",
    },
    "qqp": {
        "render": Fields(("question1", "question2")),
        "choices": DIFFERENT_SAME,
        "metrics": ("accuracy", "f1"),
        "splits": Splits.held_out(by=("question1", "question2")),
        "description": "Do the two questions ask the same?",
    },
    "stsb": {
        "render": similarity,
        "kind": "regression",
        "choices": SCORES,
        "metrics": ("pearson", "spearman"),
        "splits": Splits.halved(by=SENTENCES),
        "description": "How similar in meaning are the two sentences, from 0.0 (nothing in common) to 5.0 (the same)?",
    },
    "mnli": {
        "render": Fields(("premise", "hypothesis")),
        "choices": YES_MAYBE_NO,
        "splits": Splits.held_out(test="validation_matched", by=("premise", "hypothesis")),
        "description": "If the premise is true, is the hypothesis true: yes, maybe or no?",
    },
    "qnli": {
        "render": Fields(("question", "sentence")),
        "choices": YES_NO,
        "splits": Splits.held_out(by=("question", "sentence")),
        "description": "Does the sentence hold the answer to the question?",
    },
    "rte": {
        "render": Fields(SENTENCES),
        "choices": YES_NO,
        "splits": Splits.halved(by=SENTENCES),
        "description": "If the first sentence is true, is the second one true?",
    },
    "wnli": {
        "render": Fields(SENTENCES),
        "choices": ("no", "yes"),
        "splits": Splits.halved(by=SENTENCES),
        "description": "Does the second sentence follow from the first when its pronoun is resolved?",
    },
}


def register() -> None:
    """Register the nine tasks and the mixture of eight."""
    for name, definition in SETS.items():
        add(Task(name=f"glue/{name}", source=Hub("nyu-mll/glue", name), **definition))
    add(Mixture(name="glue", rates=[f"glue/{name}" for name in PAPER], description="GLUE as in HyperFormer's paper"))
