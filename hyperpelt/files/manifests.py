"""What a folder must hold: `manifest.json`, with size and checksum of every other file, and its own.

Written last. `check` refuses a folder that lacks a file or has one that changed, and a manifest that was edited.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from hyperpelt.files import atomic, checksums
from hyperpelt.files.reading import Damaged, read_object

MANIFEST = "manifest.json"
FORMAT = 2  # 1 had SHA-256 of the files, and none of itself


def write(folder: Path, **about: Any) -> None:
    """Vouch for every file that is in the folder now. `about` stands in the manifest, too."""
    files = {
        path.relative_to(folder).as_posix(): {"bytes": path.stat().st_size, "xxh3": checksums.of_file(path)}
        for path in _files(folder)
    }
    content = {"format": FORMAT, **about, "files": files}
    atomic.write_json(folder / MANIFEST, {**content, "xxh3": checksums.of_json(content)})


def _files(folder: Path) -> list[Path]:
    visible = (
        path for path in folder.rglob("*") if not any(part.startswith(".") for part in path.relative_to(folder).parts)
    )
    return sorted(path for path in visible if path.is_file() and path != folder / MANIFEST)


def check(folder: Path, required: Iterable[str] = ()) -> dict[str, Any]:
    """The manifest of a folder that is as it was written. required: names that it must list.

    Raises:
        Damaged: it is not; the message begins with the file's name.
        FileNotFoundError: there is no manifest.
    """
    manifest = read(folder)
    listed = manifest["files"]
    for name in required:
        if name not in listed:
            raise Damaged(f"{name} is not listed in its {MANIFEST}")
    for name, expected in listed.items():
        _check_file(folder / name, expected)
    return manifest


def read(folder: Path) -> dict[str, Any]:
    """The manifest alone, whole in itself; the files are not looked at."""
    try:
        manifest = read_object(folder / MANIFEST)
        files, form = manifest["files"], manifest["format"]
        if not all(isinstance(entry["bytes"], int) for entry in files.values()):
            raise TypeError
    except (Damaged, KeyError, TypeError, AttributeError):
        raise Damaged(f"its {MANIFEST} is not readable") from None
    if form not in (1, FORMAT):
        raise Damaged(f"its {MANIFEST} has format {form}, this version reads up to format {FORMAT}")
    rest = {key: value for key, value in manifest.items() if key != "xxh3"}
    if form == FORMAT and manifest.get("xxh3") != checksums.of_json(rest):
        raise Damaged(f"its {MANIFEST} was changed after it was written (its own checksum differs)")
    return manifest


def _check_file(path: Path, expected: dict[str, Any]) -> None:
    if not path.is_file():
        raise Damaged(f"{path.name} is missing")
    size = path.stat().st_size
    if size != expected["bytes"]:
        raise Damaged(f"{path.name} has {size} bytes, {expected['bytes']} were written")
    kind, got = ("xxh3", checksums.of_file) if "xxh3" in expected else ("sha256", _sha256)
    if got(path) != expected.get(kind):
        raise Damaged(f"{path.name} was changed after it was written (its checksum differs)")


def _sha256(path: Path) -> str:
    from hashlib import file_digest

    with path.open("rb") as file:
        return file_digest(file, "sha256").hexdigest()
