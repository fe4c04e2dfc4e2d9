"""Ends that nobody chose: kills at any moment, full disks, two processes at once. Nothing is lost by them."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from random import Random
from typing import Any

from soaking.place import Place, Said, command

EVENTS = {"os.rename", "os.remove", "os.rmdir", "os.mkdir", "os.chmod", "os.truncate", "shutil.rmtree"}
PATIENCE = 180.0  # seconds; a process that takes longer hangs


class NotPossible(Exception):
    """This machine cannot do the case; the message says why."""


@dataclass(frozen=True)
class Work:
    """Something that may be ended at any moment and started again. `result`: what must be equal in the end."""

    prepare: Callable[[Place, Path], None]
    start: Callable[[Place, Path], Said]
    result: Callable[[Path], Any]


def _nothing(place: Place, folder: Path) -> None:
    return None


def _old_run(place: Place, folder: Path) -> None:
    shutil.copytree(place.run, folder / "run")


def _train(place: Place, folder: Path) -> Said:
    os.environ["HYPERPELT_CACHE"] = str(folder / "cache")  # nothing is tokenised yet
    return command("train", place.settings, f"output_dir={folder / 'run'}", "resume=auto")


def _train_again(place: Place, folder: Path) -> Said:
    return command("train", place.settings, f"output_dir={folder / 'run'}", "seed=7", "overwrite=true")


def _add(place: Place, folder: Path) -> Said:
    settings = [f"output_dir={folder / 'run'}", "max_steps=3", "save_steps=1", "resume=auto", "use_cpu=true"]
    return command("train", "--add", "toy/truth", "--from", place.run, *settings)


def _export(place: Place, folder: Path, form: str) -> Said:
    run = place.mergeable if form == "merged" else place.run
    return command("export", run, "--task", "toy/mood", "--to", form, "--output", folder / "run")


def _transfer(place: Place, folder: Path) -> Said:
    what = ["--tasks", "toy/truth", "--shots", "0,4", "--seeds", "2", "--steps", "2", "--limit", "4", "--cpu"]
    return command("transfer", place.run, *what, "--adapt", "embedding", "--output", folder / "run")


def _tensors(folder: Path) -> dict[str, str]:
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in (folder / "run").glob("*.safetensors")}


def _cells(folder: Path) -> Any:
    summary = json.loads((folder / "run" / "summary.json").read_text(encoding="utf8"))["summary"]
    return [[row["task"], row["shots"], row["label"], row["n"], row["mean"]] for row in summary]


WORKS = {
    "training": Work(_nothing, _train, _tensors),
    "overwriting": Work(_old_run, _train_again, _tensors),
    "adding": Work(_nothing, _add, _tensors),
    "baked export": Work(_nothing, lambda place, folder: _export(place, folder, "baked"), _tensors),
    "merged export": Work(_nothing, lambda place, folder: _export(place, folder, "merged"), _tensors),
    "transfer": Work(_nothing, _transfer, _cells),
}
_EXPECTED: dict[str, tuple[Any, int, float]] = {}


# -------------------------------------------------------------------------------------------------------- processes


def _forked(work: Work, place: Place, folder: Path, *, event: int = 0, report: Path | None = None) -> int:
    """The work in a process of its own, which kills itself before its file event of that number; gives its pid."""
    pid = os.fork()
    if pid:
        return pid
    os.setsid()
    seen = count(1)

    def watch(name: str, arguments: tuple[Any, ...]) -> None:
        writing = name == "open" and isinstance(arguments[2], int) and arguments[2] & (os.O_WRONLY | os.O_RDWR)
        if (writing or name in EVENTS) and next(seen) == event:
            os.kill(os.getpid(), signal.SIGKILL)

    sys.addaudithook(watch)
    said = work.start(place, folder)
    if report is not None:
        report.write_text(json.dumps([said.status, said.err[-2000:], next(seen)]), encoding="utf8")
    os._exit(said.status)


def _wait(pid: int, seconds: float = PATIENCE) -> int | None:
    """The exit status; negative for a signal, None for one that had to be stopped."""
    ends = time.monotonic() + seconds
    while time.monotonic() < ends:
        ended, status = os.waitpid(pid, os.WNOHANG)
        if ended:
            return os.waitstatus_to_exitcode(status)
        time.sleep(0.01)
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
    return None


def _finish(work: Work, place: Place, folder: Path) -> tuple[int | None, str, int]:
    """(status, stderr, file events) of the work done to its end in a process of its own."""
    report = place.folder / "report.json"
    report.unlink(missing_ok=True)
    status = _wait(_forked(work, place, folder, report=report))
    if not report.exists():
        return status, "it died", 0
    _, err, events = json.loads(report.read_text(encoding="utf8"))
    return status, err, events


def _expected(name: str, place: Place) -> tuple[Any, int, float]:
    """(result, file events, seconds) of the work where nothing ends it."""
    if name not in _EXPECTED:
        folder, began = place.fresh(), time.monotonic()
        WORKS[name].prepare(place, folder)
        status, err, events = _finish(WORKS[name], place, folder)
        assert status == 0, err
        _EXPECTED[name] = WORKS[name].result(folder), events, time.monotonic() - began
    return _EXPECTED[name]


def _compare(work: Work, place: Place, folder: Path, expected: Any) -> str:
    status, err, _ = _finish(work, place, folder)
    if status != 0:
        return f"started again: exit {status}: {err[-300:]}"
    if work.result(folder) != expected:
        return "started again, it ends in another result"
    left = [path.name for path in (folder / "run").rglob(".*") if path.suffix in (".tmp", ".old", ".gone")]
    return f"left behind: {left[:3]}" if left else ""


# --------------------------------------------------------------------------------------------------------- campaigns


def kills(place: Place, random: Random) -> tuple[str, str]:
    """One to three kills, at random moments or file events; then the work is done again to its end."""
    name = random.choice(list(WORKS))
    expected, events, seconds = _expected(name, place)
    work, folder = WORKS[name], place.fresh()
    moments: list[str] = []
    work.prepare(place, folder)
    for _ in range(random.choice((1, 1, 1, 2, 3))):
        if random.random() < 0.6:
            moments.append(f"event {(event := random.randint(1, max(events - 1, 1)))}")
            _wait(_forked(work, place, folder, event=event))
        else:
            moments.append(f"{(moment := random.uniform(0, seconds)):.2f} s")
            _wait(_forked(work, place, folder), moment)
    return f"{name} at {', '.join(moments)}", _compare(work, place, folder, expected)


def disks(place: Place, random: Random) -> tuple[str, str]:
    """The disk is full at some point: one sentence, and with room the work ends as it would have."""
    name = random.choice(list(WORKS))
    expected, _, _ = _expected(name, place)
    size, folder, work = random.randint(20, 600), place.fresh(), WORKS[name]
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", f"size={size}k", "tmpfs", str(folder)], capture_output=True, check=False
    )
    if mounted.returncode:
        raise NotPossible("a small disk cannot be mounted here")
    try:
        try:
            work.prepare(place, folder)
        except OSError:
            raise NotPossible("too small for what the work starts from") from None
        status, err, _ = _finish(work, place, folder)
        if status not in (0, 2) or (status == 2 and "hyperpelt: " not in err):
            return f"{name}, {size} KiB", f"exit {status}: {err[-300:]}"
        subprocess.run(["mount", "-o", "remount,size=100m", str(folder)], check=True)
        return f"{name}, {size} KiB", _compare(work, place, folder, expected)
    finally:
        subprocess.run(["umount", str(folder)], check=False)


def pairs(place: Place, random: Random) -> tuple[str, str]:
    """Two processes at the same work in one folder: one does it, or both share it; none ends it otherwise."""
    name = random.choice([name for name in WORKS if name != "overwriting"])
    expected, _, seconds = _expected(name, place)
    work, folder = WORKS[name], place.fresh()
    first = _forked(work, place, folder)
    time.sleep(random.uniform(0, seconds / 2))
    second = _forked(work, place, folder)
    statuses = [_wait(first), _wait(second)]
    if not set(statuses) <= {0, 2} or statuses == [2, 2]:
        return f"{name} twice", f"exits {statuses}"
    return f"{name} twice", "" if work.result(folder) == expected else "another result"


CAMPAIGNS = {"kills": kills, "full disks": disks, "pairs": pairs}
