"""docs/architecture.md shows the rooms that exist and the contract that holds them."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "architecture.md").read_text(encoding="utf8")
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf8"))


def layers() -> list[list[str]]:
    (contract,) = (one for one in PROJECT["tool"]["importlinter"]["contracts"] if one["type"] == "layers")
    return [sorted(room.strip() for room in layer.split("|")) for layer in contract["layers"]]


def on_disk() -> set[str]:
    library = ROOT / "hyperpelt"
    rooms = {folder.name for folder in library.iterdir() if (folder / "__init__.py").is_file()}
    return rooms | {file.stem for file in library.glob("*.py") if file.stem != "__init__"}


def test_the_table_of_rooms_names_every_folder_and_module_and_nothing_else():
    section = PAGE[PAGE.index("| room |") : PAGE.index("Beside the library")]
    rows = [line.split("|")[1] for line in section.splitlines()[2:] if "|" in line]
    named = [name for row in rows for name in re.findall(r"`(\w+)`", row)]
    assert len(named) == len(set(named))
    assert set(named) == on_disk()


def test_the_library_shows_rooms_and_four_files():
    files = sorted(file.name for file in (ROOT / "hyperpelt").glob("*.py"))
    assert files == ["__init__.py", "cli.py", "errors.py", "operations.py"]


def test_the_picture_is_the_contract():
    """Each arrow of the picture leads from one layer of the contract to the next, and no layer is left out."""
    picture = PAGE[PAGE.index("flowchart TD") : PAGE.index("```", PAGE.index("flowchart TD"))]
    drawn: list[list[str]] = []
    for line in picture.splitlines()[1:]:
        steps = [sorted(name.strip() for name in step.split("&")) for step in line.split("-->")]
        drawn += steps if not drawn or steps[0] != drawn[-1] else steps[1:]
    assert drawn == layers()


def test_files_that_the_page_names_are_there():
    named = set(re.findall(r"\b((?:data|model|weights|attachment|tuners|training)/\w+)", PAGE))
    missing = [name for name in named if not (ROOT / "hyperpelt" / f"{name}.py").is_file()]
    assert named
    assert not missing
