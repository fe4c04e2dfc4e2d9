"""YAML that is made to hang, to recurse, to fill the memory or the screen: one short sentence with the file."""

from __future__ import annotations

import ast
import re
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from hyperpelt import cli, tasks
from hyperpelt.config import load_run
from hyperpelt.errors import UserError
from hyperpelt.report.run_records import RunRecord
from hyperpelt.tasks.jinja import read_promptsource

ROOT = Path(__file__).parents[2]
BOMB = "a0: &a0 x\n" + "".join(f"a{n}: &a{n} [*a{n - 1}, *a{n - 1}, *a{n - 1}]\n" for n in range(1, 21))
MERGES = "a0: &a0 {k: v}\n" + "".join(f"a{n}: &a{n}\n  <<: [*a{n - 1}, *a{n - 1}]\n" for n in range(1, 25))
BAD = {
    "aliases that triple": (BOMB, "more than 100,000 values"),
    "merges that double": (MERGES, "more than 100,000 values"),
    "itself": ("a: &a [*a]\n", "contains itself"),
    "itself, in a mapping": ("a: &a {b: *a}\n", "contains itself"),
    "deep": ("a: " + "[" * 5000 + "]" * 5000, "nested more than 64 deep"),
    "deep blocks": ("".join(f"{' ' * n}k:\n" for n in range(200)), "nested more than 64 deep"),
    "large": ("a: " + "x" * (1 << 20), "at most 1,048,576 are read"),
    "no time": ("a: !!timestamp x\n", "value that YAML cannot hold|timestamp"),
}


def read_study(path: Path) -> object:
    """The reader of `scripts/compare`."""
    sys.path.insert(0, str(ROOT / "scripts"))
    try:
        from comparing.study import read_study
    finally:
        sys.path.remove(str(ROOT / "scripts"))
    return read_study(path)


READERS: dict[str, Callable[[Path], object]] = {
    "run": load_run,
    "study": read_study,
    "task": tasks.load_plugin,
    "promptsource": lambda path: list(read_promptsource(path, ("label",))),
}


@pytest.mark.parametrize("reader", READERS)
@pytest.mark.parametrize("kind", BAD)
def test_yaml_is_read_in_bounded_time(kind: str, reader: str, tmp_path: Path) -> None:
    text, expected = BAD[kind]
    path = tmp_path / "bad.yaml"
    path.write_text(text, encoding="utf8")
    if kind == "no time" and reader in ("run", "study"):
        expected = "."  # a tag is text there
    with pytest.raises(UserError, match=expected) as caught:
        READERS[reader](path)
    assert str(path) in str(caught.value)
    assert len(str(caught.value)) < 3000


def test_aliases_that_repeat_little_are_read(tmp_path: Path) -> None:
    path = tmp_path / "run.yaml"
    path.write_text("tasks: &t [glue/rte]\noutput_dir: x\nmethod: {name: lora}\neval_tasks: *t\n", encoding="utf8")
    with pytest.raises(UserError, match="Unknown key 'eval_tasks'"):
        load_run(path)


@pytest.mark.parametrize(
    "key", ['"a.b": 3', '"mixing.": 3', '"seed.x.y": 3', "? [1, 2]\n: 3", "1: 2", "? {a: b}\n: 3", "~: 3"]
)
def test_keys_that_no_one_expects(key: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "run.yaml"
    path.write_text(f"tasks: glue/rte\noutput_dir: x\n{key}\n", encoding="utf8")
    assert cli.run(["train", str(path)]) == 2
    assert str(path) in capsys.readouterr().err


def test_messages_are_short(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "run.yaml"
    path.write_text(f"tasks: glue/rte\noutput_dir: x\nseed: {'s' * 500_000}\n{'k' * 900}: 1\n", encoding="utf8")
    assert cli.run(["train", str(path)]) == 2
    assert len(capsys.readouterr().err) < 3000
    assert cli.run(["train", "tasks=glue/rte", f"output_dir={tmp_path}", f"backbone={'b' * 100_000}"]) == 2
    assert len(capsys.readouterr().err) < 5000


def test_what_is_no_file_is_not_read(tmp_path: Path) -> None:
    import os

    os.mkfifo(tmp_path / "run.yaml")
    for path in (tmp_path / "run.yaml", Path("/dev/zero")):
        with pytest.raises(UserError, match="no regular file"):
            load_run(path)


def test_settings_of_a_report_are_read_in_bounded_time() -> None:
    for text in (BOMB, "a: &a [*a]", "[1, 2]"):
        record = RunRecord(name="r", folder=Path("r"), settings=text)
        assert record.comparable_settings == {"run.yaml": text}


def test_a_setting_of_the_command_line_is_read_in_bounded_time(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for text in (BOMB, "&a [*a]", "[" * 5000 + "]" * 5000):
        assert cli.run(["train", "tasks=glue/rte", f"output_dir={tmp_path}", f"method={text}"]) == 2
        assert len(capsys.readouterr().err) < 5000


# ----------------------------------------------------------------------------------- all of it goes through one place

READING = re.compile(r"\w*load(_all)?|compose(_all)?|parse|scan|\w*Loader|add_\w+")


def reads_yaml(path: Path) -> list[str]:
    """Where a module reads YAML by itself, or makes a loader of its own, as file:line."""
    text, found = path.read_text(encoding="utf8"), []
    for node in ast.walk(ast.parse(text)) if "yaml" in text else ():
        of_yaml = isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "yaml"
        own = isinstance(node, ast.ImportFrom) and (node.module or "").partition(".")[0] in ("yaml", "ruamel", "oyaml")
        if own or (of_yaml and READING.fullmatch(node.attr)):
            found.append(f"{path}:{node.lineno}")
    return found


def test_all_yaml_is_read_by_the_bounded_reader() -> None:
    scripts = [path for path in (ROOT / "scripts").iterdir() if path.is_file() and not path.suffix]
    own = [path for path in scripts if "python" in path.read_text(encoding="utf8").partition("\n")[0]]
    modules = [path for room in ("hyperpelt", "scripts", "tasks") for path in (ROOT / room).rglob("*.py")]
    found = [line for path in (*own, *modules) for line in reads_yaml(path)]
    assert {line.rpartition(":")[0] for line in found} == {str(ROOT / "hyperpelt" / "files" / "plain_yaml.py")}
    assert len(own) >= 4


def test_the_search_finds_a_reader_that_is_not_bounded(tmp_path: Path) -> None:
    path = tmp_path / "module.py"
    lines = ("import yaml", "yaml.safe_load('')", "from yaml import load", "class L(yaml.SafeLoader): pass")
    path.write_text("\n".join([*lines, "yaml.safe_dump(1)", "yaml.constructor.ConstructorError"]), encoding="utf8")
    assert len(reads_yaml(path)) == 3
