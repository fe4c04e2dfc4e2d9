"""Text sets that trained models are usually transferred to: reviews, questions, paraphrase, inference, common sense.

Splits as in HyperFormer (arXiv 2106.04489, section 3.1) where the set has no labelled test split of its own: small
sets halve their validation (IMDB and TREC: their test) split, large ones hold 1,000 training rows out and test on the
original validation split. Sets with three labelled splits are left as they are.
"""

from __future__ import annotations

from typing import Any

from hyperpelt import Example, Hub, Splits, Task
from hyperpelt import register as add
from hyperpelt_tasks.rendering import DIFFERENT_SAME, NEGATIVE_POSITIVE, YES_MAYBE_NO, Fields, write, written

ROW = Any
INFERENCE = Fields(("premise", "hypothesis"))
INFERENCE_QUESTION = "If the premise is true, is the hypothesis true: yes, maybe or no?"


def register() -> None:
    """Register all sets of this module."""
    reviews_and_questions()
    paraphrase_and_inference()
    common_sense()


def reviews_and_questions() -> None:
    """IMDB, Yelp polarity, TREC."""
    _add(
        "imdb",
        Hub("stanfordnlp/imdb", "plain_text"),
        review,
        choices=NEGATIVE_POSITIVE,
        splits=Splits.halved("test", by="text"),
        description="Is the film review negative or positive?",
    )
    _add(
        "yelp_polarity",
        Hub("fancyzhx/yelp_polarity", "plain_text"),
        review,
        choices=NEGATIVE_POSITIVE,
        splits=Splits.held_out(test="test", by="text"),
        description="Is the review of a business negative or positive?",
    )
    _add(
        "trec",
        Hub("CogComp/trec"),
        asked_for,
        choices=("abbreviation", "entity", "description", "human", "location", "number"),
        splits=Splits.halved("test", by="text"),
        answer=("coarse_label",),
        description="What does the question ask for: an abbreviation, entity, description, human, location or number?",
    )


def paraphrase_and_inference() -> None:
    """PAWS, SciTail, SNLI, the three rounds of ANLI."""
    _add(
        "paws",
        Hub("google-research-datasets/paws", "labeled_final"),
        Fields(("sentence1", "sentence2")),
        choices=DIFFERENT_SAME,
        splits=Splits(),
        description="Do the two sentences mean the same?",
    )
    _add(
        "scitail",
        Hub("allenai/scitail", "tsv_format"),
        science,
        choices=("yes", "maybe"),
        splits=Splits(),
        description="If the premise is true, is the hypothesis true: yes or maybe?",
    )
    _add(
        "snli",
        Hub("stanfordnlp/snli", "plain_text"),
        INFERENCE,
        choices=YES_MAYBE_NO,
        splits=Splits(drop={"label": -1}),
        description=INFERENCE_QUESTION,
    )
    for number in (1, 2, 3):
        _add(
            f"anli/r{number}",
            Hub("facebook/anli", "plain_text"),
            INFERENCE,
            choices=YES_MAYBE_NO,
            splits=Splits(train=f"train_r{number}", validation=f"dev_r{number}", test=f"test_r{number}"),
            description=INFERENCE_QUESTION,
        )


def common_sense() -> None:
    """HellaSwag, WinoGrande, CommonsenseQA: the answer is the text of one of the row's own choices."""
    _add(
        "hellaswag",
        Hub("Rowan/hellaswag"),
        ending,
        splits=Splits.held_out(by="source_id"),
        description="Which ending continues the story?",
    )
    _add(
        "winogrande",
        Hub("allenai/winogrande", "winogrande_xl"),
        gap,
        # Sentences come as twins that differ in a word and swap the answer; twins name the same two options.
        splits=Splits.held_out(by=("option1", "option2")),
        answer=("answer",),
        description="Which option fills the gap in the sentence?",
    )
    _add(
        "commonsense_qa",
        Hub("tau/commonsense_qa"),
        question_with_choices,
        splits=Splits.halved(by="question"),
        answer=("answerKey",),
        description="Which choice answers the question?",
    )


def review(row: ROW) -> Example:
    """IMDB, Yelp: without the mark-up of line breaks."""
    text = row["text"].replace("<br />", " ").replace("\\n", " ")
    return Example(input=write({"review": text}), label=row["label"])


def asked_for(row: ROW) -> Example:
    """TREC: its six coarse classes."""
    return Example(input=write({"question": row["text"]}), label=row["coarse_label"])


def science(row: ROW) -> Example:
    """SciTail's labels are words: entails (yes), neutral (maybe)."""
    label = {"entails": 0, "neutral": 1}.get(row["label"], row["label"])
    return written({name: row[name] for name in INFERENCE.columns}, label=label)


def ending(row: ROW) -> Example:
    """HellaSwag: the endings are ranked after the context, which names what is being done. Its label is a string."""
    context = f"{row['activity_label']}: {row['ctx']}"
    return Example(
        input=write({"context": _without_marks(context)}),
        choices=tuple(_without_marks(text) for text in row["endings"]),
        label=None if row["label"] is None else int(row["label"]),
    )


def gap(row: ROW) -> Example:
    """WinoGrande: the answer column counts from '1'."""
    return written(
        {name: row[name] for name in ("sentence", "option1", "option2")},
        choices=(row["option1"], row["option2"]),
        label=None if row["answer"] is None else int(row["answer"]) - 1,
    )


def question_with_choices(row: ROW) -> Example:
    """CommonsenseQA: choices come as {'label': ['A', ...], 'text': [...]}."""
    choices = row["choices"]
    fields = {"question": row["question"], "choices": ", ".join(choices["text"])}
    label = None if row["answerKey"] is None else choices["label"].index(row["answerKey"])
    return written(fields, choices=tuple(choices["text"]), label=label)


def _without_marks(text: str) -> str:
    """HellaSwag's WikiHow rows hold marks such as [header] and [step]."""
    for mark in ("[header]", "[title]", "[step]", "[substeps]"):
        text = text.replace(mark, " ")
    return " ".join(text.split())


def _add(name: str, source: Hub, render: Any, **definition: Any) -> None:
    add(Task(name=name, source=source, render=render, **definition))
