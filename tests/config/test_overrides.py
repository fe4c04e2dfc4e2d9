"""What the shell gives: a text is taken as it stands, `~` is the home, exclusions are names."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from hyperpelt import UserError, cli
from hyperpelt.backbones import load_config
from hyperpelt.config import load_run
from hyperpelt.config.caching import user_cache
from hyperpelt.config.paths import at_home, place
from hyperpelt.tasks.sources import resolve_root

NEEDED = ["tasks=glue/rte", "output_dir=runs/a"]

AS_IT_STANDS = (
    "runs/exp #2", "runs/2024-01-03", "2024-01-03", "007", "12:30:00", "1e3", "yes", "true", "{a}", "[a]", "a: b",
    "'a'", "*star", "!bang", "&and", "%50", "@at", "a, b", "- a", "",
)  # fmt: skip


@pytest.mark.parametrize("text", AS_IT_STANDS)
@pytest.mark.parametrize("key", ["output_dir", "backbone", "image_encoder", "eval_split", "metric_for_best"])
def test_a_text_is_taken_as_it_stands(key: str, text: str) -> None:
    assert getattr(load_run(None, [*NEEDED, f"{key}={text}"]), key) == text


@pytest.mark.parametrize("text", ["data #1", "2024-01-03", "yes"])
@pytest.mark.parametrize("key", ["data_root", "features_dir", "from_run"])
def test_also_where_there_may_be_none(key: str, text: str) -> None:
    assert getattr(load_run(None, [*NEEDED, f"{key}={text}"]), key) == text
    assert getattr(load_run(None, [*NEEDED, f"{key}=null"]), key) is None


def test_what_is_no_text_is_yaml_still() -> None:
    config = load_run(
        None, [*NEEDED, "max_steps=7 # few", "overwrite=true", "method={name: lora, rank: 2}", "resume=yes"]
    )
    assert (config.max_steps, config.overwrite, config.resume) == (7, True, True)
    assert config.method == {"name": "lora", "rank": 2}
    assert load_run(None, [*NEEDED, "resume=runs/exp #2/checkpoints/step-4"]).resume == "runs/exp #2/checkpoints/step-4"
    assert load_run(None, [*NEEDED, "eval_steps=null"]).eval_steps is None


@pytest.mark.parametrize(
    "value",
    ["[glue, !glue/wnli]", "glue, !glue/wnli", "glue,!glue/wnli", "[ glue , !glue/wnli ]", "[glue, '!glue/wnli']"],
)
def test_exclusions_are_names_on_the_command_line(value: str) -> None:
    assert load_run(None, [*NEEDED, f"tasks={value}"]).tasks == ["glue", "!glue/wnli"]


@pytest.mark.parametrize(
    "text",
    ["[glue, !glue/wnli]", "\n  - glue\n  - !glue/wnli", "glue, !glue/wnli", "{glue: , !glue/wnli : }"],
)
def test_exclusions_are_names_in_a_file(tmp_path: Path, text: str) -> None:
    (tmp_path / "run.yaml").write_text(f"tasks: {text}\noutput_dir: a\n", encoding="utf8")
    assert list(load_run(tmp_path / "run.yaml").tasks) == ["glue", "!glue/wnli"]


def test_a_plugin_whose_path_has_blanks_or_commas_is_one(tmp_path: Path) -> None:
    for name in ("my tasks.py", "a,b.py"):
        (tmp_path / name).write_text("", encoding="utf8")
        assert load_run(None, [*NEEDED, f"plugins={tmp_path / name}"]).plugins == [str(tmp_path / name)]
    both = f"{tmp_path / 'my tasks.py'}, other.py"
    assert load_run(None, [*NEEDED, f"plugins={both}"]).plugins == [str(tmp_path / "my tasks.py"), "other.py"]


def test_the_home_is_meant_everywhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    home, elsewhere = tmp_path / "home", tmp_path / "elsewhere"
    for folder in (home / "data", home / "t5", elsewhere):
        folder.mkdir(parents=True)
    (home / "plug.py").write_text("", encoding="utf8")
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.chdir(elsewhere)
    values = {
        key: f"~/{key}" for key in ("output_dir", "backbone", "image_encoder", "features_dir", "from_run", "resume")
    }
    values |= {"data_root": "~/data", "plugins": "~/plug.py, ~/later.py"}
    expected = {key: value.replace("~", str(home)) for key, value in values.items()}
    expected["plugins"] = [f"{home}/plug.py", f"{home}/later.py"]
    text = "tasks: glue/rte\n" + "".join(f"{key}: {value}\n" for key, value in values.items())
    (elsewhere / "run.yaml").write_text(text, encoding="utf8")
    for config in (
        load_run(None, ["tasks=glue/rte", *(f"{key}={value}" for key, value in values.items())]),
        load_run("~/../elsewhere/run.yaml"),
    ):
        assert {key: getattr(config, key) for key in values} == expected
    monkeypatch.setenv("HYPERPELT_CACHE", "~/cache")
    assert user_cache() == home / "cache"
    monkeypatch.setenv("HYPERPELT_DATA", "~nobody_of_this_name/data")
    with pytest.raises(UserError, match="the home of nobody_of_this_name, which is not known"):
        resolve_root(None)
    with pytest.raises(UserError, match=f"{home}/t5"):
        load_config("~/t5")
    assert cli.run(["tasks", "new", "my-tasks", "--folder=~/made"]) == 0
    assert (home / "made").is_dir()
    assert not list(elsewhere.glob("*~*"))


def test_the_home_of_somebody_else_is_theirs_and_of_nobody_an_error() -> None:
    import pwd

    somebody = pwd.getpwuid(os.getuid())
    assert place(f"~{somebody.pw_name}/x") == Path(somebody.pw_dir) / "x"
    assert at_home("runs/~x") == "runs/~x"
    with pytest.raises(UserError, match="home of nobody_of_this_name"):
        at_home("~nobody_of_this_name/x")
    with pytest.raises(UserError, match="home of nobody_of_this_name"):
        load_run(None, [*NEEDED, "output_dir=~nobody_of_this_name/x"])


def test_no_folder_is_written_over_that_was_not_named(tmp_path: Path) -> None:
    """The error comes of the value, not of a shorter one."""
    command = [
        sys.executable,
        "-m",
        "hyperpelt.cli",
        "train",
        "tasks=glue/rt",
        "output_dir=runs/exp #2",
        "overwrite=true",
    ]
    (tmp_path / "runs" / "exp").mkdir(parents=True)
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 2, done.stderr
    assert [path.name for path in (tmp_path / "runs").iterdir()] == ["exp"]


def test_each_task_may_be_tested_on_a_split_of_its_own() -> None:
    config = load_run(
        None, ["output_dir=a", "tasks=glue", "test_split.glue/rte=validation", "test_split.glue/m*=train"]
    )
    assert [config.test_split_of(name) for name in ("glue/rte", "glue/mnli", "glue/cola")] == [
        "validation",
        "train",
        "test",
    ]
    config = load_run(None, [*NEEDED, "test_split={glue/*: validation, '*': test}", "test_split.glue/rte=train"])
    assert [config.test_split_of(name) for name in ("glue/rte", "glue/mnli", "cb")] == ["train", "validation", "test"]
    assert load_run(None, [*NEEDED, "test_split=validation"]).test_split_of("cb") == "validation"


def test_a_cache_that_is_named_needs_no_home(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """As of a user in a container whom no passwd file knows."""

    def nobody(_: int) -> None:
        raise KeyError

    monkeypatch.setattr("pwd.getpwuid", nobody)
    for name in ("HOME", "XDG_CACHE_HOME", "HYPERPELT_CACHE"):
        monkeypatch.delenv(name, raising=False)
    with pytest.raises(UserError, match="the home of you, which is not known here"):
        user_cache()
    monkeypatch.setenv("HYPERPELT_CACHE", str(tmp_path))
    assert user_cache() == tmp_path
