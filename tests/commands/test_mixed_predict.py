"""One model, several tasks: `predict` with a task a line, ids passed through, in order; `hyperpelt.predict`."""

from __future__ import annotations

import io
import json
import sys
from pathlib import Path
from types import SimpleNamespace

import pandas as pd
import pytest
from small_runs import forget_tasks, write_run
from transformers import PreTrainedTokenizerBase

import hyperpelt
from hyperpelt import TunedModel, UserError, cli, train
from hyperpelt.config import load_run
from hyperpelt.export import export_baked

LINES = [
    {"task": "toy/mood", "text": "a good sentence", "id": "first"},
    {"task": "toy/truth", "text": "not so bad", "idx": 2},
    {"task": "toy/truht", "text": "not so bad", "id": "third"},
    {"task": "toy/mood", "words": "no such column"},
    {"text": "of no task"},
    {"task": "toy/mood", "text": "the bad sentence is not true"},
]


@pytest.fixture
def run(tmp_path: Path, tiny_tokenizer: PreTrainedTokenizerBase):
    train(load_run(None, [*write_run(tmp_path, tiny_tokenizer), "max_steps=3", "test_limit=2"]), progress=False)
    yield tmp_path / "run"
    forget_tasks()


def test_lines_of_several_tasks_are_answered_in_their_order(run: Path, monkeypatch, capsys) -> None:
    text = "\n".join([*map(json.dumps, LINES), '{"task": "toy/mood", broken']) + "\n"
    monkeypatch.setattr(sys, "stdin", SimpleNamespace(buffer=io.BytesIO(text.encode()), isatty=lambda: False))
    assert cli.run(["predict", str(run)]) == 2
    out, err = capsys.readouterr()
    found = [json.loads(line) for line in out.splitlines()]
    assert [row["line"] for row in found] == list(range(1, 8))
    assert [row.get("id", row.get("idx")) for row in found[:3]] == ["first", 2, "third"]
    assert "Did you mean 'toy/truth'" in found[2]["error"]
    assert "expected column 'text'" in found[3]["error"]
    assert "names no task" in found[4]["error"]
    assert "JSON" in found[6]["error"]
    assert err.count("line ") >= 4
    model = TunedModel.from_pretrained(run)
    for row, line in ((0, LINES[0]), (1, LINES[1]), (5, LINES[5])):
        alone = hyperpelt.predict(model, [line], max_source_length=32)[0]
        assert found[row]["answer"] == alone["answer"]
        assert found[row]["probabilities"] == pytest.approx(alone["probabilities"], abs=1e-5)
        assert found[row]["task"] == line["task"]


def test_predict_in_python_takes_a_run_or_a_model(run: Path) -> None:
    found = hyperpelt.predict(run, LINES)
    assert ["error" in row for row in found] == [False, False, True, True, True, False]
    assert [row["task"] for row in found[:2]] == ["toy/mood", "toy/truth"]
    assert found[0]["id"] == "first"
    same = hyperpelt.predict(str(run), [{"text": "a good sentence"}], task="toy/mood", batch_size=1)
    assert same[0]["probabilities"] == pytest.approx(found[0]["probabilities"], abs=1e-5)
    assert hyperpelt.predict(run, []) == []
    assert hyperpelt.predict(run, ["a good sentence"], task="toy/mood")[0]["answer"] == same[0]["answer"]
    with pytest.raises(UserError, match="takes a list of rows, got a single dict"):
        hyperpelt.predict(run, LINES[0])
    with pytest.raises(UserError, match="found no"):
        hyperpelt.predict(run / "nowhere", LINES)


def test_rows_of_a_data_frame_are_its_rows(run: Path) -> None:
    """Whoever goes through a data frame gets the names of its columns, which are texts, too."""
    rows = [{"task": line["task"], "text": line["text"], "id": n} for n, line in enumerate(LINES[:2])]
    frame = pd.DataFrame(rows, index=[5, 3])
    assert hyperpelt.predict(run, frame) == hyperpelt.predict(run, rows)
    assert len(hyperpelt.predict(run, frame[["text"]], task="toy/mood")) == 2
    found = hyperpelt.predict(run, ["good", None, 3, pd.Series(["good"])], task="toy/mood")
    assert ["error" in row for row in found] == [False, True, True, True]
    assert found[1]["error"] == "expected a row's columns (a mapping) or a text, got a NoneType"


def test_a_table_names_a_task_a_row(run: Path, tmp_path: Path, capsys) -> None:
    table = tmp_path / "rows.csv"
    table.write_text("task,text,id\ntoy/mood,a good sentence,x\ntoy/truth,bad,y\n", encoding="utf8")
    assert cli.run(["predict", str(run), str(table)]) == 0
    found = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [(row["row"], row["id"], row["task"]) for row in found] == [(0, "x", "toy/mood"), (1, "y", "toy/truth")]
    table.write_text("text,id\na good sentence,x\n", encoding="utf8")
    assert cli.run(["predict", str(run), str(table)]) == 2
    assert "no 'task': name one task for all" in capsys.readouterr().err


def test_rows_of_a_run_of_one_task_need_not_name_it(run: Path, tmp_path: Path, monkeypatch, capsys) -> None:
    alone = export_baked(TunedModel.from_pretrained(run), "toy/mood", tmp_path / "alone")
    text = 'a good sentence\n{"text": "a good sentence", "id": 3}\n{"task": "toy/truth", "text": "good"}\n'
    monkeypatch.setattr(sys, "stdin", SimpleNamespace(buffer=io.BytesIO(text.encode()), isatty=lambda: False))
    assert cli.run(["predict", str(alone), "--plugin", str(tmp_path / "toy_plugin.py")]) == 2
    line, row, other = map(json.loads, capsys.readouterr().out.splitlines())
    assert line["answer"] == row["answer"] == hyperpelt.predict(alone, ["a good sentence"])[0]["answer"]
    assert "Unknown task 'toy/truth'" in other["error"]
    table = tmp_path / "rows.csv"
    table.write_text("text,id\na good sentence,x\n", encoding="utf8")
    assert cli.run(["predict", str(alone), str(table)]) == 0
    assert json.loads(capsys.readouterr().out)["task"] == "toy/mood"
