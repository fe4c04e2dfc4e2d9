"""Gold answers, scored against themselves through a tokenizer, reach the ceiling that is stated."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from itertools import islice
from typing import Any

import pytest
from task_support import make_task
from tiny_tokenizers import FAMILIES, make_tokenizer

from hyperpelt import Example, Splits, Task, UserError, check_task, metrics, tasks
from hyperpelt.backbones import encode_targets, load_tokenizer
from hyperpelt.evaluation.judging import Judge
from hyperpelt.tasks.spelling import Spelling, ceiling, decode, lost, written_answers
from hyperpelt.tasks.values import read_number

NUMBERS = ["3.5", "1,000", "U.S.A.", "-2", "50%", "$5", "2020-01-02", "don't", "garbage_bin", "Cat", "a / b", "(x)"]


def open_task(answers: Sequence[Any], *names: str, kind: str = "generation") -> Task:
    rows = [{"text": f"q {i}", "label": answer} for i, answer in enumerate(answers)]
    return make_task(
        rows, kind=kind, choices=None, metrics=names, splits=Splits(train="train", validation=None, test=None)
    )


@pytest.fixture(params=[*FAMILIES, "mini-bart"])
def tokenizer(request: pytest.FixtureRequest) -> Any:
    """One of every promised family, and mini-bart's own."""
    return load_tokenizer("mini-bart") if request.param == "mini-bart" else make_tokenizer(request.param)


def test_every_answer_that_can_be_written_can_be_right(tokenizer: Any) -> None:
    task = open_task(NUMBERS, "exact_match", "squad_exact_match", "squad_f1", "bleu4", "set_accuracy", "vqa_accuracy")
    examples = list(task.examples("train"))
    reached = ceiling(task, examples, tokenizer)
    assert {name: value for name, value in reached.items() if name != "bleu4"} == pytest.approx(
        dict.fromkeys([name for name in reached if name != "bleu4"], 100.0)
    )
    assert lost(task, examples, tokenizer) == {}


def test_numbers_are_read_through_every_tokenizer(tokenizer: Any) -> None:
    task = open_task([0.5, 2.5, 7.5, -1.5, 1000, -0.25, 1234567], "pearson", "spearman", kind="regression")
    examples = list(task.examples("train"))
    assert written_answers(task, examples, tokenizer) == [example.label for example in examples]
    assert ceiling(task, examples, tokenizer) == pytest.approx({"pearson": 100.0, "spearman": 100.0})


def test_answers_that_cannot_be_written_lower_the_ceiling_and_are_told() -> None:
    tokenizer = make_tokenizer("t5")  # knows no Chinese
    task = open_task(["cat", "\u732b", "dog", "\U0001f642"], "exact_match")
    examples = list(task.examples("train"))
    assert ceiling(task, examples, tokenizer) == {"exact_match": 50.0}
    assert lost(task, examples, tokenizer) == {"exact_match": (50.0, 100.0)}
    found = [f for f in check_task(task, tokenizer=tokenizer).findings if "cannot exceed 50.0" in f.message]
    assert [f.level for f in found] == ["warning"]
    assert "exact_match 50.0" in str(check_task(task, tokenizer=tokenizer))
    # So do answers that are cut, and choices that have the same tokens.
    long = open_task(["cat dog " * 20, "cat"], "exact_match")
    assert lost(long, list(long.examples("train")), tokenizer, max_target_length=8) == {"exact_match": (50.0, 100.0)}
    cased = make_task([{"text": "a", "label": "Yes"}, {"text": "b", "label": "yes"}], choices=("yes", "Yes"))
    assert lost(cased, list(cased.examples("train")), make_tokenizer("wordpiece")) == {"accuracy": (50.0, 100.0)}
    assert lost(cased, list(cased.examples("train")), tokenizer) == {}


def test_an_answer_has_the_spelling_of_its_gold() -> None:
    tokenizer = load_tokenizer("mini-bart")
    golds = ["garbage_bin, chair", "3.5 metres", "the U.S.A.", "Cat", "a,b_c"]
    examples = [Example(input="?", target=gold, label=gold) for gold in golds]
    spelling = Spelling(tokenizer, examples)
    for answer, example, wanted in (
        ("garbage _ bin, chair", 0, "garbage_bin, chair"),
        ("chair, garbage _ bin", 0, "chair, garbage_bin"),  # in another order: word by word
        ("3. 5 feet", 1, "3.5 feet"),
        ("u. s. a.", 2, "U.S.A."),
        ("cat", 3, "Cat"),
        ("cats", 3, "cats"),
        ("b _ c", 4, "b_c"),
        ("3. 5", 0, "3. 5"),  # the gold of another row
    ):
        assert spelling.respelt(answer, examples[example]) == wanted
    assert spelling.changed["3.5"] == "3. 5"
    assert metrics.compute(("set_accuracy",), ["chair, garbage _ bin"], ["garbage_bin, chair"]) == {
        "set_accuracy": 100.0
    }


def test_a_metric_that_cannot_be_computed_is_an_error_of_the_check() -> None:
    task = make_task([{"text": f"t {i}", "label": i % 2} for i in range(4)], metrics=("group_exact_match",))
    report = check_task(task, tokenizer=make_tokenizer("t5"))
    assert sum("group_exact_match needs a group" in f.message for f in report.findings if f.level == "error") == 3
    assert not report.ok


# ------------------------------------------------------------------------------------------------------- built in

WITH_ROWS = ("tabletop/", "digits/")  # made by the library itself
LIMIT = 12


@pytest.mark.parametrize("name", tasks.names())
def test_golds_of_built_in_tasks_reach_the_stated_ceiling(name: str, request: pytest.FixtureRequest) -> None:
    task = tasks.get(name)
    root = None if name.startswith(WITH_ROWS) else request.getfixturevalue("data_root")
    try:
        rows = task.examples(task.splits.names()[-1], data_root=root)
        examples = [replace(row, images=()) for row in islice(rows, LIMIT)]
    except UserError as problem:
        pytest.skip(f"{name} has no local rows: {problem}")
    for family in ("mini-bart", *FAMILIES):
        tokenizer = load_tokenizer(family) if family == "mini-bart" else make_tokenizer(family)
        stated = ceiling(task, examples, tokenizer)
        said = decode(tokenizer, encode_targets(tokenizer, [best(row) for row in examples]))
        answers = [said_as(task, row, text) for row, text in zip(examples, said, strict=True)]
        assert Judge(task, examples, tokenizer).scores(answers) == stated, family
        ids = encode_targets(tokenizer, [best(row) for row in examples])
        if not any(tokenizer.unk_token_id in row for row in ids):
            assert lost(task, examples, tokenizer) == {}, family


def best(example: Example) -> str:
    return max(example.targets, key=lambda pair: pair[1])[0] if example.targets else example.target


def said_as(task: Task, example: Example, text: str) -> Any:
    """The answer of a model that wrote `text`, or ranked the right choice first."""
    if task.kind == "classification":
        return example.label
    if task.kind == "regression":
        number = read_number(text)
        return math.nan if number is None else number
    return text if example.choices is None else example.target
