"""`hyperpelt tasks new`: a plugin package that works as it is written, to be changed line by line.

my-tasks/
  pyproject.toml            the entry point in the group hyperpelt.tasks, and the data as package data
  README.md                 install, check, train, test
  src/my_tasks/__init__.py  register()
  src/my_tasks/weather.py   one task: a source, a render function, choices
  src/my_tasks/data/*.jsonl 60 rows in three splits
  tests/test_tasks.py       loads the plugin and checks its task
"""

from __future__ import annotations

import json
import re
from pathlib import Path

from hyperpelt.errors import UserError

_NAME = re.compile(r"[a-z][a-z0-9]*([-_][a-z0-9]+)*")
_HOT = ("hot", "warm", "sunny", "dry")
_COLD = ("cold", "snowy", "frosty", "icy")
_PLACES = ("Rome", "Oslo", "Lima", "Cairo", "Quito", "Delhi", "Paris", "Tokyo")
_FRAMES = ("It is {} in {} today.", "The morning in {1} is {0}.", "They say {1} stays {0} all week.")
_COUNTS = {"train": 36, "validation": 12, "test": 12}


def new_plugin(folder: str | Path, name: str) -> list[Path]:
    """Write a plugin package called `name` into `folder` (made if need be); gives the files written.

    Raises UserError for a name that is no package name, and if the folder holds anything already.
    """
    if not _NAME.fullmatch(name):
        raise UserError(f"A plugin's name is lower-case letters and digits with single '-' or '_', got {name!r}.")
    folder = Path(folder).expanduser()
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise UserError(f"{folder.absolute()} exists and is not an empty folder: name a new one.")
    package = name.replace("-", "_")
    written = []
    for path, text in _files(name, package).items():
        target = folder / path
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(text, encoding="utf8")
        written.append(target)
    return written


def _files(name: str, package: str) -> dict[str, str]:
    files = {
        path.format(package=package): text.replace("NAME", name).replace("PACKAGE", package)
        for path, text in _TEXTS.items()
    }
    for split, rows in _data().items():
        lines = "".join(json.dumps(row) + "\n" for row in rows)
        files[f"src/{package}/data/{split}.jsonl"] = lines
    return files


def _data() -> dict[str, list[dict[str, str]]]:
    """Sentences about hot and cold places, each once, dealt out so that every split has both."""
    rows = [
        {"sentence": frame.format(word, place), "label": label}
        for place in _PLACES
        for frame in _FRAMES
        for words, label in ((_HOT, "hot"), (_COLD, "cold"))
        for word in words
    ]
    rows = rows[:: len(rows) // sum(_COUNTS.values())]
    splits: dict[str, list[dict[str, str]]] = {}
    start = 0
    for split, count in _COUNTS.items():
        splits[split] = rows[start : start + count]
        start += count
    return splits


_TEXTS = {
    "pyproject.toml": """\
[build-system]
requires = ["setuptools>=68"]
build-backend = "setuptools.build_meta"

[project]
name = "NAME"
version = "0.1.0"
description = "Tasks for hyperpelt"
requires-python = ">=3.11"
dependencies = ["hyperpelt"]

[project.entry-points."hyperpelt.tasks"]
NAME = "PACKAGE:register"

[tool.setuptools.packages.find]
where = ["src"]

[tool.setuptools.package-data]
PACKAGE = ["data/*"]
""",
    "README.md": """\
# NAME: tasks for hyperpelt

    pip install -e .
    hyperpelt tasks show NAME/weather      # rendered rows
    hyperpelt tasks check NAME/weather     # columns, labels, choices, lengths, leaks between splits
    pytest                                 # the same check as a test

    hyperpelt train RUN.yaml tasks='[NAME/weather]'

`src/PACKAGE/weather.py` is the task: change its source, render function and choices to yours. Add modules to
`register()` in `src/PACKAGE/__init__.py` as you add tasks.
""",
    "src/{package}/__init__.py": '''\
"""Tasks for hyperpelt, found through the entry point `hyperpelt.tasks`."""


def register() -> None:
    """Register this package's tasks. hyperpelt calls it once; a module registers its tasks when it is imported."""
    from PACKAGE import weather  # noqa: F401
''',
    "src/{package}/weather.py": '''\
"""An example task: is a place hot or cold?"""

from hyperpelt import Example, Files, Splits, task


@task(
    name="NAME/weather",
    source=Files({"train": "data/train.jsonl", "validation": "data/validation.jsonl", "test": "data/test.jsonl"}),
    choices=("cold", "hot"),
    metrics=("accuracy",),
    splits=Splits(),
    description="Is the weather in the sentence hot or cold?",
)
def weather(row):
    """A row is a dict of columns. The label is a choice, or its index in `choices`."""
    return Example(input=f"sentence: {row['sentence']}", label=row["label"])
''',
    "tests/test_tasks.py": '''\
import hyperpelt
import pytest
from hyperpelt import tasks


@pytest.fixture(autouse=True)
def plugin():
    """Installed, the plugin is found by itself; this also makes the tests run from a checkout."""
    if "NAME/weather" not in tasks.names("NAME/*"):
        tasks.load_plugin("PACKAGE")


@pytest.mark.parametrize("name", ["NAME/weather"])
def test_task_passes_the_check(name):
    report = hyperpelt.check_task(name)
    assert report.ok, str(report)


def test_rows_render_as_meant():
    example = tasks.get("NAME/weather").example({"sentence": "Snow falls in Oslo.", "label": "cold"})
    assert example.input == "sentence: Snow falls in Oslo."
    assert example.target == "cold"
''',
}
