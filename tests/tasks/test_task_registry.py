"""The registry and plugins: names are taken once, selections mean what they say, a broken plugin harms nobody else."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from task_support import make_task, own_registry

from hyperpelt import Mixture, UserError, tasks

ROWS = [{"text": "a", "label": 0}]
PLUGIN = """
from hyperpelt import Example, Generator, task

def rows(split):
    return [{"text": split, "label": 0}, {"text": "b", "label": 1}]

@task(name="NAME", source=Generator(rows), choices=("no", "yes"), description="Is it?")
def mine(row):
    return Example(input=row["text"], label=row["label"])
"""


@pytest.fixture(autouse=True)
def registry():
    with own_registry():
        yield


def add(*names: str) -> None:
    for name in names:
        tasks.register(make_task(ROWS, name=name))


def test_a_name_is_taken_once_and_the_error_names_both_places() -> None:
    tasks.register(make_task(ROWS, origin="first.py:1"))
    with pytest.raises(UserError, match=r"'test/task' is registered twice: at first\.py:1 and at second\.py:2"):
        tasks.register(make_task(ROWS, origin="second.py:2"))
    with pytest.raises(UserError, match="registered twice"):
        tasks.register(Mixture(name="test/task", rates=["glue/rte"]))
    later = tasks.register(make_task(ROWS, origin="second.py:2"), replace=True)
    assert tasks.get("test/task") is later


def test_a_typo_names_the_nearest_task() -> None:
    with pytest.raises(UserError, match=r"Unknown task 'glue/ret'\. Did you mean 'glue/rte'"):
        tasks.get("glue/ret")
    with pytest.raises(UserError, match=r"No task matches 'gleu/\*'. Did you mean 'glue/\*'"):
        tasks.select("gleu/*")
    with pytest.raises(UserError, match="'glue' is a mixture of glue/cola"):
        tasks.get("glue")


def test_selection_takes_names_wildcards_mixtures_and_exclusions_in_order() -> None:
    add("zoo/b", "zoo/a", "zoo/c")
    tasks.register(Mixture(name="zoo", rates={"zoo/c": 2, "zoo/a": 1}))
    tasks.register(Mixture(name="both", rates=["zoo", "glue/rte"]))

    def chosen(*selectors: str, **options: object) -> list[str]:
        return [task.name for task in tasks.select(selectors, **options)]

    assert chosen("zoo/*") == ["zoo/a", "zoo/b", "zoo/c"]
    assert chosen("zoo", "zoo/b", "zoo/c") == ["zoo/c", "zoo/a", "zoo/b"]
    assert chosen("both") == ["zoo/c", "zoo/a", "glue/rte"]
    assert chosen("zoo/*", "!zoo/b") == ["zoo/a", "zoo/c"]
    assert chosen("zoo/*", among=["zoo/b", "glue/rte"]) == ["zoo/b"]
    with pytest.raises(UserError, match="No task is left by the selection zoo/a, !zoo/a"):
        chosen("zoo/a", "!zoo/a")


def test_a_mixture_that_contains_itself_is_refused() -> None:
    tasks.register(Mixture(name="one", rates=["two"]))
    tasks.register(Mixture(name="two", rates=["one"]))
    with pytest.raises(UserError, match="'one' contains itself: one -> two -> one"):
        tasks.select("one")


@pytest.mark.parametrize("rates", [{}, {"glue/rte": 0}, {"glue/rte": "much"}])
def test_mixtures_need_tasks_with_positive_rates(rates: dict) -> None:
    with pytest.raises(UserError, match="Mixture 'mine'"):
        Mixture(name="mine", rates=rates)


def test_remove_forgets_a_task() -> None:
    add("zoo/a")
    tasks.remove("zoo/a")
    assert "zoo/a" not in tasks.names()


def test_list_and_show_say_where_a_task_comes_from_and_how_it_is_split() -> None:
    row = next(row for row in tasks.list_tasks() if row["name"] == "glue/rte")
    assert row["origin"].rsplit(":", 1)[0].endswith("glue.py")
    assert row["splits"] == {"train": "train", "validation": "validation[:0.5]", "test": "validation[0.5:]"}
    assert (row["kind"], row["metrics"], row["mixtures"]) == ("classification", ["accuracy"], ["glue"])
    add("zoo/a")
    shown = tasks.show_task("zoo/a", n=1)
    assert shown["sizes"] == {"train": 1, "validation": 1, "test": 1}
    assert shown["examples"]["test"][0]["target"] == "no"
    assert shown["problem"] is None


def test_a_mixture_of_tasks_that_are_not_there_harms_only_who_uses_it() -> None:
    tasks.register(Mixture(name="wishes", rates=["glue/rte", "no/such"]))
    assert "glue/rte" in [row["name"] for row in tasks.list_tasks()]
    with pytest.raises(UserError, match="Unknown task 'no/such'"):
        tasks.select("wishes")


def test_show_without_data_still_shows_the_definition(tmp_path: Path) -> None:
    shown = tasks.show_task("glue/rte", data_root=tmp_path)
    assert shown["choices"] == ["yes", "no"]
    assert "no folder" in shown["problem"]


# ------------------------------------------------------------------------------------------------ plugins named by hand


def test_a_plugin_file_is_loaded_once_and_may_import_its_neighbours(tmp_path: Path) -> None:
    (tmp_path / "neighbour_of_plugin.py").write_text("NAME = 'file/task'\n")
    code = PLUGIN.replace('"NAME"', "NAME").replace("\n\n", "\nfrom neighbour_of_plugin import NAME\n", 1)
    file = tmp_path / "my_tasks.py"
    file.write_text(code)
    assert tasks.load_plugin(file) == ["file/task"]
    assert tasks.load_plugin(str(file)) == ["file/task"]
    assert tasks.get("file/task").origin.startswith(f"{file}:")
    assert [example.target for example in tasks.get("file/task").examples("train")] == ["no", "yes"]


def test_a_module_registers_in_its_own_register_function(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    body = "def register():\n" + "\n".join(f"    {line}" for line in PLUGIN.replace("NAME", "module/task").splitlines())
    (tmp_path / "a_module_of_tasks.py").write_text(body + "\n")
    monkeypatch.syspath_prepend(tmp_path)
    assert tasks.load_plugin("a_module_of_tasks") == ["module/task"]


def package(folder: Path, name: str) -> Path:
    """A package whose module registers in `register`, which its `__init__` passes on."""
    (folder / name).mkdir()
    (folder / name / "__init__.py").write_text("from .inner import register\n")
    body = "\n".join(f"    {line}" for line in PLUGIN.replace("NAME", f"{name}/task").splitlines())
    (folder / name / "inner.py").write_text(f"def register():\n{body}\n")
    return folder / name


def test_a_module_goes_before_a_folder_of_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = package(tmp_path, "package_of_tasks")
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    assert tasks.load_plugin("package_of_tasks") == ["package_of_tasks/task"]
    assert tasks.load_plugin(folder) == ["package_of_tasks/task"], "the same one again"


def test_a_package_is_loaded_by_its_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Which Python does not find by itself: the console script has no working folder on its path."""
    monkeypatch.setattr(sys, "path", list(sys.path))
    package(tmp_path, "package_elsewhere")
    (tmp_path / "other").mkdir()
    package(tmp_path / "other", "email")
    monkeypatch.chdir(tmp_path)
    assert tasks.load_plugin("package_elsewhere") == ["package_elsewhere/task"]
    assert tasks.load_plugin("./other/email") == ["email/task"], "under the name of a module of Python's own"
    import email

    assert not hasattr(email, "register")


def test_an_installed_plugin_that_is_named_by_hand_is_no_error() -> None:
    names = tasks.names()
    assert "glue/cola" in tasks.load_plugin("hyperpelt_tasks")
    assert tasks.names() == names


def test_a_plugin_that_imports_our_register_is_not_called_by_it(tmp_path: Path) -> None:
    (tmp_path / "imports.py").write_text("from hyperpelt import register\n" + PLUGIN.replace("NAME", "imports/task"))
    assert tasks.load_plugin(tmp_path / "imports.py") == ["imports/task"]


@pytest.mark.parametrize(
    ("code", "message"),
    [
        (
            "import no_such_module_here",
            r"ModuleNotFoundError: No module named 'no_such_module_here' \(.*broken\.py:\d+\)",
        ),
        ("raise SystemExit(3)", "SystemExit: 3"),
        ("def (", "SyntaxError"),
        (PLUGIN.replace("NAME", "glue/rte"), "'glue/rte' is registered twice: at .*glue.py:"),
    ],
)
def test_a_named_plugin_that_fails_is_an_error_and_undone_whole(tmp_path: Path, code: str, message: str) -> None:
    file = tmp_path / "broken.py"
    file.write_text(PLUGIN.replace("NAME", "half/task") + code + "\n")
    with pytest.raises(UserError, match=message) as error:
        tasks.load_plugin(file)
    assert str(file) in str(error.value)
    assert "half/task" not in tasks.names()


def test_a_mended_plugin_can_be_loaded_again(tmp_path: Path) -> None:
    file = tmp_path / "mended.py"
    file.write_text("1 / 0\n")
    with pytest.raises(UserError, match="ZeroDivisionError"):
        tasks.load_plugin(file)
    file.write_text(PLUGIN.replace("NAME", "mended/task") + "\n# longer than before\n")
    assert tasks.load_plugin(file) == ["mended/task"]


@pytest.mark.parametrize(
    ("plugin", "message"),
    [("absent.py", "No plugin file"), (".", "is not a .py or .yaml file"), ("no_such_module_x", "No module named")],
)
def test_a_plugin_that_is_not_there_is_named(tmp_path: Path, plugin: str, message: str) -> None:
    path = tmp_path / plugin if plugin in ("absent.py", ".") else plugin
    with pytest.raises(UserError, match=message):
        tasks.load_plugin(path)


# --------------------------------------------------------------------------------------------------- installed plugins


def install(site: Path, name: str, code: str) -> None:
    """What an installation leaves behind: a module, and its metadata with an entry point."""
    module = name.replace("-", "_")
    (site / f"{module}.py").write_text(code)
    info = site / f"{module}-1.0.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(f"[hyperpelt.tasks]\n{name} = {module}:register\n")


def test_broken_installed_plugins_are_named_with_traceback_and_take_nobody_down(tmp_path: Path) -> None:
    defines = "\n".join(f"    {line}" for line in PLUGIN.splitlines())
    good = defines.replace("NAME", "good/task")
    install(tmp_path, "good-tasks", f"def register():\n{good}\n")
    install(
        tmp_path,
        "late-failure",
        f"def register():\n{defines.replace('NAME', 'late/task')}\n    raise OSError('disk')\n",
    )
    install(tmp_path, "early-failure", "raise SystemExit('not today')\n")
    install(tmp_path, "same-name", f"def register():\n{good}\n")
    code = """
import hyperpelt.tasks as t
print(t.names("*/task"), "glue/rte" in t.names())
for origin, trace in t.broken_plugins(): print(origin, "|", trace.strip().splitlines()[-1])
try: t.get("late/task")
except ValueError as e: print(e)
"""
    env = {**os.environ, "PYTHONPATH": str(tmp_path)}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env=env)
    first, *rest = done.stdout.splitlines()
    assert first == "['good/task'] True"
    assert rest[0] == "early-failure 1.0, entry point early-failure = early_failure:register | SystemExit: not today"
    assert rest[1] == "late-failure 1.0, entry point late-failure = late_failure:register | OSError: disk"
    assert "same-name 1.0" in rest[2]
    assert "registered twice" in rest[2]
    assert "Plugins that failed to load: early-failure 1.0" in rest[3]
