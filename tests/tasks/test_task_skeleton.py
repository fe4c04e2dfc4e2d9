"""A plugin written by `tasks new`, truly built, installed elsewhere and found through its entry point (promise 11)."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import warm
from small_runs import write_run
from task_support import own_registry

from hyperpelt import UserError, check_task, tasks


def run(*command: str | Path, python: str = sys.executable, **env: str) -> str:
    done = subprocess.run(
        [python, *map(str, command)], capture_output=True, text=True, env={**os.environ, **env}, timeout=120
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def plugin(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("plugin") / "my-tasks"
    written = tasks.new_plugin(folder, "my-tasks")
    assert sorted(written) == sorted(path for path in folder.rglob("*") if path.is_file())
    return folder


@pytest.fixture(scope="module")
def site(plugin: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The plugin as a wheel, installed into a folder of its own."""
    dist, target = tmp_path_factory.mktemp("dist"), tmp_path_factory.mktemp("site")
    offline = ("--no-deps", "--no-index", "--quiet", "--disable-pip-version-check")
    run("-m", "pip", "wheel", *offline, "--no-build-isolation", "--wheel-dir", dist, plugin)
    (wheel,) = dist.glob("*.whl")
    run("-m", "pip", "install", *offline, "--target", target, wheel)
    return target


def test_an_installed_wheel_is_found_checked_and_read(site: Path) -> None:
    code = """
import hyperpelt, hyperpelt.tasks as t
task = t.get("my-tasks/weather")
print(task.origin)
print(hyperpelt.check_task(task).ok, [len(task.rows(s)) for s in task.splits.names()], t.broken_plugins())
print(task.examples("train")[0].input)
"""
    origin, verdict, first = run("-c", code, PYTHONPATH=str(site)).splitlines()
    assert origin.rsplit(":", 1)[0] == str(site / "my_tasks" / "weather.py")
    assert verdict == "True [36, 12, 12] []"
    assert first.startswith("sentence: ")


def test_an_installed_wheel_is_trained_on_and_evaluated(site: Path, tiny_tokenizer, tmp_path: Path) -> None:
    settings = dict(setting.split("=", 1) for setting in write_run(tmp_path, tiny_tokenizer))
    here = {"python": warm.python(), "PYTHONPATH": str(site)}
    del settings["plugins"]  # installed plugins need no naming
    settings["tasks"] = "my-tasks/weather"
    code = "import sys; from hyperpelt.cli import main; sys.exit(main())"
    run("-c", code, "train", *(f"{key}={value}" for key, value in settings.items()), **here)
    trained = json.loads((tmp_path / "run" / "results.json").read_text(encoding="utf8"))
    out = run("-c", code, "evaluate", tmp_path / "run", "--tasks", "my-tasks/*", "--json", **here)
    evaluated = json.loads(out)
    assert evaluated["tasks"]["my-tasks/weather"]["rows"] == 12
    assert evaluated["tasks"]["my-tasks/weather"]["metrics"] == trained["tasks"]["my-tasks/weather"]["metrics"]


def test_the_skeletons_own_test_passes(plugin: Path, site: Path) -> None:
    out = run("-m", "pytest", "-q", "-p", "no:cacheprovider", plugin / "tests", PYTHONPATH=str(site))
    assert "2 passed" in out


def test_the_skeleton_has_no_finding_but_notes(plugin: Path) -> None:
    with own_registry():
        assert tasks.load_plugin(plugin / "src" / "my_tasks" / "weather.py") == ["my-tasks/weather"]
        report = check_task("my-tasks/weather")
    assert {finding.level for finding in report.findings} == {"note"}, str(report)


@pytest.mark.parametrize("name", ["My Tasks", "1tasks", "my--tasks", "../x", ""])
def test_a_name_that_is_no_package_name_is_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(UserError, match="A plugin's name is lower-case letters"):
        tasks.new_plugin(tmp_path / "new", name)
    assert not (tmp_path / "new").exists()


def test_nothing_that_exists_is_overwritten(tmp_path: Path) -> None:
    (tmp_path / "mine.txt").write_text("mine")
    with pytest.raises(UserError, match="exists and is not an empty folder"):
        tasks.new_plugin(tmp_path, "my-tasks")
    with pytest.raises(UserError, match="exists and is not an empty folder"):
        tasks.new_plugin(tmp_path / "mine.txt", "my-tasks")
    assert os.listdir(tmp_path) == ["mine.txt"]
