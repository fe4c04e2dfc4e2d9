"""Answers are judged in the spelling of their gold; what is no answer, or no longer the task, is said."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console
from task_support import make_task
from tiny_tokenizers import make_tokenizer

from hyperpelt import Example, Files, Splits, Task, TunedModel, UserError, evaluate, tasks
from hyperpelt.backbones import encode_targets, load_tokenizer
from hyperpelt.evaluation import answers, predict
from hyperpelt.evaluation.answers import Answer
from hyperpelt.evaluation.judging import Judge, majority_answer
from hyperpelt.evaluation.prediction import _as_dict
from hyperpelt.files.atomic import write_json
from hyperpelt.training.checks import answers_are_there, splits_are_there, worth_saying


def rows(labels: Sequence[Any]) -> list[dict[str, Any]]:
    return [{"text": f"t {number}", "label": label} for number, label in enumerate(labels)]


def numbers(labels: Sequence[Any], **fields: Any) -> Task:
    fields = {"choices": None, "metrics": ("pearson",), **fields}
    return make_task(rows(labels), kind="regression", splits=Splits(validation=None, test=None), **fields)


@pytest.fixture
def model(tiny_t5: Any) -> TunedModel:
    return TunedModel.build(tiny_t5, method="bitfit", tasks=["test/task"], tokenizer=make_tokenizer("t5"))


@pytest.mark.parametrize("gold", ["3.5", "1,000", "U.S.A.", "50%", "$5", "garbage_bin", "don't", "New York"])
def test_what_the_tokenizer_makes_of_the_gold_counts_as_the_gold(gold: str) -> None:
    tokenizer = load_tokenizer("mini-bart")
    metrics = ("exact_match", "squad_exact_match", "squad_f1", "set_accuracy", "vqa_accuracy")
    task = make_task(rows([gold]), kind="generation", choices=None, metrics=metrics)
    examples = list(task.examples("test"))
    said = tokenizer.batch_decode(encode_targets(tokenizer, [gold]), skip_special_tokens=True)
    judge = Judge(task, examples, tokenizer)
    assert judge.scores(said) == dict.fromkeys(metrics, 100.0)
    assert judge.majority("test", None) == dict.fromkeys(metrics, 100.0)  # the same ceiling
    assert judge.scores(["another"])["exact_match"] == 0.0


def test_the_majority_answer_is_that_of_the_rows_as_they_are_now(tmp_path: Path) -> None:
    """A process may live on while its files are mended, as a notebook's does."""
    rows = tmp_path / "rows.jsonl"
    named = Task(
        name="my/changing",
        source=Files({split: str(rows) for split in ("train", "validation", "test")}),
        render=lambda row: Example(input=row["text"], label=row["label"]),
        choices=("no", "yes"),
    )
    for number, label in enumerate((0, 1)):
        lines = [json.dumps({"text": f"row {i}", "label": label}) for i in range(3 + number)]
        rows.write_text("\n".join(lines), encoding="utf8")
        assert majority_answer(named, "test", None) == label


def test_the_majority_answer_reaches_no_more_than_a_model_could() -> None:
    tokenizer = make_tokenizer("t5")
    task = make_task(rows(["\u732b", "\u732b", "cat"]), kind="generation", choices=None, metrics=("exact_match",))
    examples = list(task.examples("test"))
    assert Judge(task, examples, tokenizer).majority("test", None) == {"exact_match": 0.0}  # nobody can write it


@pytest.mark.parametrize(
    ("text", "number"), [("0. 5", 0.5), ("- 1. 5", -1.5), ("1, 000", 1000.0), ("\u22122", -2.0), ("about 3", None)]
)
def test_a_written_number_is_read_whatever_blanks_stand_in_it(text: str, number: float | None) -> None:
    found = answers._parsed("regression", text)
    assert math.isnan(found) if number is None else found == number


def test_an_answer_that_is_no_number_is_null_and_counted_in_the_table(model: TunedModel, tmp_path: Path) -> None:
    task = numbers([1.5, 2.5])
    found = predict(model, task, [{"text": "good"}], max_target_length=3)[0]
    if found["answer"] is None:  # a random model writes letters
        assert isinstance(found["text"], str)
    assert "NaN" not in json.dumps(found)
    content = _as_dict(task, Example(input="t"), Answer(text="gar bage", prediction=math.nan))
    assert content == {"answer": None, "text": "gar bage"}
    results = evaluate(model, task, split="train", max_target_length=3, progress=False)
    result = results.tasks[task.name]
    assert result.invalid == 2
    console = Console(width=100, record=True, file=open("/dev/null", "w"))  # noqa: SIM115
    console.print(results.table())
    assert "invalid: 2" in console.export_text()
    assert any("2 of 2 answers are no number" in note for note in result.notes)
    write_json(tmp_path / "results.json", results.as_dict())
    assert "Infinity" not in (tmp_path / "results.json").read_text()


def test_equal_choices_share_their_probability(model: TunedModel) -> None:
    given = make_task([], choices=None)
    found = predict(model, given, [Example(input="t", choices=("good", "bad", "good"))])[0]
    alone = predict(model, given, [Example(input="t", choices=("good", "bad"))])[0]
    assert list(found["probabilities"]) == ["good", "bad"]
    assert sum(found["probabilities"].values()) == pytest.approx(1.0)
    assert found["probabilities"] == pytest.approx(alone["probabilities"])


def test_a_task_that_changed_since_training_is_named(tiny_t5: Any) -> None:
    task = make_task(rows([0, 1]))
    model = TunedModel.build(tiny_t5, method="bitfit", tasks=[task], tokenizer=make_tokenizer("t5"))

    def noted(task: Task) -> bool:
        notes = evaluate(model, task, progress=False).tasks[task.name].notes
        return any("not the one that the model was trained on" in note for note in notes)

    assert not noted(task)
    for changed in (
        replace(task, choices=("yes", "no")),
        replace(task, metrics=("accuracy", "f1")),
        replace(task, render=lambda row: Example(input=f"another: {row['text']}", label=row["label"])),
    ):
        assert noted(changed)


# ------------------------------------------------------------------------------------------ said before training starts


@pytest.mark.parametrize(
    ("task", "message"),
    [
        (
            numbers(range(0, 100, 5), choices=("0.0", "1.0", "5.0")),
            r"19 rows of 20 have a score outside of the choices 0 to 5 \(from 5|18 rows of 20 have a score outside",
        ),
        (numbers([-3, 0.2, 0.9], choices=("0", "1")), "1 row of 3 have a score outside of the choices 0 to 1"),
        (numbers([120, 3, 5], choices=("1", "2", "3", "4", "5")), "1 row of 3 have a score outside"),
        (make_task(rows([0, 1, 2]), choices=("a", "b", "c"), metrics=("f1",)), "counts the choice 'b' alone.*macro_f1"),
        (make_task(rows([0, 1, 2]), choices=("a", "b", "c"), metrics=("accuracy", "f1a")), "against the 2 others"),
        (
            make_task(
                rows([0, 1]),
                choices=None,
                metrics=("f1",),
                render=lambda row: Example(input=row["text"], choices=("x", row["text"]), label=row["label"]),
            ),
            "counts each row's second choice",
        ),
        (make_task(rows([0, 1, 1]), choices=("1", "0")), "can mean two things"),
        (
            make_task(
                rows([0, 0]),
                choices=None,
                render=lambda row: Example(input=row["text"], choices=("x", "", None), label=row["label"]),
            ),
            "with one choice alone",
        ),
    ],
)
def test_what_is_probably_not_meant_is_said_by_check_run_and_evaluate(
    task: Task, message: str, tiny_t5: Any, tmp_path: Any
) -> None:
    import re

    from hyperpelt.config import build_run

    found = [f.message for f in tasks.check_task(task).findings if f.level == "warning"]
    assert any(re.search(message, text) for text in found), found
    settings = {"tasks": task.name, "output_dir": str(tmp_path), "test_split": "train"}
    said = worth_saying(build_run(settings), [task])
    assert any(re.search(message, text) for text in said), said
    model = TunedModel.build(tiny_t5, method="bitfit", tasks=[task], tokenizer=make_tokenizer("t5"))
    notes = evaluate(model, task, split="train", progress=False).tasks[task.name].notes
    assert any(re.search(message, text) for text in notes), notes


@pytest.mark.parametrize(
    "task",
    [
        numbers([0.0, 4.9, 5.0], choices=("0.0", "1.0", "5.0")),
        make_task(rows([0, 1, 2]), choices=("a", "b", "c"), metrics=("macro_f1",)),
        make_task(rows([0, 1]), metrics=("f1",)),
        make_task(rows([1, 2, 5]), choices=("1", "2", "3", "4", "5")),
    ],
)
def test_what_is_meant_is_not_warned_of(task: Task) -> None:
    words = ("outside", "alone", "two things")
    found = [f.message for f in tasks.check_task(task).findings]
    assert not [text for text in found if any(word in text for word in words)]


def test_a_task_without_the_split_that_a_run_evaluates_says_what_to_set(tmp_path: Path) -> None:
    from hyperpelt.config import build_run

    task = make_task(rows([0, 1]), splits=Splits(test=None))
    settings = {"tasks": task.name, "output_dir": str(tmp_path)}
    with pytest.raises(UserError, match="has no split 'test': evaluate it on another one, test_split=validation"):
        splits_are_there(build_run(settings), [task])
    splits_are_there(build_run({**settings, "test_split": "validation"}), [task])


def test_a_row_that_does_not_render_is_still_an_error_before_training(tmp_path: Any) -> None:
    from hyperpelt.config import build_run

    task = make_task(rows([0, 5]))
    with pytest.raises(UserError, match="row 1: unknown label 5"):
        worth_saying(build_run({"tasks": task.name, "output_dir": str(tmp_path)}), [task])


def test_every_row_of_both_evaluations_is_looked_at_where_they_share_a_split(tmp_path: Path) -> None:
    """The few of the last one hid those that are measured each so many steps."""
    from hyperpelt.config import build_run

    task = make_task(rows([0, 1] * 20 + [5]))
    limits = {"eval_steps": 1, "eval_split": "test", "test_limit": 2}
    with pytest.raises(UserError, match="row 40: unknown label 5"):
        answers_are_there(build_run({"tasks": task.name, "output_dir": str(tmp_path), **limits}), [task])
