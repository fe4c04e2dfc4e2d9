"""What a row's label says is what the model is trained to write: text for text, through every file format, or refused.

Labels that can mean two things, choices of the row, missing answers, and dropped values.
"""

from __future__ import annotations

import csv
import json
import math
from collections.abc import Sequence
from decimal import Decimal
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from task_support import make_task

from hyperpelt import Example, Files, Generator, Splits, Stream, Task, UserError, check_task
from hyperpelt.tasks.labels import place_of
from hyperpelt.tasks.template import Template
from hyperpelt.tasks.values import ClassNumber, known_by, number_text, read_number, same_text
from hyperpelt.tasks.yaml import load_yaml

FORMATS = ("csv", "tsv", "jsonl", "json", "parquet", "classes", "python")


def write(folder: Path, kind: str, rows: Sequence[dict[str, Any]], names: Sequence[str] = ()) -> Any:
    """The rows as a source of that kind. classes: a parquet file whose labels are numbers of named classes."""
    import datasets

    path = folder / f"rows.{'parquet' if kind == 'classes' else kind}"
    if kind in ("csv", "tsv"):
        with path.open("w", newline="", encoding="utf8") as file:
            writer = csv.writer(file, delimiter="," if kind == "csv" else "\t")
            writer.writerows([list(rows[0]), *([shown(value) for value in row.values()] for row in rows)])
    elif kind == "jsonl":
        path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf8")
    elif kind == "json":
        path.write_text(json.dumps(list(rows)), encoding="utf8")
    elif kind == "parquet":
        datasets.Dataset.from_list(list(rows)).to_parquet(path)
    elif kind == "classes":
        features = datasets.Features(
            {"text": datasets.Value("string"), "label": datasets.ClassLabel(names=list(names))}
        )
        datasets.Dataset.from_list(list(rows), features=features).to_parquet(path)
    else:
        return Generator(lambda split: rows, ("train",))
    return Files({"train": str(path)})


def shown(value: Any) -> str:
    """A value as its author sees it in a file."""
    if isinstance(value, bool):
        return str(value).lower()
    return "" if value is None else str(value)


def task_of(source: Any, choices: Sequence[str] | None, **fields: Any) -> Task:
    def render(row: Any) -> Example:
        return Example(input=str(row["text"]), label=row["label"])

    fields = {"render": render, "splits": Splits(validation=None, test=None), **fields}
    return Task(name="my/labels", source=source, choices=None if choices is None else tuple(choices), **fields)


def targets(folder: Path, kind: str, labels: Sequence[Any], choices: Sequence[str], **options: Any) -> list[str]:
    rows = [{"text": f"t {number}", "label": label} for number, label in enumerate(labels)]
    return [row.target for row in task_of(write(folder, kind, rows, **options), choices).examples("train")]


# ------------------------------------------------------------------------------------------------ text before place


@pytest.mark.parametrize("kind", [kind for kind in FORMATS if kind != "classes"])
@pytest.mark.parametrize(
    ("choices", "labels", "written"),
    [
        (("true", "false"), (True, False, True), ("true", "false", "true")),
        (("False", "True"), (True, False), ("True", "False")),
        (("1", "2", "3", "4", "5"), (1, 5, 3), ("1", "5", "3")),
        (("1", "0"), (0, 1), ("0", "1")),
        (("-1", "0", "1"), (-1, 0, 1), ("-1", "0", "1")),
        (("no", "yes"), (0, 1, 1), ("no", "yes", "yes")),
        (("no", "yes"), ("yes", "no"), ("yes", "no")),
        (("0.5", "1.5"), (1.5, 0.5), ("1.5", "0.5")),
        (("10", "20", "30"), (2, 0), ("30", "10")),
    ],
)
def test_the_text_of_a_choice_wins_whatever_file_it_comes_from(
    tmp_path: Path, kind: str, choices: tuple[str, ...], labels: tuple[Any, ...], written: tuple[str, ...]
) -> None:
    assert targets(tmp_path, kind, labels, choices) == list(written)


@pytest.mark.parametrize("kind", [kind for kind in FORMATS if kind != "classes"])
@pytest.mark.parametrize(
    ("choices", "labels", "message"),
    [
        (("no", "yes"), (True, False), r"boolean true, which is not a choice|the answer 'true' is not a choice"),
        (("1", "2", "3"), (1, 0), r"label 0 is ambiguous: .* '1', but other indices are texts"),
        (("1", "2", "3"), (3, 4), r"unknown label 4: as text it is not a choice .*counted from 0 to 2"),
        (("bad", "fair", "good"), (1, 2, 3), r"unknown label 3: .* If labels count from 1, say so"),
        (("no", "yes"), (0, -1), r"unknown label -1: .* leave such rows out: Splits\(drop=\{column: -1\}\)"),
        (("no", "yes"), ("no", "Yes"), r"the answer 'Yes' is not a choice.* 'yes' differs in case or blanks"),
        (("no", "s\xed"), ("no", "si\u0301"), r"differs in how letters are put together \('si\\u0301'\): translate"),
        (("no", "yes"), ("no", "01"), r"is not a choice|unknown label|label is"),
        (("no", "yes"), (0.5, 1.0), r"is not a choice|the label is 0\.5"),
    ],
)
def test_a_label_that_is_no_choice_is_refused_and_no_advice_makes_it_worse(
    tmp_path: Path, kind: str, choices: tuple[str, ...], labels: tuple[Any, ...], message: str
) -> None:
    if kind in ("csv", "tsv") and labels == ("no", "01"):
        labels = ("01", "02")  # alone in their column, a reader may take them for numbers
        message += "|unknown label 2"
    with pytest.raises(UserError, match=rf"Task my/labels, split train, row \d( of [^:]*)?: .*({message})"):
        targets(tmp_path, kind, labels, choices)


@pytest.mark.parametrize(
    ("names", "choices", "labels", "written"),
    [
        (("pos", "neg"), ("neg", "pos"), (0, 1), ["pos", "neg"]),  # another order: the name says which
        (("entailment", "other"), ("yes", "no"), (0, 1), ["yes", "no"]),  # other words: the place
        (("x", "y"), ("1", "0"), (0, 1), ["1", "0"]),  # a class's number is no text
        (("5", "4", "3"), ("3", "4", "5"), (0, 2), ["5", "3"]),
    ],
)
def test_a_class_is_known_by_its_name(
    tmp_path: Path, names: tuple[str, ...], choices: tuple[str, ...], labels: tuple[int, ...], written: list[str]
) -> None:
    assert targets(tmp_path, "classes", labels, choices, names=names) == written


def test_a_class_whose_name_is_no_choice_is_refused_where_others_are(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"the answer 'neutral' \(class 2\) is not a choice"):
        targets(tmp_path, "classes", (0, 2), ("neg", "pos", "?"), names=("pos", "neg", "neutral"))
    with pytest.raises(UserError, match="unknown label -1"):
        targets(tmp_path, "classes", (0, -1), ("neg", "pos"), names=("pos", "neg"))


@pytest.mark.parametrize(
    ("label", "place"),
    [
        (np.int64(1), 1),
        (np.float32(1.0), 1),
        (np.bool_(True), None),
        (pd.NA, None),
        (math.nan, None),
        ("", None),
        (" ", None),
        (None, None),
        (1.0, 1),
        ("1", 1),
        ("1.0", 1),
        (np.str_("yes"), 1),
        (float("inf"), None),
        ("٣", None),
    ],
)
def test_labels_of_numpy_and_pandas_are_read_as_their_values(label: Any, place: int | None) -> None:
    if place is None:
        with pytest.raises(UserError):
            place_of(label, ("no", "yes"))
    else:
        assert place_of(label, ("no", "yes")) == place


def test_yaml_translates_truth_values_and_numbers_however_they_are_written(tmp_path: Path) -> None:
    for kind, labels in (("csv", (True, False)), ("jsonl", (True, False)), ("jsonl", ("True", "False"))):
        write(tmp_path, kind, [{"text": "t", "label": label} for label in labels])
        (tmp_path / "t.yaml").write_text(
            f"name: my/t\nsource: {{files: {{train: rows.{kind}}}}}\ninput: '{{text}}'\nchoices: [no, yes]\n"
            "labels: {true: yes, True: yes, false: no, False: no}\nsplits: {validation: null, test: null}\n"
        )
        (task,) = load_yaml(tmp_path / "t.yaml")
        assert [row.target for row in task.examples("train")] == ["yes", "no"]
    (tmp_path / "t.yaml").write_text(
        "name: my/t\nsource: {files: {train: rows.jsonl}}\ninput: '{text}'\nchoices: [no, yes]\nlabels: {a: Yes}\n"
    )
    with pytest.raises(UserError, match=r"t\.yaml:1: labels: 'a' is translated to 'Yes', which is no choice: no, yes"):
        load_yaml(tmp_path / "t.yaml")


def test_the_check_says_where_both_readings_are_possible() -> None:
    def found(choices: tuple[str, ...], labels: Sequence[Any]) -> list[str]:
        rows = [{"text": f"t {i}", "label": label} for i, label in enumerate(labels)]
        report = check_task(make_task(rows, choices=choices, splits=Splits(validation=None, test=None)))
        return [f.message for f in report.findings if f.level == "warning" and "two things" in f.message]

    assert "the label 0 is read as the choice '0', not as the choice at place 0, '1'" in found(("1", "0"), (0, 1, 1))[0]
    assert found(("1", "2", "3", "4", "5"), (1, 2, 4))  # all of them places, too
    assert not found(("1", "2", "3", "4", "5"), (1, 2, 5))  # 5 is no place, so none is meant
    assert not found(("0", "1"), (0, 1))
    assert not found(("no", "yes"), (0, 1))


def test_the_text_that_training_writes_is_what_the_row_says_or_the_row_is_refused(
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    texts = st.sampled_from(
        [
            "yes",
            "no",
            "Yes",
            "true",
            "false",
            "True",
            "0",
            "1",
            "2",
            "3",
            "-1",
            "1.0",
            "0.5",
            "10",
            "01",
            "1,000",
            "NA",
            "null",
            "none",
            " a",
            "a",
            "ä",
            "50%",
            "$5",
            "2020-01-02",
            "U.S.A.",
            "−2",
            "🙂",
            "a b",
            "nan",
        ]
    )
    numbers = st.integers(-1, 3)
    kinds = st.sampled_from([texts, numbers, st.booleans(), st.sampled_from([0.0, 1.0, 2.0, 0.5, 3.5])])
    folder = tmp_path_factory.mktemp("rows")

    @settings(max_examples=60, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
    @given(
        choices=st.lists(texts, min_size=2, max_size=4, unique=True),
        labels=kinds.flatmap(lambda kind: st.lists(kind, min_size=1, max_size=4)),
        kind=st.sampled_from(FORMATS),
    )
    def holds(choices: list[str], labels: list[Any], kind: str) -> None:
        names: list[str] = []
        if kind == "classes":  # the same texts, as classes in an order of their own
            names = sorted({shown(label) for label in labels} | {"other"})
            stored = [names.index(shown(label)) for label in labels]
        else:
            stored = labels
        rows = [{"text": "t", "label": label} for label in stored]
        try:
            made = list(task_of(write(folder, kind, rows, names), choices).examples("train"))
        except UserError as problem:  # refused, and it is said where
            assert "my/labels, split train, row" in str(problem)  # noqa: PT017  (either may happen)
            return
        for label, row in zip(labels, made, strict=True):
            assert row.choices[row.label] == row.target
            check_meaning(label, row.target, choices, names)

    holds()


def check_meaning(label: Any, target: str, choices: Sequence[str], names: Sequence[str]) -> None:
    """The target is what the label says: its text; or its place, where that can be no text."""
    said = shown(label)
    if target in (said, str(label)) or (said.lower() in ("true", "false") and target.lower() == said.lower()):
        return
    if names:
        assert not set(names) & set(choices), "a class's number counts only where no name is a choice"
        assert target == choices[sorted(names).index(said)]
        return
    number = float(said)  # a place is a whole number
    assert not isinstance(label, bool)
    assert number.is_integer()
    if target in (str(int(number)), f"{int(number)}.0"):  # 1 and 1.0 are one
        return
    assert said not in choices
    assert target == choices[int(number)]
    for place in range(len(choices)):
        assert str(place) not in choices or choices[place] == str(place), "a number that could mean two choices"


# ------------------------------------------------------------------------------------------------- choices of the row

OPTIONS = (
    "name: my/q\nsource: {{files: {{train: rows.{}}}}}\ninput: '{{q}}'\nsplits: {{validation: null, test: null}}\n"
)


def quiz(folder: Path, kind: str, rows: Sequence[dict[str, Any]], more: str) -> list[Example]:
    write(folder, kind, rows)
    (folder / "q.yaml").write_text(OPTIONS.format(kind) + more, encoding="utf8")
    (task,) = load_yaml(folder / "q.yaml")
    return list(task.examples("train"))


@pytest.mark.parametrize("kind", ["csv", "jsonl", "parquet"])
@pytest.mark.parametrize("empty", [None, "", "  "])
def test_an_empty_option_is_no_candidate_and_keeps_its_place(tmp_path: Path, kind: str, empty: str | None) -> None:
    rows = [
        {"q": "barks?", "a": "cat", "b": empty, "c": "dog", "label": 2},
        {"q": "mews?", "a": "cat", "b": "cow", "c": "dog", "label": 0},
    ]
    made = quiz(tmp_path, kind, rows, "choices: {columns: [a, b, c]}\n")
    assert [(row.choices, row.label, row.target) for row in made] == [
        (("cat", "dog"), 1, "dog"),
        (("cat", "cow", "dog"), 0, "cat"),
    ]
    rows[0]["label"] = 1
    with pytest.raises(UserError, match=r"row 0 of rows\..*: the label 1 is the index of an empty choice"):
        quiz(tmp_path, kind, rows, "choices: {columns: [a, b, c]}\n")
    rows[0] |= {"a": empty, "c": empty}
    with pytest.raises(UserError, match=r"row 0 of rows\..*: columns a, b, c: all of them are empty"):
        quiz(tmp_path, kind, rows, "choices: {columns: [a, b, c]}\n")


def test_null_options_in_lists_and_in_python_are_no_candidates(tmp_path: Path) -> None:
    rows = [{"q": "?", "options": ["cat", None, "dog", ""], "label": 2}]
    for kind in ("jsonl", "parquet"):
        assert quiz(tmp_path, kind, rows, "choices: {column: options}\n")[0].choices == ("cat", "dog")
    task = make_task(
        [{"text": "?", "label": "dog"}],
        choices=None,
        render=lambda row: Example(input=row["text"], choices=("cat", None, "dog"), label=row["label"]),
    )
    assert task.examples("train")[0].label == 1
    assert task.example({"text": "?"}, answered=False).choices == ("cat", "dog")


@pytest.mark.parametrize("value", ["['cat', 'dog']", '["cat", "dog"]', "cat", {"text": ["cat"]}, 3])
def test_a_text_where_a_list_of_options_belongs_is_an_error(tmp_path: Path, value: Any) -> None:
    with pytest.raises(
        UserError, match=r"row 0 of .*: column 'options': expected a list of texts, .*CSV holds no lists"
    ):
        quiz(tmp_path, "jsonl", [{"q": "?", "options": value, "label": 0}], "choices: {column: options}\n")
    task = make_task(
        [{"text": "?", "label": 0}],
        choices=None,
        render=lambda row: Example(input="?", choices=value, label=0),
    )
    with pytest.raises(UserError, match="the row's choices: expected a list of texts"):
        task.examples("train")[0]


def test_options_that_are_numbers_are_written_as_they_stand(tmp_path: Path) -> None:
    rows = [{"q": "2 + 2?", "a": 3, "b": 4, "label": 4}, {"q": "1 / 2?", "a": 1, "b": 2, "label": 1}]
    made = quiz(tmp_path, "jsonl", rows, "choices: {columns: [a, b]}\n")
    assert [row.target for row in made] == ["4", "1"]  # the text wins
    rows = [{"q": "?", "options": ["3", "0", "1"], "label": 0}]
    assert quiz(tmp_path, "jsonl", rows, "choices: {column: options}\nlabels: place\n")[0].target == "3"
    with pytest.raises(UserError, match="the label is 3, expected the index of a choice, 0 to 2"):
        quiz(tmp_path, "jsonl", [{**rows[0], "label": 3}], "choices: {column: options}\nlabels: place\n")


def test_equal_options_are_one_answer() -> None:
    task = make_task(
        [{"text": "?", "label": 2}],
        choices=None,
        render=lambda row: Example(input="?", choices=("a", "b", "a"), label=row["label"]),
    )
    row = task.examples("train")[0]
    assert (row.target, row.label) == ("a", 0)  # scored as the first of its equals is


def test_fixed_choices_in_yaml_hold_no_null_and_no_list(tmp_path: Path) -> None:
    for content, got in (("[null, x]", "None"), ("[[a, b], c]", r"\['a', 'b'\]")):
        (tmp_path / "t.yaml").write_text(
            f"name: my/t\nsource: {{files: {{train: a.csv}}}}\ninput: x\nchoices: {content}\n"
        )
        with pytest.raises(UserError, match=f"choices: expected texts, got {got}"):
            load_yaml(tmp_path / "t.yaml")


# --------------------------------------------------------------------------------------- rows without an answer, drop


@pytest.mark.parametrize("drop", ["null", '""', "nan", "NaN"])
@pytest.mark.parametrize(
    ("kind", "labels"),
    [
        ("csv", (0, None, 1)),
        ("tsv", (0, None, 1)),
        ("jsonl", (0, None, 1)),
        ("parquet", (0.0, math.nan, 1.0)),
        ("parquet", (0, None, 1)),
        ("jsonl", ("0", "", "1")),
    ],
)
def test_rows_without_a_label_are_dropped_however_they_are_empty(
    tmp_path: Path, kind: str, labels: tuple[Any, ...], drop: str
) -> None:
    write(tmp_path, kind, [{"text": f"t {i}", "label": label} for i, label in enumerate(labels)])
    text = f"name: my/t\nsource: {{files: {{train: rows.{kind}}}}}\ninput: '{{text}}'\nchoices: [no, yes]\n"
    (tmp_path / "t.yaml").write_text(text + "splits: {validation: null, test: null}\n")
    (task,) = load_yaml(tmp_path / "t.yaml")
    with pytest.raises(UserError, match=r"row 1 of .*: the row has no answer .* leave such rows out: Splits\(drop="):
        list(task.examples("train"))
    (tmp_path / "t.yaml").write_text(text + f"splits: {{validation: null, test: null, drop: {{label: {drop}}}}}\n")
    (task,) = load_yaml(tmp_path / "t.yaml")
    assert [(row.input, row.target) for row in task.examples("train")] == [("t 0", "no"), ("t 2", "yes")]


@pytest.mark.parametrize(("kind", "drop"), [("csv", -1), ("jsonl", "-1"), ("parquet", -1.0), ("python", -1)])
def test_a_dropped_value_is_compared_as_text(tmp_path: Path, kind: str, drop: Any) -> None:
    rows = [{"text": f"t {i}", "label": label} for i, label in enumerate((0, -1, 1))]
    source = write(tmp_path, kind, rows)
    task = task_of(source, ("no", "yes"), splits=Splits(validation=None, test=None, drop={"label": drop}))
    assert [row.target for row in task.examples("train")] == ["no", "yes"]


@pytest.mark.parametrize("kind", ["csv", "jsonl", "parquet"])
@pytest.mark.parametrize("texts", [False, True])
def test_a_truth_value_is_one_in_every_case_of_its_letters(tmp_path: Path, kind: str, texts: bool) -> None:
    """In what is dropped and translated as in what is chosen; pandas writes True into a CSV file."""
    rows = [{"text": f"t {i}", "spam": value, "label": not value} for i, value in enumerate((True, False, True, False))]
    write(tmp_path, kind, [{key: str(value) for key, value in row.items()} for row in rows] if texts else rows)
    (tmp_path / "t.yaml").write_text(
        f"name: my/t\nsource: {{files: {{train: rows.{kind}}}}}\ninput: '{{text}}'\nchoices: [no, yes]\nlabel: label\n"
        "labels: {true: yes, false: no}\nsplits: {validation: null, test: null, drop: {spam: true}}\n"
    )
    (task,) = load_yaml(tmp_path / "t.yaml")
    assert [(row.input, row.target) for row in task.examples("train")] == [("t 1", "yes"), ("t 3", "yes")]
    source = Files({"train": tmp_path / f"rows.{kind}"})
    task = task_of(source, ("False", "True"), splits=Splits(validation=None, test=None, drop={"spam": False}))
    assert [(row.input, row.target) for row in task.examples("train")] == [("t 0", "False"), ("t 2", "False")]


def test_a_split_that_drop_empties_says_what_to_write(tmp_path: Path) -> None:
    rows = [{"text": "t", "label": -1}]
    task = make_task(rows, splits=Splits(drop={"label": -1}))
    with pytest.raises(
        UserError, match=r"split test: the split is empty .*drop \(label: -1\).*`splits: \{test: null\}`"
    ):
        task.examples("test")


def test_an_unanswerable_question_has_an_empty_list_of_answers(tmp_path: Path) -> None:
    rows = [
        {"q": "who?", "answers": {"text": ["cat", "a cat"], "start": [1, 2]}},
        {"q": "why?", "answers": {"text": [], "start": []}},
    ]
    for answer in ("", "answer: answers\n"):
        made = quiz(tmp_path, "jsonl", rows, f"kind: generation\nlabel: answers.text\n{answer}")
        assert [(row.target, row.label) for row in made] == [("cat", ("cat", "a cat")), ("", ("",))]
        (task,) = load_yaml(tmp_path / "q.yaml")
        assert task.example({"q": "when?"}, answered=False).input == "when?"
    task = make_task([{"text": "t", "label": ()}], kind="generation", choices=None, metrics=("squad_f1",))
    assert task.examples("train")[0].target == ""
    for nothing in (None, "", math.nan):
        with pytest.raises(UserError, match="an empty list says that there is none to give"):
            task.example({"text": "t", "label": nothing})


# -------------------------------------------------------------------------------------------------- values as written


@pytest.mark.parametrize(
    ("text", "number"),
    [
        ("0. 5", 0.5),
        ("- 1. 5", -1.5),
        ("1, 000", 1000.0),
        ("\u2212 2", -2.0),
        ("3 . 50", 3.5),
        (" 7 ", 7.0),
        ("1e3", 1000.0),
    ]
    + [(text, None) for text in ("", "50%", "$5", "1,00", "one", "1.2.3", "nan", "inf", "2020-01-02", "1_000", "--1")],
)
def test_numbers_are_read_whatever_blanks_stand_in_them(text: str, number: float | None) -> None:
    assert read_number(text) == number


def test_numbers_are_written_so_that_they_read_back() -> None:
    for value, text in ((3, "3"), (3.0, "3"), (1234567.0, "1234567"), (0.1, "0.1"), (-2.5, "-2.5"), (1e20, "1e+20")):
        assert number_text(value) == text
    assert number_text(float(np.float32(0.1))) == "0.1"
    values = st.floats(allow_nan=False, allow_infinity=False) | st.floats(
        width=32, allow_nan=False, allow_infinity=False
    )

    @settings(max_examples=200, deadline=None, derandomize=True)
    @given(values)
    def reads_back(value: float) -> None:
        read = float(number_text(value))
        with np.errstate(over="ignore"):
            assert read == value or float(np.float32(read)) == value

    reads_back()


def test_the_target_of_a_number_is_the_text_of_its_row() -> None:
    task = make_task([{"text": "t", "label": 0}], kind="regression", choices=None, metrics=("pearson",))
    for given_label, written in (
        (1234567, "1234567"),
        ("3.50", "3.50"),
        (0.5, "0.5"),
        (-2, "-2"),
        (np.float32(0.1), "0.1"),
    ):
        assert task.example({"text": "t", "label": given_label}).target == written
    for wrong in (True, "1,000", "$5", "50%", "1_000", "", None):
        with pytest.raises(UserError):
            task.example({"text": "t", "label": wrong})
    with pytest.raises(UserError, match="expected the choices of a regression to be numbers, got 'low'"):
        make_task([], kind="regression", choices=("low", "1"), metrics=("pearson",))
    with pytest.raises(UserError, match="expected the choices of a regression to be numbers, got '1,000'"):
        make_task([], kind="regression", choices=("0", "1,000"), metrics=("pearson",))


def test_what_was_written_alike_is_the_same() -> None:
    assert same_text(True, "true")
    assert same_text(1, "1")
    assert same_text(1.0, 1)
    assert same_text(None, math.nan)
    assert same_text("", pd.NA)
    assert not same_text(0, False)
    assert not same_text("a", "A")
    assert not same_text(0, None)
    assert known_by(ClassNumber(1, ("a", "b"))) == ("b",)
    assert known_by(np.int64(3)) == ("3",)


@pytest.mark.parametrize("streamed", [False, True])
def test_files_that_number_their_classes_differently_are_read_each_by_its_own(tmp_path: Path, streamed: bool) -> None:
    import datasets

    for number, names in enumerate([("bad", "good"), ("good", "bad")]):
        features = datasets.Features(
            {"text": datasets.Value("string"), "label": datasets.ClassLabel(names=list(names))}
        )
        rows = {"text": [f"{name} {number}" for name in names], "label": [0, 1]}
        datasets.Dataset.from_dict(rows, features=features).to_parquet(tmp_path / f"rows{number}.parquet")
    files = Files({"train": "rows*.parquet"}, base=tmp_path)
    task = task_of(Stream(files, rows={"train": 4}) if streamed else files, ("good", "bad"))
    for examples in (task.examples("train"), task.examples("train").select([2, 3]), task.examples("train", limit=3)):
        assert [example.input.split()[0] for example in examples] == [example.target for example in examples]
    assert [task.examples("train")[place].target for place in range(4)] == ["bad", "good", "good", "bad"]
    if streamed:
        shards = task.shards("train")
        assert [task.examples("train").rendered(row, n).target for shard in shards for n, row in shard.read()] == [
            "bad", "good", "good", "bad",
        ]  # fmt: skip


def test_a_decimal_of_a_database_is_the_number_and_the_text_that_it_is(tmp_path: Path) -> None:
    assert known_by(Decimal("1.10")) == ("1.10", "1.1")
    assert known_by(Decimal(7)) == ("7", "7")
    table = pa.table({"text": ["a", "b"], "label": pa.array([Decimal(1), Decimal(0)], pa.decimal128(10, 0))})
    pq.write_table(table, tmp_path / "rows.parquet")
    source = Files({"train": "rows.parquet"}, base=tmp_path)
    assert [example.target for example in task_of(source, ("no", "yes")).examples("train")] == ["yes", "no"]
    for kind, metric in (("regression", "pearson"), ("generation", "squad_f1")):
        assert [e.target for e in task_of(source, None, kind=kind, metrics=(metric,)).examples("train")] == ["1", "0"]
    dropped = Splits(validation=None, test=None, drop={"label": 1})
    assert [row["text"] for row in task_of(source, ("no", "yes"), splits=dropped).rows("train")] == ["b"]


def test_a_number_of_32_bits_is_written_with_its_own_digits() -> None:
    row = {"x": float(np.float32(0.1)), "y": 2.0, "z": 0.1}
    assert Template(input="{x} {y} {z} {x:.3f}")(row).input == "0.1 2.0 0.1 0.100"
