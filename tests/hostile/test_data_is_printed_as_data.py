"""Names, texts and paths are data: no markup in them is obeyed, and nothing that controls a terminal reaches it."""

from __future__ import annotations

import io
import json
import logging
import sys
import warnings
from pathlib import Path

import pytest
from rich.console import Console

from hyperpelt import cli
from hyperpelt.commands import common
from hyperpelt.errors import UserError, visible
from hyperpelt.evaluation.results import Results, TaskResult
from hyperpelt.evaluation.tables import made_of, show
from hyperpelt.report.transfer import NUMBERS, read_summary, sections
from hyperpelt.report.transfer_table import table as transfer_table
from hyperpelt.training.progress import Screen

MEAN = "runs/a[/b] \x1b[31mred\x1b]0;title\x07 \x9b2J\u202e"


def shown_by(thing: object) -> str:
    out = io.StringIO()
    Console(file=out, width=400, force_terminal=True).print(thing)
    return out.getvalue()


def check(text: str) -> None:
    assert "a[/b]" in text
    for sign in ("\x1b[31mred", "\x1b]0;", "\x07", "\x9b", "\u202e"):
        assert sign not in text
    assert "\\x1b" in text or "\\u001b" in text


def test_tables_of_commands(capsys: pytest.CaptureFixture[str]) -> None:
    check(shown_by(made_of([{"name": MEAN}], ["name"])))
    show(made_of([{"name": MEAN}], ["name"]))
    check(capsys.readouterr().out)


def test_tables_of_results_and_transfers() -> None:
    result = TaskResult(kind="classification", rows=1, metrics={MEAN: 1.0})
    for title, name in ((MEAN, "t"), ("title", MEAN)):
        check(shown_by(Results(tasks={name: result}, model={"method": MEAN}).table(title=title)))
    row = dict.fromkeys(NUMBERS, 1) | {"task": MEAN, "label": MEAN, "adapt": "head", "start": ""}
    check(shown_by(transfer_table([row], title=MEAN)))


def test_notes_errors_and_json(capsys: pytest.CaptureFixture[str]) -> None:
    common.note(MEAN)
    check(capsys.readouterr().err)
    assert cli.run(["evaluate", MEAN]) == 2
    check(capsys.readouterr().err)
    common.print_json({"text": MEAN})
    text = capsys.readouterr().out
    check(text)
    assert json.loads(text) == {"text": MEAN}


def test_what_other_libraries_log_and_warn_of(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    logger, said = logging.getLogger("another.library"), list[str]()

    def work(*_: object, **__: object) -> None:
        logger.addHandler(handler := logging.StreamHandler(sys.stderr))
        try:
            logger.warning("a text of a row: %s", MEAN)
            check(capsys.readouterr().err)
            try:
                raise ValueError(MEAN)
            except ValueError:
                logger.exception("no text")
            check(capsys.readouterr().err)
        finally:
            logger.removeHandler(handler)
        said.append(warnings.formatwarning(MEAN, UserWarning, "x.py", 1, "line"))

    before = warnings.formatwarning
    monkeypatch.setattr("hyperpelt.report.write_report", work)
    assert cli.run(["report", "."]) == 0
    check(said[0])
    assert warnings.formatwarning is before
    assert logging.getLogRecordFactory() is logging.LogRecord


def test_tracebacks(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.run(["evaluate", MEAN, "--debug"]) == 2
    check(text := capsys.readouterr().err)
    assert "Traceback" in text


def test_the_screen_of_training(capsys: pytest.CaptureFixture[str]) -> None:
    screen = Screen(total=2, start=0, show=True)
    screen.say(MEAN)
    screen.losses[MEAN] = 1.0
    check(capsys.readouterr().err)
    check(shown_by(screen._picture()))


def test_what_is_shown_can_be_told_from_what_is_not() -> None:
    assert visible("a\tb\nc \x1b \ud800") == "a\tb\nc \\x1b \\ud800"


def test_numbers_of_an_edited_summary_are_no_html(tmp_path: Path) -> None:
    row = dict.fromkeys(NUMBERS, 1) | {"task": "t", "label": "head", "adapt": "head", "start": ""}
    how = {"split": "test", "seeds": "<script>", "steps": "<script>", "batch_size": 1, "loss": "lm", "choose": "last"}
    content = {"summary": [row], "notes": ["<script>"], "settings": how}
    (tmp_path / "summary.json").write_text(json.dumps(content), encoding="utf8")
    assert "<script>" not in "".join(sections(tmp_path))
    content["summary"] = [row | {"n": "<script>"}]
    (tmp_path / "summary.json").write_text(json.dumps(content), encoding="utf8")
    with pytest.raises(UserError, match="n is '<script>', expected a number"):
        read_summary(tmp_path)
