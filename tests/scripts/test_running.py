"""Scripts with commands end as `hyperpelt` does: one line, and a status that says whose it was."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import typer

from hyperpelt.errors import UserError

SCRIPTS = Path(__file__).parents[2] / "scripts"


def _interrupt(number: int = 0) -> None:
    raise KeyboardInterrupt


def _refuse(number: int = 0) -> None:
    raise UserError("No such run.")


def _leave(number: int = 0) -> None:
    raise typer.Exit(3)


def _work(number: int = 0) -> None:
    print("done")


@pytest.mark.parametrize(
    ("command", "arguments", "status", "told"),
    [
        (_interrupt, [], 130, "soak: interrupted."),
        (_refuse, [], 2, "soak: No such run."),
        (_leave, [], 3, ""),
        (_work, [], 0, ""),
        (_work, ["--number", "x"], 2, "soak: Invalid value for '--number': "),
        (_work, ["--other"], 2, "soak: No such option: --other"),
    ],
)
def test_a_script_ends_with_one_line_and_a_status(monkeypatch, capsys, command, arguments, status, told):
    monkeypatch.syspath_prepend(SCRIPTS)
    app = typer.Typer(pretty_exceptions_enable=False)
    app.command()(command)
    monkeypatch.setitem(sys.modules, "commands_of_a_script", SimpleNamespace(app=app))
    monkeypatch.setattr(sys, "argv", ["scripts/soak", *arguments])
    with pytest.raises(SystemExit) as ended:
        importlib.import_module("running").run("soak", "commands_of_a_script")
    assert (ended.value.code or 0) == status
    said = capsys.readouterr().err.strip()
    assert said.startswith(told) if told else not said, said
    assert len(said.splitlines()) <= 1
