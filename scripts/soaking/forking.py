"""Work in processes of its own, in which something happens before a file event: a kill, a disk without room."""

from __future__ import annotations

import ctypes
import json
import os
import resource
import signal
import sys
import time
from collections.abc import Callable
from itertools import count
from pathlib import Path
from typing import Any

from soaking.place import Place
from soaking.works import Work

EVENTS = {"os.rename", "os.remove", "os.rmdir", "os.mkdir", "os.chmod", "os.truncate", "shutil.rmtree"}
PATIENCE = 180.0  # seconds; a process that takes longer hangs


def kill_myself() -> None:
    """As `kill -9` does."""
    os.kill(os.getpid(), signal.SIGKILL)


def no_room_beyond(size: int) -> None:
    """From now on no file of this process grows beyond so many bytes: the system refuses it, whoever writes."""
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, resource.getrlimit(resource.RLIMIT_FSIZE)[1]))


def _room_again() -> None:
    hard = resource.getrlimit(resource.RLIMIT_FSIZE)[1]
    resource.setrlimit(resource.RLIMIT_FSIZE, (hard, hard))


def before_event(number: int, action: Callable[[], None], within: str = "") -> count[int]:
    """Do something once this process is about to change a file for the time of that number; gives their counter.

    within: in the path of the files that count.
    """
    seen = count(1)

    def watch(name: str, arguments: tuple[Any, ...]) -> None:
        writing = name == "open" and isinstance(arguments[2], int) and arguments[2] & (os.O_WRONLY | os.O_RDWR)
        if (writing or name in EVENTS) and within in str(arguments[0]) and next(seen) == number:
            action()

    sys.addaudithook(watch)
    return seen


def forked(
    work: Work,
    place: Place,
    folder: Path,
    *,
    event: int = 0,
    action: Callable[[], None] = kill_myself,
    report: Path | None = None,
) -> int:
    """The work in a process of its own, with an action before its file event of that number; gives its pid."""
    pid = os.fork()
    if pid:
        return pid
    os.setsid()
    _end_with_my_parent()
    seen = before_event(event, action, work.within)
    said = work.start(place, folder)
    if report is not None:
        _room_again()
        report.write_text(json.dumps([said.status, said.err[-2000:], next(seen)]), encoding="utf8")
    os._exit(said.status)


def _end_with_my_parent() -> None:
    """A soak that is stopped leaves nobody behind who writes into its place."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG


def wait(pid: int, seconds: float = PATIENCE) -> int | None:
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


def finish(
    work: Work, place: Place, folder: Path, *, event: int = 0, action: Callable[[], None] = kill_myself
) -> tuple[int | None, str, int]:
    """(status, stderr, file events) of the work done to its end in a process of its own."""
    report = place.folder / "report.json"
    report.unlink(missing_ok=True)
    status = wait(forked(work, place, folder, event=event, action=action, report=report))
    if not report.exists():
        return status, "it died", 0
    _, err, events = json.loads(report.read_text(encoding="utf8"))
    return status, err, events
