"""Every plugin file sees its own folder, and nothing of another plugin's, however and whenever it imports."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from hyperpelt import UserError, tasks

TASK = """
from hyperpelt import Example, Generator, task


@task(name="NAME", source=Generator(lambda split: [{"text": "hello", "label": 0}]), choices=("no", "yes"))
def render(row):
    LAZY
    return Example(input=clean(row["text"]), label=row["label"])
"""


@pytest.fixture(autouse=True)
def as_before() -> Iterator[None]:
    before, path = set(tasks.names()), list(sys.path)
    yield
    assert sys.path == path, "no plugin changes where others look"
    for name in set(tasks.names()) - before:
        tasks.remove(name)


def write(folder: Path, **files: str) -> Path:
    for name, content in files.items():
        path = folder / f"{name.replace('__in__', '/')}.py"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content, encoding="utf8")
    return folder


def cleaned_by(who: str) -> str:
    return f"def clean(text): return 'cleaned by {who}: ' + text\n"


US = cleaned_by("WHO")
WAYS = {
    "at once": ("from utils import clean", "pass", {"utils": US}),
    "lazily": ("", "from utils import clean", {"utils": US}),
    "as a module": ("import utils\nclean = lambda text: utils.clean(text)", "pass", {"utils": US}),
    "lazily, as": ("", "import utils as u; clean = u.clean", {"utils": US}),
    "relatively": ("from .utils import clean", "pass", {"utils": US}),
    "from a package": (
        "from parts.inner import clean",
        "pass",
        {"parts__in____init__": "", "parts__in__inner": "from .deep import clean", "parts__in__deep": US},
    ),
    "from a package that names itself": (
        "import parts.inner",
        "clean = parts.inner.clean",
        {"parts__in____init__": "", "parts__in__inner": "from parts.deep import clean", "parts__in__deep": US},
    ),
    "from a folder without __init__": ("from bits.inner import clean", "pass", {"bits__in__inner": US}),
    "over a neighbour": ("from middle import clean", "pass", {"middle": "from utils import clean", "utils": US}),
    "over a lazy neighbour": (
        "from middle import clean",
        "pass",
        {"middle": "def clean(text):\n    from utils import clean\n    return clean(text)\n", "utils": US},
    ),
}


@pytest.mark.parametrize("way", WAYS)
def test_two_plugins_with_neighbours_of_one_name(tmp_path: Path, way: str) -> None:
    first, lazy, files = WAYS[way]
    for who in "ab":
        code = first + TASK.replace("NAME", f"{who}/t").replace("LAZY", lazy)
        write(tmp_path / who, tasks=code, **{name: content.replace("WHO", who) for name, content in files.items()})
        tasks.load_plugin(tmp_path / who / "tasks.py")
    for who in "abab":
        assert tasks.get(f"{who}/t").examples("train")[0].input == f"cleaned by {who}: hello"


def test_what_only_another_plugin_has_is_not_found(tmp_path: Path) -> None:
    code = "from utils_of_a import clean" + TASK
    write(tmp_path / "a", tasks=code.replace("NAME", "a/t").replace("LAZY", "pass"), utils_of_a=cleaned_by("a"))
    write(tmp_path / "b", tasks=code.replace("NAME", "b/t").replace("LAZY", "pass"))
    tasks.load_plugin(tmp_path / "a" / "tasks.py")
    with pytest.raises(UserError, match=r"No module named 'utils_of_a' \(.*/b/tasks\.py:1\)"):
        tasks.load_plugin(tmp_path / "b" / "tasks.py")


def test_the_neighbour_goes_before_a_module_that_others_find(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(tmp_path / "here", utils=cleaned_by("somebody else"))
    monkeypatch.syspath_prepend(tmp_path / "here")
    code = "from utils import clean" + TASK.replace("NAME", "b/t").replace("LAZY", "pass")
    write(tmp_path / "b", tasks=code, utils=cleaned_by("b"), random="1 / 0", hyperpelt="1 / 0", torch__in__data="")
    tasks.load_plugin(tmp_path / "b" / "tasks.py")
    assert tasks.get("b/t").examples("train")[0].input == "cleaned by b: hello"
    assert "utils" not in sys.modules


def test_after_a_failure_everything_is_imported_anew(tmp_path: Path) -> None:
    code = "from utils import clean\nimport later" + TASK.replace("NAME", "b/t").replace("LAZY", "pass")
    write(tmp_path, tasks=code, utils=cleaned_by("the old"), later="1 / 0")
    with pytest.raises(UserError, match=r"ZeroDivisionError: .*later\.py:1"):
        tasks.load_plugin(tmp_path / "tasks.py")
    write(tmp_path, utils=cleaned_by("the mended"), later="")
    assert tasks.load_plugin(tmp_path / "tasks.py") == ["b/t"]
    assert tasks.get("b/t").examples("train")[0].input == "cleaned by the mended: hello"


def test_a_plugin_that_another_imports_is_loaded_once(tmp_path: Path) -> None:
    write(tmp_path, one=cleaned_by("one") + TASK.replace("NAME", "one/t").replace("LAZY", "pass"))
    write(tmp_path, two="from one import clean" + TASK.replace("NAME", "two/t").replace("LAZY", "pass"))
    tasks.load_plugin(tmp_path / "two.py")
    assert tasks.load_plugin(tmp_path / "one.py") == ["one/t"]


def test_a_file_beside_a_package_of_its_name_and_one_with_dots(tmp_path: Path) -> None:
    code = TASK.replace("LAZY", "from parts.inner import clean")
    write(
        tmp_path, parts=code.replace("NAME", "file/t"), parts__in____init__="", parts__in__inner=cleaned_by("package")
    )
    (tmp_path / "v1.2.py").write_text(code.replace("NAME", "dots/t"), encoding="utf8")
    assert tasks.load_plugin(tmp_path / "parts.py") == ["file/t"]
    assert tasks.load_plugin(tmp_path / "v1.2.py") == ["dots/t"]
    for name in ("file/t", "dots/t"):
        assert tasks.get(name).examples("train")[0].input == "cleaned by package: hello"


def test_a_definition_means_the_same_wherever_its_plugin_stands(tmp_path: Path) -> None:
    found = []
    for who in "ab":
        code = "from utils import clean" + TASK.replace("NAME", "moved/t").replace("LAZY", "pass")
        write(tmp_path / who, tasks=code, utils=cleaned_by("us"))
        tasks.load_plugin(tmp_path / who / "tasks.py")
        found.append(tasks.get("moved/t").fingerprint())
        tasks.remove("moved/t")
    assert found[0] == found[1]
