"""Tasks declared in YAML: every key, words that stay words, and messages with file, line and the nearest key."""

from __future__ import annotations

from pathlib import Path

import datasets
import pytest
from task_support import own_registry

from hyperpelt import Files, Hub, Splits, Task, UserError, tasks
from hyperpelt.tasks import plugins
from hyperpelt.tasks.splits import Part
from hyperpelt.tasks.yaml import load_yaml

ROWS = "premise,hypothesis,label\nIt rains.,It is wet.,0\nIt rains.,It snows.,2\nIt rains.,It is May.,1\n"
BASE = """
name: my/nli
source: {files: {train: rows.csv}}
input: "premise: {premise} hypothesis: {hypothesis}"
"""
CHOICES = "choices: [yes, maybe, no]\n"


def load(folder: Path, text: str) -> Task:
    file = folder / "tasks.yaml"
    file.write_text(text, encoding="utf8")
    (folder / "rows.csv").write_text(ROWS, encoding="utf8")
    (entry,) = load_yaml(file)
    assert isinstance(entry, Task)
    return entry


def test_a_yaml_plugin_is_a_task_like_any_other(tmp_path: Path) -> None:
    load(tmp_path, BASE + CHOICES)
    with own_registry():
        assert tasks.load_plugin(tmp_path / "tasks.yaml") == ["my/nli"]
        task = tasks.get("my/nli")
        assert task.origin == f"{tmp_path / 'tasks.yaml'}:2"
        examples = list(task.examples("train"))
    assert [example.target for example in examples] == ["yes", "no", "maybe"]  # words, not YAML's booleans
    assert examples[0].input == "premise: It rains. hypothesis: It is wet."
    assert task.example({"premise": "a", "hypothesis": "b"}, answered=False).input == "premise: a hypothesis: b"
    assert (task.kind, task.metrics, task.answer) == ("classification", ("accuracy",), ("label",))


def test_choices_keep_their_spelling(tmp_path: Path) -> None:
    task = load(tmp_path, BASE + "choices: [on, Off, 1, 007, 1.50, 'true', 2024-01-01]\n")
    assert task.choices == ("on", "Off", "1", "007", "1.50", "true", "2024-01-01")


def test_labels_may_be_other_words_than_the_choices(tmp_path: Path) -> None:
    task = load(tmp_path, BASE + "choices: [yes, no]\nlabels: {0: yes, 1: no, 2: no}\n")
    assert [example.label for example in task.examples("train")] == [0, 1, 1]
    task = load(tmp_path, BASE + "choices: [yes, no]\nlabels: {0: yes, 1: no}\n")
    with pytest.raises(UserError, match=r"split train, row 1 of .*: unknown label '2', expected one of '0', '1'"):
        list(task.examples("train"))


def test_choices_from_the_datas_label_names(tmp_path: Path) -> None:
    folder = tmp_path / "some" / "set" / "default"
    folder.mkdir(parents=True)
    features = datasets.Features(
        {"text": datasets.Value("string"), "label": datasets.ClassLabel(names=["bad", "good"])}
    )
    rows = datasets.Dataset.from_dict({"text": ["a", "b"], "label": [1, 0]}, features=features)
    rows.to_parquet(folder / "train-00000-of-00001.parquet")
    file = tmp_path / "task.yaml"
    text = "name: my/set\nsource: {hub: some/set}\ninput: '{text}'\nchoices: {names_of: COLUMN}\n"
    text += "splits: {validation: , test: }\n"
    file.write_text(text.replace("COLUMN", "label"))
    (task,) = load_yaml(file, data_root=tmp_path)
    assert task.choices == ("bad", "good")
    assert [example.target for example in task.examples("train", data_root=tmp_path)] == ["good", "bad"]
    for column, message in [("lable", "Did you mean 'label'"), ("none", "Unknown column")]:
        file.write_text(text.replace("COLUMN", column))
        with pytest.raises(UserError, match=message):
            load_yaml(file, data_root=tmp_path)


def test_each_row_may_bring_its_own_choices(tmp_path: Path) -> None:
    task = load(
        tmp_path, BASE + "choices: {columns: [premise, hypothesis]}\nlabels: {0: It rains., 1: x, 2: It snows.}\n"
    )
    example = task.examples("train")[1]
    assert (example.choices, example.target) == (("It rains.", "It snows."), "It snows.")
    listed = load(tmp_path, BASE.replace("{premise} ", "") + "choices: {column: endings}\n")
    assert listed.example({"hypothesis": "x", "endings": ["a", "b"], "label": 1}).target == "b"


def test_open_answers_regression_groups_and_structs(tmp_path: Path) -> None:
    task = load(tmp_path, BASE + "target: '{answer.text} is {answer.score:.1f}'\ngroup: answer.id\n")
    example = task.example({"premise": "a", "hypothesis": "b", "answer": {"text": "it", "score": 0.25, "id": 7}})
    assert (task.kind, example.target, example.group) == ("generation", "it is 0.2", "7")
    with pytest.raises(UserError, match="expected column 'score', the row has 'text', 'id'"):
        task.example({"premise": "a", "hypothesis": "b", "answer": {"text": "it", "id": 7}})
    several = load(tmp_path, BASE + "kind: generation\nlabel: answers\n")
    assert several.example({"premise": "", "hypothesis": "b", "answers": ["x", "y"]}).label == ("x", "y")
    score = load(tmp_path, BASE + "kind: regression\nchoices: [0.0, 0.5, 1.0]\n")
    assert score.example({"premise": "", "hypothesis": "b", "label": 0.4}).target == "0.5"
    assert score.metrics == ("pearson", "spearman")


@pytest.mark.parametrize(
    ("text", "splits"),
    [
        ("splits: halved", Splits.halved()),
        ("splits: {halved: dev, train: all, by: premise}", Splits.halved("dev", train="all", by="premise")),
        ("splits: {held_out: 500, test: dev, seed: 1}", Splits.held_out(500, test="dev", seed=1)),
        ("splits: {fractions: train, test: 0.25}", Splits.fractions(test=0.25)),
        ("splits: {test: , drop: {label: -1}}", Splits(test=None, drop={"label": -1})),
        (
            "splits: {train: {split: all, start: 10}, validation: {split: all, stop: 10}, test: test}",
            Splits(train=Part("all", 10), validation=Part("all", 0, 10)),
        ),
    ],
)
def test_every_split_protocol_can_be_declared(tmp_path: Path, text: str, splits: Splits) -> None:
    assert load(tmp_path, f"{BASE}{CHOICES}{text}\n").splits == splits


def test_sources_and_texts(tmp_path: Path) -> None:
    text = "name: a/b\nsource: {hub: x/y, config: z}\ninput: '{{literal}} {t}'\nchoices: [a, b]\ndescription: d\n"
    task = load(tmp_path, text)
    assert task.source == Hub("x/y", "z")
    assert task.example({"t": 1, "label": 0}).input == "{literal} 1"
    assert load(tmp_path, BASE + CHOICES).source == Files({"train": "rows.csv"}, base=tmp_path)


def test_one_file_may_hold_several_tasks_and_mixtures(tmp_path: Path) -> None:
    file = tmp_path / "many.yaml"
    file.write_text(
        BASE
        + CHOICES
        + "---"
        + BASE.replace("my/nli", "my/other")
        + CHOICES
        + "---\nmixture: my\nrates: {my/*: 2, glue/rte: }\n"
    )
    one, other, mixture = load_yaml(file)
    assert (one.name, other.name, mixture.name, mixture.rates) == (
        "my/nli",
        "my/other",
        "my",
        {"my/*": 2, "glue/rte": None},
    )
    assert other.origin == f"{file}:7"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (BASE + "choces: [a, b]\n", r"tasks\.yaml:2: Unknown key 'choces'\. Did you mean 'choices'"),
        (BASE.replace("files", "flies") + CHOICES, "Unknown key of source 'flies'. Did you mean 'files'"),
        (BASE + CHOICES + "splits: {halve: x}\n", "Unknown key of splits 'halve'. Did you mean 'halved'"),
        (BASE + CHOICES + "splits: {held_out: many}\n", "splits.held_out: expected a number, got 'many'"),
        (BASE + CHOICES + "splits: {halved: , test: x}\n", "this protocol makes that split itself"),
        (BASE + CHOICES + "splits: {validation: train}\n", "share rows"),
        (BASE + CHOICES + "splits: {by: 3}\n", "by: expected a text or a list of texts, got 3"),
        (BASE + CHOICES + "description: [a]\n", "description: expected a text"),
        (BASE + CHOICES + "kind: ranking\n", "expected kind to be one of classification"),
        (BASE + "choices: {names: label}\n", "Unknown key of choices 'names'"),
        (BASE + "choices: [yes]\n", "two or more different choices"),
        (BASE.replace("name: my/nli", "") + CHOICES, "the key 'name' is missing"),
        (BASE.replace("{premise}", "{premise") + CHOICES, "is malformed"),
        (BASE.replace("{premise}", "{premise.__class__[0]}") + CHOICES, "needs a column's name in its braces"),
        (BASE + CHOICES + CHOICES, r"tasks\.yaml:6: not valid YAML: key 'choices' twice"),
        (BASE + "choices: [a, b\n", "not valid YAML"),
        ("just words\n", "expected the keys of a task, got 'just words'"),
        ("", "holds no task"),
        ("mixture: my\nrates: 3\n", "rates: expected a list of task names or a mapping"),
    ],
)
def test_what_is_wrong_with_a_file_is_one_sentence_with_its_place(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(UserError, match=message) as error:
        load(tmp_path, text)
    assert str(tmp_path / "tasks.yaml") in str(error.value)


def test_a_template_reads_columns_and_nothing_else(tmp_path: Path) -> None:
    task = load(tmp_path, BASE.replace("{premise}", "{premise.upper}") + CHOICES)
    with pytest.raises(UserError, match=r"'premise\.upper' needs a struct, but the column is 'a'"):
        task.example({"premise": "a", "hypothesis": "b", "label": 0})


def test_an_empty_column_is_no_word(tmp_path: Path) -> None:
    task = load(tmp_path, BASE + CHOICES)
    with pytest.raises(UserError, match=r"row 3.*column 'hypothesis' of the template .* is null"):
        task.example({"premise": "It rains.", "hypothesis": None, "label": 0}, split="train", number=3)


def test_a_missing_column_is_named_as_for_any_task(tmp_path: Path) -> None:
    task = load(tmp_path, BASE.replace("{premise}", "{premis}") + CHOICES)
    with pytest.raises(
        UserError,
        match=r"my/nli, split train, row 0 of rows\.csv: expected column 'premis'.*did you mean 'premise'",
    ):
        list(task.examples("train"))


def test_choices_from_the_values_of_a_csv_column(tmp_path: Path) -> None:
    (tmp_path / "rows.csv").write_text("text,mood\na,sad\nb,glad\nc,\nd,sad\n", encoding="utf8")
    text = """
name: my/mood
source: {files: {train: rows.csv}}
input: "{text}"
label: mood
choices: {names_of: mood}
splits: {train: train, validation: null, test: null}
"""
    (tmp_path / "task.yaml").write_text(text, encoding="utf8")
    (task,) = load_yaml(tmp_path / "task.yaml")
    assert isinstance(task, Task)
    assert task.choices == ("glad", "sad")
    (tmp_path / "rows.csv").write_text("text,mood\n" + "".join(f"a,m{n}\n" for n in range(101)), encoding="utf8")
    with pytest.raises(UserError, match="101 different values, where 2 to 100 texts are expected"):
        load_yaml(tmp_path / "task.yaml")


def test_one_bad_task_does_not_spoil_its_file(tmp_path: Path) -> None:
    (tmp_path / "rows.csv").write_text("premise,hypothesis,label\na,b,0\nc,d,1\n", encoding="utf8")
    good = BASE + "choices: [yes, no]\n"
    documents = [good.replace("my/nli", "good/one"), good.replace("my/nli", "bad/one").replace("choices", "choicse")]
    documents.append(good.replace("my/nli", "good/two"))
    (tmp_path / "mixed.yaml").write_text("---\n".join(documents), encoding="utf8")
    before = len(tasks.broken_plugins())
    try:
        assert tasks.load_plugin(tmp_path / "mixed.yaml") == ["good/one", "good/two"]
        assert [example.target for example in tasks.get("good/two").examples("train")] == ["yes", "no"]
        ((origin, why),) = tasks.broken_plugins()[before:]
        assert origin.startswith(f"{tmp_path / 'mixed.yaml'}:")
        assert "Did you mean 'choices'" in why
        with pytest.raises(UserError, match=r"Unknown task 'bad/one'.*Unknown key 'choicse'"):
            tasks.get("bad/one")
    finally:
        for name in ("good/one", "good/two"):
            tasks.remove(name)
        plugins._BROKEN.pop()
    (tmp_path / "all_bad.yaml").write_text(documents[1], encoding="utf8")
    with pytest.raises(UserError, match="Did you mean 'choices'"):
        tasks.load_plugin(tmp_path / "all_bad.yaml")
