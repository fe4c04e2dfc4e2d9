"""Task, Example, Examples: what is completed, and what an author is told when a row is wrong."""

from __future__ import annotations

import math
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace

import pytest
from task_support import Rows, make_task, own_registry, render

import hyperpelt
from hyperpelt import Example, UserError, tasks

ROWS = [{"text": f"row {n}", "label": n % 2} for n in range(20)]


def test_importing_tasks_and_the_built_ins_costs_no_heavy_library() -> None:
    heavy = "{'torch', 'transformers', 'datasets', 'numpy', 'pydantic', 'yaml'}"
    code = f"import sys, hyperpelt.tasks as t; assert 'glue/rte' in t.names(); print({heavy} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"


def test_target_label_and_choices_follow_from_each_other() -> None:
    task = make_task(ROWS)
    assert task.example({"text": "a", "label": 1}) == Example(
        input="text: a", target="yes", choices=("no", "yes"), label=1
    )
    by_text = make_task(ROWS, render=lambda row: Example(input="x", target=row["label"]))
    assert by_text.example({"label": "yes"}).label == 1


def test_regression_takes_the_nearest_choice_and_keeps_the_true_score() -> None:
    task = make_task(ROWS, kind="regression", choices=("0.0", "0.5", "1.0"), metrics=("pearson",))
    example = task.example({"text": "a", "label": 0.7})
    assert (example.target, example.label) == ("0.5", 0.7)


def test_generation_takes_several_accepted_answers_and_writes_the_first() -> None:
    task = make_task(ROWS, kind="generation", choices=None, metrics=("squad_f1",))
    example = task.example({"text": "a", "label": ("a cat", "the cat")})
    assert (example.target, example.label) == ("a cat", ("a cat", "the cat"))


@pytest.mark.parametrize("label", [-1, 2])
def test_unknown_label_names_task_split_row_and_what_was_expected(label: int) -> None:
    task = make_task([{"text": "a", "label": 0}, {"text": "b", "label": label}])
    with pytest.raises(UserError) as error:
        list(task.examples("train"))
    for part in ("test/task", "split train", "row 1", f"unknown label {label}", "('no', 'yes')", "counted from 0 to 1"):
        assert part in str(error.value)


def test_missing_column_names_the_nearest_one() -> None:
    task = make_task([{"txt": "a", "label": 0}])
    with pytest.raises(
        UserError, match="split test, row 0: expected column 'text', the row has 'txt', 'label', did you"
    ):
        task.examples("test")[0]


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        ("maybe", "the answer 'maybe' is not a choice; expected one of 'no', 'yes'"),
        (
            1.5,
            r"the label is 1\.5 \(float\), expected the text of a choice, one of 'no', 'yes', or its index, 0 to 1",
        ),
        (None, r"the row has no answer \(its label is None\); leave such rows out: Splits\(drop="),
    ],
)
def test_an_answer_that_is_no_choice_is_refused(answer: object, message: str) -> None:
    with pytest.raises(UserError, match=message):
        make_task(ROWS).example({"text": "a", "label": answer})


def test_scores_that_are_not_finite_are_refused() -> None:
    task = make_task(ROWS, kind="regression", choices=None, metrics=("pearson",))
    with pytest.raises(UserError, match="expected a finite number"):
        task.example({"text": "a", "label": math.inf})
    with pytest.raises(UserError, match=r"the row has no answer \(its label is nan"):
        task.example({"text": "a", "label": math.nan})


def test_a_render_function_that_fails_keeps_its_own_error_as_cause() -> None:
    task = make_task(ROWS, render=lambda row: Example(input=row["text"] + 1))
    with pytest.raises(UserError, match="rendering failed with TypeError") as error:
        task.examples("train")[3]
    assert isinstance(error.value.__cause__, TypeError)
    with pytest.raises(UserError, match="render returned dict, expected a hyperpelt"):
        make_task(ROWS, render=lambda row: {"input": "x"}).examples("train")[0]


def broken(split: str, **options: object) -> list[dict]:
    raise ValueError("the disk is full")


@pytest.mark.parametrize(
    ("source", "message"),
    [
        (hyperpelt.Generator(broken), "split train: reading the rows failed with ValueError: the disk is full"),
        (
            hyperpelt.Generator(broken, options={"sizes": [1, 2]}),
            "unhashable type: 'list': write the lists .* as tuples",
        ),
        (hyperpelt.Generator(lambda split: [3]), "row 0: the row is 3, expected a mapping of column names to values"),
    ],
)
def test_a_source_that_fails_is_not_said_to_fail_in_rendering(source: hyperpelt.Generator, message: str) -> None:
    with pytest.raises(UserError, match=message) as error:
        list(replace(make_task(ROWS), source=source).examples("train"))
    assert "rendering" not in str(error.value)


class Failing(list[dict]):
    """Rows of a stranger's source that are read when they are asked for."""

    def __getitem__(self, place: object) -> dict:
        raise ValueError("the disk is full")

    def __iter__(self) -> Iterator[dict]:
        yield from self[:]


def test_rows_that_cannot_be_read_later_on_say_whose_they_are() -> None:
    class Mine(hyperpelt.Generator):
        def read(self, split: str, data_root: object) -> Failing:
            return Failing(ROWS)

    examples = replace(make_task(ROWS), source=Mine(broken)).examples("train")
    for ask in (lambda: examples[0], lambda: list(examples)):
        with pytest.raises(UserError, match="split train: reading the rows failed with ValueError: the disk is full"):
            ask()


def test_an_open_answer_may_be_a_number_and_is_written_as_one() -> None:
    task = make_task(ROWS, kind="generation", choices=None, metrics=("squad_f1",))
    for given, written in ((1, "1"), (0.1, "0.1"), (1234567.0, "1234567"), ((2, "two"), "2")):
        assert task.example({"text": "a", "label": given}).target == written
    for given in (True, {"text": "a"}, ("a", None)):
        with pytest.raises(UserError, match="expected a target text or a tuple of accepted answers, got"):
            task.example({"text": "a", "label": given})


def test_a_null_text_is_refused_by_its_column() -> None:
    row = {"sentence1": None, "sentence2": "b", "label": 0}
    with pytest.raises(
        UserError, match=r"Task glue/rte, split train, row 7: column 'sentence1' is null, expected a text"
    ):
        tasks.get("glue/rte").example(row, split="train", number=7)
    unanswered = tasks.get("glue/rte").example({"sentence1": "a", "sentence2": "b"}, answered=False)
    assert unanswered.input == "sentence1: a sentence2: b"


def test_rows_to_predict_on_need_no_answer() -> None:
    example = make_task(ROWS).example({"text": "a"}, answered=False)
    assert example == Example(input="text: a", choices=("no", "yes"))


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"name": "Glue/RTE"}, "lower-case letters"),
        ({"kind": "ranking"}, "classification, regression, generation"),
        ({"choices": ("yes", "yes")}, "two or more different choices"),
        ({"choices": ("yes", " ")}, "non-empty strings"),
        ({"metrics": ()}, "at least one metric"),
        ({"modalities": ("audio",)}, "text, image"),
        ({"render": "premise: {premise}"}, "function of a row"),
        ({"splits": "halved"}, "expected splits to be a Splits"),
    ],
)
def test_a_definition_that_cannot_be_right_is_refused_with_its_place(fields: dict, message: str) -> None:
    with pytest.raises(UserError, match=message) as error:
        make_task(ROWS, **fields)
    assert "task_support.py" in str(error.value)


def test_limit_is_a_fixed_sample_of_the_whole_split_and_never_of_its_head() -> None:
    rows = [{"text": str(n), "label": int(n >= 500)} for n in range(1000)]  # sorted by label, as files often are
    task = make_task(rows)
    sample = task.examples("test", limit=100)
    assert len(sample) == 100
    assert list(sample) == list(task.examples("test", limit=100))
    assert 30 < sum(example.label for example in sample) < 70
    assert len(task.examples("test", limit=5000)) == 1000
    with pytest.raises(UserError, match="limit of at least 1"):
        task.examples("test", limit=0)


def test_limit_keeps_rows_that_belong_together() -> None:
    rows = [{"text": str(n), "label": 0, "question": n // 5} for n in range(100)]
    task = make_task(rows, splits=hyperpelt.Splits(by="question"))
    numbers = task.examples("test", limit=20).numbers
    assert len(numbers) == 20
    assert len({n // 5 for n in numbers}) == 4


def test_examples_slice_index_and_name_their_rows() -> None:
    examples = make_task(ROWS).examples("train")
    assert [example.input for example in examples[3:5]] == ["text: row 3", "text: row 4"]
    assert examples[3:5].name_of(0) == "test/task train row 3"
    assert examples[-1].input == "text: row 19"
    backwards = [f"text: row {n}" for n in range(19, -1, -1)]
    assert [example.input for example in examples[::-1]] == backwards
    assert [examples[::-1][n].input for n in range(20)] == backwards
    assert list(examples[::-1][::-1]) == list(examples)


def test_rows_are_read_once_a_process() -> None:
    rows = Rows(train=ROWS, validation=ROWS, test=ROWS)
    task = make_task(rows, splits=hyperpelt.Splits.held_out(5, test=None))
    for _ in range(3):
        task.examples("train")
        task.examples("validation")
    assert rows.calls == ["train"]


def test_empty_split_is_named() -> None:
    task = make_task(Rows(train=ROWS, validation=[], test=ROWS))
    with pytest.raises(UserError, match="Task test/task, split validation: the split is empty"):
        task.rows("validation")


def test_unknown_split_names_the_nearest() -> None:
    with pytest.raises(UserError, match="Did you mean 'validation'"):
        make_task(ROWS).examples("validaton")


# --------------------------------------------------------------------------------------------------------- fingerprint


def helper(text: str) -> str:
    return text.upper()


PREFIX = "text"


def with_helper(row: dict) -> Example:
    return Example(input=f"{PREFIX}: {helper(row['text'])}", label=row["label"])


def test_fingerprint_changes_with_what_matters_only(monkeypatch: pytest.MonkeyPatch) -> None:
    first = make_task(ROWS).fingerprint()
    assert first == make_task(ROWS, origin="elsewhere.py:1").fingerprint()
    changes = [
        {"choices": ("yes", "no")},
        {"metrics": ("matthews",)},
        {"splits": hyperpelt.Splits(seed=43)},
        {"render": with_helper},
        {"description": "Is it not so?"},
    ]
    found = [make_task(ROWS, **change).fingerprint() for change in changes]
    assert len({first, *found}) == len(changes) + 1
    monkeypatch.setitem(globals(), "PREFIX", "words")  # a constant the function mentions
    after_constant = make_task(ROWS, render=with_helper).fingerprint()
    monkeypatch.setitem(globals(), "helper", render)  # another function under the same name
    after_helper = make_task(ROWS, render=with_helper).fingerprint()
    assert len({found[3], after_constant, after_helper}) == 3


PLUGIN = """
import dataclasses
import re
from functools import cache

import beside
from beside import shout


@dataclasses.dataclass(frozen=True)
class Style:
    mark: str


STYLE, SPACES = Style("{mark}"), re.compile("{pattern}")


@cache
def kept(text):
    return "{kept}" + text


def render(row):
    return SPACES.sub(STYLE.mark, kept(beside.whisper(shout(row["text"]))))
"""


def test_fingerprint_follows_what_a_plugin_is_made_of(tmp_path: Path) -> None:
    def made(mark="-", pattern=" +", kept="k", shout="text.upper()", whisper="text"):
        (tmp_path / "beside.py").write_text(
            f"def shout(text):\n    return {shout}\ndef whisper(text):\n    return {whisper}\n"
        )
        (tmp_path / "plugin.py").write_text(PLUGIN.format(mark=mark, pattern=pattern, kept=kept))
        code = "import plugin; from hyperpelt.tasks.fingerprint import fingerprint; print(fingerprint(plugin.render))"
        command = [sys.executable, "-B", "-c", code]
        return subprocess.run(command, capture_output=True, text=True, check=True, cwd=tmp_path).stdout

    changes = [{}, {"mark": "+"}, {"pattern": "x"}, {"kept": "K"}, {"shout": "text"}, {"whisper": "text + text"}]
    assert len({made(**change) for change in changes}) == len(changes)
    assert made() == made()


def test_fingerprint_is_the_same_in_another_process() -> None:
    code = "import hyperpelt.tasks as t; print(*(t.get(n).fingerprint() for n in t.names('glue/*')))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == [tasks.get(name).fingerprint() for name in tasks.names("glue/*")]


# ----------------------------------------------------------------------------------------------------- decorator, shots


def test_decorator_registers_and_knows_its_line() -> None:
    with own_registry():

        @hyperpelt.task(name="test/decorated", source=make_task(ROWS).source, choices=("no", "yes"))
        def decorated(row: dict) -> Example:
            return Example(input=row["text"], label=row["label"])

        assert tasks.get("test/decorated") is decorated
        file, line = decorated.origin.rsplit(":", 1)
        assert file == __file__
        with open(__file__, encoding="utf8") as source:
            assert '@hyperpelt.task(name="test/decorated"' in source.readlines()[int(line) - 1]


def test_shots_are_balanced_fixed_by_the_seed_and_never_more_than_there_are() -> None:
    rows = [{"text": str(n), "label": int(n >= 90)} for n in range(100)]
    task = make_task(rows)
    sample = tasks.sample_shots(task, 16, seed=1)
    assert sample == tasks.sample_shots(task, 16, seed=1)
    assert sample != tasks.sample_shots(task, 16, seed=2)
    assert sum(n >= 90 for n in sample) == 8
    assert sum(n >= 90 for n in tasks.sample_shots(task, 50, seed=1)) == 10  # all of the rare class, then the other
    assert sum(n >= 90 for n in tasks.sample_shots(task, 50, seed=1, balanced=False)) < 10
    assert len(set(tasks.sample_shots(task, 100, seed=1))) == 100
    with pytest.raises(UserError, match="split train: 101 shots asked for, but the split has 100 rows"):
        tasks.sample_shots(task, 101, seed=1)
