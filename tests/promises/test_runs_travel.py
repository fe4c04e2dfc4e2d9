"""A run folder works where it is copied to, and what `export` writes answers as the run does (promise 15)."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import warm
from small_runs import METHOD, write_run

BESIDE = {
    "toy_words.py": "WORDS = 'good bad true false maybe yes no sentence the a'.split()\n",
    "toy_late.py": "def label(row): return row['label']\n",
    "task.yaml": (
        "name: yaml/claims\ndescription: Is it true?\nsource: {files: {train: claims.csv, test: claims.csv}}\n"
        'input: "claim: {claim}"\nchoices: [no, yes]\nsplits: {train: train, validation: null, test: null}\n'
    ),
    "claims.csv": "claim,label\n" + "".join(f"good {n},{n % 2}\n" for n in range(12)),
}


def hyperpelt(*arguments: object, stdin: str = "", status: int = 0, **environment: str) -> str:
    command = [warm.python(), "-m", "hyperpelt.cli", *map(str, arguments)]
    done = subprocess.run(
        command, input=stdin, capture_output=True, text=True, timeout=120, env=os.environ | environment, check=False
    )
    assert done.returncode == status, done.stderr
    return done.stderr if status else done.stdout


def tokenizer() -> Any:
    from conftest import tiny_tokenizer

    return tiny_tokenizer.__wrapped__()


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """A run on a backbone of its own, with plugins that import neighbours, and what is then left of it: a copy."""
    folder = tmp_path_factory.mktemp("here")
    settings = write_run(folder, tokenizer(), method=METHOD)
    plugin = folder / "toy_plugin.py"
    text = plugin.read_text(encoding="utf8")
    words = next(line for line in text.splitlines() if line.startswith("WORDS = "))
    text = text.replace(words, "from toy_words import WORDS")
    plugin.write_text(text.replace('label=row["label"]', "label=__import__('toy_late').label(row)", 1), encoding="utf8")
    for name, content in BESIDE.items():
        (folder / name).write_text(content, encoding="utf8")
    changed = [
        "tasks=toy/mood, yaml/claims", f"plugins={plugin}, {folder / 'task.yaml'}", "eval_split=train",
        "test_split=train", "test_limit=4", "scoring=character", "max_source_length=5", "max_steps=2",
    ]  # fmt: skip
    cache = {"HYPERPELT_CACHE": str(folder / "cache")}
    hyperpelt("train", *settings, *changed, **cache)
    run = folder / "run"
    answers = {task: ask(run, task) for task in ROWS}
    hyperpelt("export", run, "--task", "toy/mood", "--output", folder / "baked")
    elsewhere = tmp_path_factory.mktemp("elsewhere")
    for name in ("run", "baked", "t5"):
        shutil.copytree(folder / name, elsewhere / name)
    shutil.rmtree(folder)  # another machine
    return {"answers": answers, "folder": elsewhere, "before": folder}


ROWS = {
    "toy/mood": "".join(json.dumps({"text": "good bad maybe sentence the good " * n}) + "\n" for n in range(1, 6)),
    "yaml/claims": "good maybe\nbad\n",
}


def ask(run: Path, task: str, *options: object, **how: Any) -> str:
    return hyperpelt("predict", run, "--task", task, *options, stdin=ROWS[task], **how)


def test_a_copied_run_answers_as_it_did(made: dict[str, Any]) -> None:
    run, backbone = made["folder"] / "run", made["folder"] / "t5"
    for task, answers in made["answers"].items():
        assert ask(run, task, "--backbone", backbone) == answers
    assert "--backbone" in ask(run, "toy/mood", status=2), "and asks for what it cannot carry"


def test_an_export_answers_as_the_run_does(made: dict[str, Any]) -> None:
    """With the length rule and the lengths of the run, which are not those by default."""
    backbone = made["folder"] / "t5"
    assert ask(made["folder"] / "baked", "toy/mood", "--backbone", backbone) == made["answers"]["toy/mood"]


def test_a_plugin_that_is_named_replaces_the_one_that_is_carried(made: dict[str, Any], tmp_path: Path) -> None:
    run, backbone = made["folder"] / "run", made["folder"] / "t5"
    (copied,) = (run / "plugins").glob("*/toy_plugin.py")
    for name in ("toy_words.py", "toy_late.py"):
        shutil.copyfile(copied.parent / name, tmp_path / name)
    mended = copied.read_text(encoding="utf8").replace("mood: {", "other: {")
    (tmp_path / "toy_plugin.py").write_text(mended, encoding="utf8")
    mine = tmp_path / "toy_plugin.py"
    assert ask(run, "toy/mood", "--plugin", mine, "--backbone", backbone) != made["answers"]["toy/mood"]
    bare = tmp_path / "bare"
    shutil.copytree(run, bare, ignore=shutil.ignore_patterns("plugins"))
    said = ask(bare, "toy/mood", "--backbone", backbone, status=2)
    assert f"The plugin {made['before']}/toy_plugin.py of {bare} is not here" in said
    assert "--plugin FILE" in said
    mine.write_text(copied.read_text(encoding="utf8"), encoding="utf8")
    found = ask(bare, "toy/mood", "--plugin", mine, "--backbone", backbone)
    assert found == made["answers"]["toy/mood"]


def test_a_package_that_brought_a_task_is_named_where_it_is_absent(made: dict[str, Any], tmp_path: Path) -> None:
    run = Path(shutil.copytree(made["folder"] / "run", tmp_path / "run"))
    packages = {"toy/mood": "toy-tasks 1.2"}
    (run / "plugins" / "packages.json").write_text(json.dumps(packages), encoding="utf8")
    for plugin in (run / "plugins").glob("*/toy_plugin.py"):
        plugin.write_text("", encoding="utf8")
    said = ask(run, "toy/mood", "--backbone", made["folder"] / "t5", status=2)
    assert "came from the package toy-tasks 1.2, which is not here: pip install toy-tasks==1.2" in said
