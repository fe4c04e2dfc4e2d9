"""What pages and docstrings point at is there: headings, files, modules, tests, commands, flags, settings."""

from __future__ import annotations

import ast
import importlib
import re
import shlex
from pathlib import Path

import pytest
import typer
import yaml

from hyperpelt import cli
from hyperpelt.config import load_run

ROOT = Path(__file__).parents[2]
FOLDERS = ("docs", "hyperpelt/assets", "scripts/pretraining/cards")
PAGES = sorted([*ROOT.glob("*.md"), *(page for folder in FOLDERS for page in (ROOT / folder).rglob("*.md"))])
RUNS = sorted((ROOT / "scripts").glob("*.yaml"))
PLACES = r"(?:hyperpelt|tests|scripts|docs|tasks)/[\w./*-]+"
ROOT_COMMAND = typer.main.get_command(cli.app)
pages = pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))


def text(page: Path) -> str:
    return page.read_text(encoding="utf8")


def headings(page: Path) -> set[str]:
    """The anchors of a page, as GitHub makes them."""
    lines = re.sub(r"```.*?```", "", text(page), flags=re.DOTALL).splitlines()
    titles = [line.lstrip("#").strip().lower() for line in lines if line.startswith("#")]
    return {re.sub(r"[^\w\- ]", "", title).replace(" ", "-") for title in titles}


def commands(page: Path) -> list[list[str]]:
    """The words of every `hyperpelt VERB ...` of a page, or of a configuration's comments, after the name."""
    told = text(page)
    if page.suffix == ".yaml":
        told = "\n".join(line.lstrip("# ") for line in told.splitlines() if line.startswith("#"))
    found = re.findall(r"(?:^|`|\| |-m )(hyperpelt(?:\.cli)? [a-z][^`\n]*)", told.replace("\\\n", " "), re.MULTILINE)
    lines = [re.split(r" && | \| ", line.removesuffix("&&"))[0] for line in found]
    return [
        words for line in lines if (words := shlex.split(line, comments=True)[1:]) and words[0] in ROOT_COMMAND.commands
    ]


def named_objects(told: str) -> set[str]:
    """Modules and what is in them by their full names; `python -m hyperpelt.cli` among them."""
    return set(re.findall(r"\bhyperpelt(?:_tasks)?(?:\.(?!py\b|yaml\b)[A-Za-z]\w+)+", told))


def find(name: str) -> None:
    """Import what has this name, or raise."""
    value: object = importlib.import_module(name.split(".")[0])
    for part in name.split(".")[1:]:
        here = getattr(value, "__name__", "")
        value = getattr(value, part) if hasattr(value, part) else importlib.import_module(f"{here}.{part}")


@pages
def test_links_and_their_headings(page: Path) -> None:
    for link in re.findall(r"\]\(([^)]+)\)", text(page)):
        if link.startswith("http"):
            continue
        path, _, anchor = link.partition("#")
        target = (page.parent / path).resolve() if path else page
        assert target.exists(), link
        assert not anchor or anchor in headings(target), link


@pages
def test_files_modules_and_tests_by_name(page: Path) -> None:
    told = text(page)
    missing = [name for name in re.findall(rf"`({PLACES})", told) if not list(ROOT.glob(name.rstrip(".")))]
    assert not missing
    for file, words in re.findall(r"pytest (tests/\S+) -k (\w+)", told):
        assert re.search(rf"def test_\w*{words}", text(ROOT / file)), (file, words)
    if page.name == "CHANGELOG.md":  # it names what is gone
        return
    for name in named_objects(told):
        find(name)


def test_what_docstrings_of_the_library_name() -> None:
    for file in sorted((ROOT / "hyperpelt").rglob("*.py")):
        holders = (ast.Module, ast.ClassDef, ast.FunctionDef)
        told = [ast.get_docstring(one) or "" for one in ast.walk(ast.parse(text(file))) if isinstance(one, holders)]
        for name in named_objects("\n".join(told)):
            find(name)
        for path in re.findall(r"\b((?:docs|hyperpelt|scripts|tests)/[\w/.-]+\.(?:md|py|yaml))\b", "\n".join(told)):
            assert (ROOT / path).exists() or file.name == "skeleton.py", (
                file.name,
                path,
            )  # of the plugin that it writes


@pytest.mark.parametrize("page", [*PAGES, *RUNS], ids=lambda page: str(page.relative_to(ROOT)))
def test_commands_flags_and_settings(page: Path) -> None:
    for words in commands(page):
        command, rest = ROOT_COMMAND, list(words)
        while rest and rest[0] in getattr(command, "commands", {}):
            command = command.commands[rest.pop(0)]
        known = {option for parameter in command.params for option in (*parameter.opts, *parameter.secondary_opts)}
        if command.name != "lm-eval":  # whose command line is the harness's
            assert {word for word in rest if word.startswith("--")} <= {*known, "--help"}, words
        if command.name in ("train", "plan"):
            set_here = [word.partition("=")[::2] for word in rest if re.match(r"[a-z][\w./*]*=[^=]", word)]
            load_run(None, [("tasks", "x"), ("output_dir", "y"), *((key, yaml.safe_load(to)) for key, to in set_here)])


def test_there_is_something_to_hold_the_pages_to() -> None:
    found = [words for page in (*PAGES, *RUNS) for words in commands(page)]
    assert len(PAGES) > 30
    assert len(found) > 60
    assert {words[0] for words in found} >= {"train", "plan", "evaluate", "predict", "transfer", "tasks", "methods"}
