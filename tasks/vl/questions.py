"""Questions about images: answered in words, judged by what people said.

VQAv2, OK-VQA, VizWiz and TextVQA have ten people's answers to a question: the metric is VQA's soft accuracy, and
training draws one of the answers by its score and weighs the loss by it (VL-T5, VL-Adapter). GQA has one answer.
DAQUAR's answers are words or comma-separated sets of them. easy-VQA has thirteen answers, which are ranked.

Where a set's test split has no public answers, 1,000 (VQAv2: 5,000) training rows become the validation split, all of
an image's together, and the source's validation split is the test.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from hyperpelt import Example, Hub, Splits, Task
from hyperpelt import register as add
from hyperpelt_tasks.rendering import NO_YES, write
from hyperpelt_tasks.vl.sources import Gathered

QUESTION = "Answer the question about the image."
SHAPES = ("circle", "rectangle", "triangle")
COLOURS = ("black", "blue", "brown", "gray", "green", "red", "teal", "yellow")


def register() -> None:
    """Register the seven sets."""
    asked_of_ten()
    answered_once()


def asked_of_ten() -> None:
    """VQAv2, OK-VQA, VizWiz, TextVQA."""
    _add(
        "vqav2",
        Hub("pingzhili/vqa_v2"),
        Asked(),
        metrics=("vqa_accuracy",),
        splits=Splits.held_out(5000, by="image_id"),
        answer=("answers",),
        description=QUESTION,
    )
    _add(
        "okvqa",
        Gathered((("train", Hub("Multimodal-Fatima/OK-VQA_train")), ("test", Hub("Multimodal-Fatima/OK-VQA_test")))),
        Asked(),
        metrics=("vqa_accuracy",),
        splits=Splits.held_out(test="test", by="id_image"),
        answer=("answers",),
        description="Answer the question about the image, which calls for knowledge of the world.",
    )
    _add(
        "vizwiz",
        Hub("ebrukilic/vizwiz_vqa_dataset"),
        Asked(),
        metrics=("vqa_accuracy",),
        splits=Splits.held_out(),
        answer=("answers",),
        description="Answer a blind person's question about the photo, or say that it is unanswerable.",
    )
    _add(
        "textvqa",
        Hub("lmms-lab/textvqa"),
        Asked(),
        metrics=("vqa_accuracy",),
        splits=Splits.held_out(by="image_id"),
        answer=("answers",),
        description="Answer the question about the text in the image.",
    )


def answered_once() -> None:
    """GQA, DAQUAR, easy-VQA."""
    _add(
        "gqa",
        Hub("Mineru/GQA"),
        Answered(),
        metrics=("exact_match",),
        splits=Splits(train="train_balanced", validation="val_balanced", test="testdev_balanced"),
        answer=("answer",),
        description="Answer the question about the objects in the image and how they relate.",
    )
    _add(
        "daquar",
        Hub("mpi/daquar"),
        Answered(),
        metrics=("set_accuracy", "wups_0.9", "wups_0.0"),
        splits=Splits.held_out(0.1, test="test", by="image_id"),
        answer=("answer",),
        description="Answer the question about the photo of a room with a word, or with words separated by commas.",
    )
    _add(
        "easy-vqa",
        Hub("vzhou842/easy-vqa"),
        Answered(),
        kind="classification",
        choices=(*NO_YES, *SHAPES, *COLOURS),
        splits=Splits.held_out(0.1, test="test", by="image_id"),
        answer=("answer",),
        description="Which colour or shape is in the image, or is what the question says true, yes or no?",
    )


@dataclass(frozen=True)
class Asked:
    """A render function for ten people's answers (strings, or structs with `answer`), by VQA's scores."""

    def __call__(self, row: Mapping[str, Any]) -> Example:
        text, images = write({"question": row["question"]}), (row["image"],)
        if row["answers"] is None:
            return Example(input=text, images=images)
        from hyperpelt import vqa_scores

        answers = tuple(_said(row["answers"]))
        targets = tuple((answer, score) for answer, score in vqa_scores(answers).items() if answer)
        return Example(input=text, label=answers, targets=targets, images=images)


@dataclass(frozen=True)
class Answered:
    """A render function for one answer, in column `answer`."""

    def __call__(self, row: Mapping[str, Any]) -> Example:
        return Example(input=write({"question": row["question"]}), label=row["answer"], images=(row["image"],))


def _said(answers: Sequence[Any]) -> list[str]:
    return [answer["answer"] if isinstance(answer, Mapping) else answer for answer in answers]


Kind = Literal["classification", "generation"]


def _add(name: str, source: Any, render: Any, *, kind: Kind = "generation", **definition: Any) -> None:
    task = Task(name=f"vl/{name}", source=source, render=render, kind=kind, modalities=("text", "image"), **definition)
    add(task)
