"""What is written is the old or the new whole, whatever kills the writer; what dead processes left goes away."""

from __future__ import annotations

import json
import os
import re
import stat
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from conftest import wait_for_the_disk
from file_events import killed_at_each_event

from hyperpelt.errors import UserError
from hyperpelt.files import atomic, checksums, folders, manifests
from hyperpelt.files.locks import OWNER, FolderLock
from hyperpelt.files.names import hidden, host, leftovers
from hyperpelt.files.reading import Damaged, read_json, read_object
from hyperpelt.files.tensors import read_tensors, write_tensors


@pytest.fixture(autouse=True)
def disk(monkeypatch):
    monkeypatch.setattr(os, "fsync", wait_for_the_disk)


def dead_pid() -> int:
    with subprocess.Popen([sys.executable, "-c", ""]) as process:
        process.wait()
    return process.pid


def test_a_file_is_the_old_or_the_new_one_whenever_its_writer_is_killed(tmp_path):
    path, seen = tmp_path / "results.json", set()
    for _ in killed_at_each_event(lambda: atomic.write_json(path, {"run": "new"}), lambda: path.write_text('"old"\n')):
        seen.add(path.read_text())
        folders.recover(tmp_path, r"results\.json")
        assert os.listdir(tmp_path) == ["results.json"], "nothing of dead processes stays"
    assert seen == {'"old"\n', '{\n "run": "new"\n}\n'}


def test_a_file_is_flushed_before_it_has_its_name_and_its_name_after(tmp_path, monkeypatch):
    done = []
    flush, replace = atomic.flush, os.replace
    monkeypatch.setattr(atomic, "flush", lambda path: (done.append(("flush", path.is_dir())), flush(path)))
    monkeypatch.setattr(os, "replace", lambda *paths: (done.append(("replace", None)), replace(*paths)))
    atomic.write_text(tmp_path / "run.yaml", "tasks: [a]\n")
    assert done == [("flush", False), ("replace", None), ("flush", True)]


def test_what_is_no_regular_file_is_written_to_and_never_replaced(tmp_path):
    atomic.write_text(Path("/dev/null"), "gone")
    assert stat.S_ISCHR(os.stat("/dev/null").st_mode)
    target, link = tmp_path / "target", tmp_path / "link"
    link.symlink_to(target)
    atomic.write_text(link, "text")
    assert link.is_symlink()
    assert target.read_text() == "text"
    with pytest.raises(IsADirectoryError):
        atomic.write_text(tmp_path, "text")


def test_others_may_read_what_is_written(tmp_path):
    umask = os.umask(0)
    os.umask(umask)
    with atomic.replacing(tmp_path / "a.safetensors") as path:
        write_tensors(path, {"x": torch.ones(2)})
    with folders.building(tmp_path / "folder") as new:
        write_tensors(new / "a.safetensors", {"x": torch.ones(2)})
    for name in ("a.safetensors", "folder/a.safetensors"):
        assert (tmp_path / name).stat().st_mode & 0o777 == 0o666 & ~umask


def fill(folder: Path, content: str) -> None:
    with folders.building(folder) as new:
        for name in ("one", "two"):
            (new / name).write_text(content)


@pytest.mark.parametrize("name", ["x" * 240, "\u8a9e" * 80], ids=["latin", "chinese"])
def test_a_name_as_long_as_file_systems_allow_is_written(tmp_path: Path, name: str) -> None:
    atomic.write_text(tmp_path / name, "whole")
    assert [path.name for path in tmp_path.iterdir()] == [name]


def test_a_folder_is_the_old_or_the_new_one_whenever_its_writer_is_killed(tmp_path):
    folder, seen = tmp_path / "export", set()
    for _ in killed_at_each_event(lambda: fill(folder, "new"), lambda: fill(folder, "old")):
        folders.recover(tmp_path, "export")
        assert os.listdir(tmp_path) == ["export"]
        found = {(folder / name).read_text() for name in ("one", "two")}
        assert len(found) == 1, "half of each"
        seen |= found
    assert seen == {"old", "new"}


def test_a_folder_that_cannot_be_finished_leaves_the_old_one(tmp_path):
    fill(tmp_path / "export", "old")

    def half():
        with folders.building(tmp_path / "export") as new:
            (new / "one").write_text("new")
            raise OSError("No space left on device")

    with pytest.raises(OSError, match="No space left"):
        half()
    assert os.listdir(tmp_path) == ["export"]
    assert (tmp_path / "export" / "two").read_text() == "old"


def test_what_living_processes_and_other_machines_write_is_left_alone(tmp_path):
    mine = hidden(tmp_path / "run.yaml", "tmp")
    dead = dead_pid()
    there = {
        f".run.yaml.{host()}-{dead}-1.tmp": True,
        f".run.yaml.{dead}.tmp": True,  # as earlier versions wrote
        f".tmp-run.yaml-{dead}": True,
        f".run.yaml.elsewhere-{dead}-1.tmp": False,
        mine.name: False,
        f".notes.{dead}.tmp": False,
        "run.yaml": False,
    }
    for name in there:
        (tmp_path / name).touch()
    assert {leftover.path.name for leftover in leftovers(tmp_path, r"run\.yaml")} == {n for n in there if there[n]}
    folders.recover(tmp_path, r"run\.yaml")
    assert set(os.listdir(tmp_path)) == {name for name in there if not there[name]}


WRITING = re.compile(
    r"(?<!atomic)\.write_(text|bytes)\(|\bopen\([^)]*[\"'][wax]|json\.dump\(|os\.(replace|rename)\(|savefig\(|save_file\("
)
# Who writes without this room, or into what it moves into place, and why that may be.
WRITERS = {
    "evaluation/samples.py": "a log that grows row by row",
    "export/placing.py": "moves what is flushed, the file that makes a folder loadable last",
    "metrics/wordnet.py": "within folders.building",
    "model/saving.py": "within atomic.replacing; and into a folder that goes to the hub and is gone then",
    "planning/page.py": "within atomic.replacing",
    "report/plots.py": "into the memory",
    "tasks/asked.py": "a table from standard input, gone with the process",
    "tasks/skeleton.py": "into a folder that was empty",
    "training/checkpoints.py": "renames folders that are whole",
    "training/replaced.py": "renames what is whole, and undoes it",
    "transfer/processes.py": "logs of workers, gone with them",
    "transfer/run.py": "what workers are asked, gone with them",
}


def test_what_is_kept_is_written_through_this_room():
    library = Path(atomic.__file__).parents[1]
    rooms = [path for path in library.rglob("*.py") if path.parent.name != "files"]
    found = {str(path.relative_to(library)) for path in rooms if WRITING.search(path.read_text(encoding="utf8"))}
    assert found == WRITERS.keys()


# Locks

HOLD = """
import sys
from pathlib import Path
from hyperpelt.files.locks import FolderLock
lock = FolderLock(Path(sys.argv[1]), advice="")
lock.acquire()
print("held", flush=True)
sys.stdin.read()
"""


def test_a_folder_has_one_writer_and_that_of_a_dead_process_is_taken_over(tmp_path):
    command = [sys.executable, "-c", HOLD, str(tmp_path)]
    lock = FolderLock(tmp_path, advice="Choose another one.")
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as other:
        assert other.stdout.readline() == "held\n"
        with pytest.raises(UserError, match=rf"in use by process {other.pid} on this machine since .*Choose another"):
            lock.acquire()
        other.kill()
        other.wait()
    lock.acquire()
    about = json.loads((tmp_path / OWNER).read_text())
    assert (about["pid"], about["host"]) == (os.getpid(), host())
    lock.release()
    lock.release()
    assert not (tmp_path / OWNER).exists()


def test_a_lock_is_awaited_that_only_forked_helpers_of_a_killed_process_hold(tmp_path):
    helper = HOLD.replace('print("held"', 'import os, time; os.fork() or (time.sleep(1), os._exit(0)); print("held"')
    with subprocess.Popen([sys.executable, "-c", helper, str(tmp_path)], stdin=-1, stdout=-1, text=True) as other:
        assert other.stdout.readline() == "held\n"
        other.kill()
        other.wait()
    lock = FolderLock(tmp_path, advice="")
    lock.acquire()
    lock.release()


# Checksums and manifests


def test_every_flipped_bit_changes_a_checksum(tmp_path):
    path, content = tmp_path / "file", bytes(range(64))
    path.write_bytes(content)
    whole = checksums.of_file(path)
    for place in range(0, 512, 37):
        flipped = bytearray(content)
        flipped[place // 8] ^= 1 << place % 8
        path.write_bytes(flipped)
        assert checksums.of_file(path) != whole
    assert checksums.of_parts([b"ab", b"c"]) != checksums.of_parts([b"a", b"bc"])


def edited(manifest: dict, **changes: object) -> str:
    return json.dumps({**manifest, **changes})


def test_a_manifest_vouches_for_the_files_and_for_itself(tmp_path):
    (tmp_path / "a").write_text("one")
    (tmp_path / "b").write_text("two")
    manifests.write(tmp_path, step=3)
    assert manifests.check(tmp_path, ("a", "b"))["step"] == 3
    path = tmp_path / "manifest.json"
    text = path.read_text()
    manifest = json.loads(text)
    numbers = [edited(manifest, **{key: 9}) for key in manifest]
    for bad in (*numbers, edited(manifest, files={}), text[:-30], "[]", "{}"):
        path.write_text(bad)
        with pytest.raises(Damaged, match=r"manifest\.json"):
            manifests.check(tmp_path, ("a", "b"))
    path.write_text(text)
    with pytest.raises(Damaged, match="c is not listed"):
        manifests.check(tmp_path, ("a", "b", "c"))
    (tmp_path / "a").write_text("onE")
    with pytest.raises(Damaged, match="a was changed"):
        manifests.check(tmp_path)


def test_damaged_files_are_named(tmp_path):
    path = tmp_path / "x.json"
    for content in (b'{"a": ', b"\xff\xfe\x00", b"[" * 100_000):
        path.write_bytes(content)
        with pytest.raises(Damaged, match=r"x\.json is not valid JSON"):
            read_json(path)
    path.write_text("[1]")
    with pytest.raises(Damaged, match="holds list"):
        read_object(path)
    write_tensors(tmp_path / "x.safetensors", {"x": torch.ones(9)})
    data = (tmp_path / "x.safetensors").read_bytes()
    for content in (data[:-5], data[:3], b"", b"\xff" * 40):
        (tmp_path / "x.safetensors").write_bytes(content)
        with pytest.raises(Damaged, match=r"x\.safetensors cannot be read"):
            read_tensors(tmp_path / "x.safetensors")


def test_a_link_to_itself_is_replaced(tmp_path: Path) -> None:
    (tmp_path / "loop.json").symlink_to("loop.json")
    atomic.write_json(tmp_path / "loop.json", {"a": 1})
    assert read_json(tmp_path / "loop.json") == {"a": 1}
