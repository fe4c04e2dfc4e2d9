"""Rows to predict on: lines through the very rendering of training, tables with their columns, answers kept paired."""

from __future__ import annotations

import io
import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from hyperpelt import Example, Generator, Task, UserError
from hyperpelt.commands.predict import _read, text_column
from hyperpelt.tasks.asked import read_asked, read_mixed
from hyperpelt.tasks.lines import columns_read
from hyperpelt.tasks.template import Template

ROWS = Generator(lambda split: [{"text": "A fine film", "label": 1}] * 4)


def task_of(render: Any, **fields: Any) -> Task:
    return Task(name="my/task", source=ROWS, render=render, choices=("no", "yes"), **fields)


ONE_COLUMN = {
    "template": Template(input="say: {text} ok?", label="label"),
    "subscript": lambda row: Example(input=f"say: {row['text']} ok?", label=row["label"]),
    "fails on the empty text": lambda row: Example(input=f"say: {row['text']} ok?" + row["text"].split()[0][:0]),
    "get": lambda row: Example(input=f"say: {row.get('text')} ok?", label=row.get("label")),
    "optional beside it": lambda row: Example(input=f"say: {row.get('title') or ''}{row['text']} ok?"),
    "in": lambda row: Example(input=f"say: {row['text']} ok?" + str("hint" in row)[:0]),
    "format_map": lambda row: Example(input="say: {text} ok?".format_map(row)),
    "reads the answer": lambda row: Example(input=f"say: {row['text']} ok?", label=row["label"]),
}


@pytest.mark.parametrize("way", ONE_COLUMN)
def test_a_line_is_rendered_as_training_renders(way: str) -> None:
    task = task_of(ONE_COLUMN[way])
    row = _read((1, b"A fine film\n"), task, False)
    assert row.example is not None, row.error
    assert row.example.input == "say: A fine film ok?"
    assert text_column(task) in ("text", None)


def test_a_line_may_be_a_number() -> None:
    task = task_of(lambda row: Example(input=f"number: {int(row['n']) + 1}", label=row["label"]))
    assert _read((1, b"3"), task, False).example.input == "number: 4"
    assert "invalid literal" in _read((1, b"three"), task, False).error


@pytest.mark.parametrize(
    ("render", "columns"),
    [
        (Template(input="{premise} {hypothesis}", label="label"), "'premise', 'hypothesis'"),
        (lambda row: Example(input=row["a"] + row["b"]), "'a', 'b'"),
        (lambda row: Example(input=str(dict(row))), "asks for no column by its name"),
        (Template(input="{question}", choices=("first", "second")), "'question', 'first', 'second'"),
    ],
)
def test_a_line_for_another_task_names_the_columns(render: Any, columns: str) -> None:
    row = _read((1, b"A fine film"), task_of(render), False)
    assert row.example is None
    assert columns in row.error
    assert "JSONL" in row.error


def lines(monkeypatch: pytest.MonkeyPatch, content: str, task: Task, **options: Any) -> list[Any]:
    stream = SimpleNamespace(buffer=io.BytesIO(content.encode()))
    monkeypatch.setattr("hyperpelt.tasks.asked.sys", SimpleNamespace(stdin=stream))
    return list(read_asked(task, **options))


def test_ids_and_numbers_pass_through(monkeypatch: pytest.MonkeyPatch) -> None:
    task = task_of(ONE_COLUMN["template"])
    found = lines(monkeypatch, '{"text": "a", "id": 7}\n\n{"txt": "b", "id": 8}\n"c"\n{"text": "d"}\n', task)
    assert [row.place for row in found] == [{"line": 1, "id": 7}, {"line": 3, "id": 8}, {"line": 4}, {"line": 5}]
    assert [bool(row.error) for row in found] == [False, True, True, False]
    found = lines(monkeypatch, "key,text\nk1,a\nk2,b\n", task, format="csv", id_column="key")
    assert [row.place for row in found] == [{"row": 0, "key": "k1"}, {"row": 1, "key": "k2"}]


def test_what_looks_like_a_table_or_a_list_is_not_answered_as_text(monkeypatch: pytest.MonkeyPatch) -> None:
    task = task_of(ONE_COLUMN["template"])
    for content, message in [
        ("text,label\na,1\n", "--format csv"),
        ("id\ttext\n1\ta\n", "--format tsv"),
        ('[\n {"text": "a"}\n]\n', "--format json"),
    ]:
        with pytest.raises(UserError, match=message):
            lines(monkeypatch, content, task)
    assert lines(monkeypatch, "text,label\n", task, format="lines")[0].example.input == "say: text,label ok?"
    assert lines(monkeypatch, "text, or so\n", task)[0].example.input == "say: text, or so ok?"
    assert lines(monkeypatch, "{braces}\n", task, format="lines")[0].example.input == "say: {braces} ok?"


def test_a_table_without_the_column_is_one_error(tmp_path: Path) -> None:
    (tmp_path / "rows.csv").write_text("txt,label\na,1\nb,0\n", encoding="utf8")
    with pytest.raises(UserError, match=r"has the columns 'txt', 'label'; my/task also reads 'text'"):
        list(read_asked(task_of(ONE_COLUMN["template"]), tmp_path / "rows.csv"))
    with pytest.raises(UserError, match="no such file"):
        list(read_asked(task_of(ONE_COLUMN["template"]), tmp_path / "absent.csv"))


@pytest.mark.parametrize("kind", ["jsonl", "json"])
def test_a_task_that_is_no_text_is_the_error_of_its_row_alone(tmp_path: Path, kind: str) -> None:
    rows = [{"task": ["my/text"], "text": "a"}, {"task": "my/text", "text": "b"}]
    text = json.dumps(rows) if kind == "json" else "\n".join(map(json.dumps, rows))
    (tmp_path / f"rows.{kind}").write_text(text, encoding="utf8")
    task = Task(
        name="my/text", source=Generator(lambda split: []), render=Template(input="{text}"), choices=("no", "yes")
    )
    bad, good = read_mixed({task.name: task}, tmp_path / f"rows.{kind}")
    assert "Unknown task" in bad.error
    assert good.example is not None


def test_a_blank_answer_is_none(tmp_path: Path) -> None:
    (tmp_path / "rows.csv").write_text("text,label\na,\n", encoding="utf8")
    render = Template(input="{text}", label="label", labels=(("0", "no"), ("1", "yes")))
    assert [row.error for row in read_asked(task_of(render), tmp_path / "rows.csv")] == [""]


def test_a_line_is_told_by_what_it_holds(monkeypatch: pytest.MonkeyPatch) -> None:
    cut, lacking = lines(monkeypatch, '{"text": "a"\n{"txt": "b"}\n', task_of(lambda row: Example(input=row["text"])))
    assert cut.error == "expected a JSON object: Expecting ',' delimiter at column 13"
    assert lacking.error.endswith("expected column 'text', the row has 'txt', did you mean 'txt'?")


def test_a_table_on_standard_input_is_called_so(monkeypatch: pytest.MonkeyPatch) -> None:
    task = task_of(ONE_COLUMN["template"])
    for content, told in (('text\n"a', "Could not read standard input: "), ("txt\na\n", "standard input has the")):
        with pytest.raises(UserError, match=told) as caught:
            lines(monkeypatch, content, task, format="csv")
        assert "stdin.csv" not in str(caught.value)


def test_a_row_shows_the_columns_that_are_read_of_it_whatever_they_hold() -> None:
    row = {"image": 7, "question": "which digit?", "id": 3, "label": 1, "hint": None}

    def render(row: Any) -> Example:
        return Example(input=f"{'#' * row['image']} {row['question']} {row.get('hint') or ''}", label=row["label"])

    assert columns_read(task_of(render), row) == ["image", "question", "hint"]
    assert columns_read(task_of(Template(input="{question}", label="label")), row) == ["question"]
