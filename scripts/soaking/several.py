"""Work of several processes, some of which are killed: the others end, and done again it ends as if none had been."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from random import Random
from typing import Any

import psutil

from soaking.ending import left_behind
from soaking.forking import PATIENCE, finish
from soaking.journal import Tried
from soaking.place import Place
from soaking.rank import WHOM
from soaking.works import Work, cells, command, nothing, tensors, transfer_of

TORCHRUN = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
EVENTS = 110  # file events of the first of two processes that train here; later ones come after the run stands
_EXPECTED: dict[str, Any] = {}


class Group:
    """A process, and all that it started, also when it is dead."""

    def __init__(self, arguments: list[object], folder: Path) -> None:
        self.log, self.folder = folder / "log", folder
        environment = os.environ | {"HYPERPELT_CACHE": str(folder / "cache"), "OMP_NUM_THREADS": "1"}
        with self.log.open("w") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-W", "ignore", *map(str, arguments)], stdout=log, stderr=log, env=environment,
                stdin=subprocess.DEVNULL, start_new_session=True,
            )  # fmt: skip
        self.main, self.children = psutil.Process(self.process.pid), dict[int, psutil.Process]()

    def look(self) -> bool:
        """Take notice of processes; whether any is running."""
        with suppress(psutil.NoSuchProcess):
            self.children |= {one.pid: one for one in self.main.children(recursive=True)}
        return self.process.poll() is None or any(_runs(one) for one in self.children.values())

    def wait(self, until: Callable[[], bool] = lambda: False) -> bool:
        """Until it is so, or all have ended; False, and all are killed, if that takes too long."""
        ends = time.monotonic() + PATIENCE
        while self.look() and not until():
            if time.monotonic() > ends:
                self.kill("all")
                return False
            time.sleep(0.05)
        return True

    def kill(self, whom: str) -> int:
        """The `main` process, `worker N` or `all`; how many there were."""
        workers = [self.children[pid] for pid in sorted(self.children)]
        chosen = {"main": [self.main], "worker 0": workers[:1], "worker 1": workers[1:2]}
        doomed = [one for one in chosen.get(whom, [self.main, *workers]) if _runs(one)]
        for one in doomed:
            one.send_signal(signal.SIGKILL)
        return len(doomed)

    def said(self) -> str:
        """The end of what they printed."""
        return self.log.read_text(encoding="utf8", errors="replace")[-400:]


def _runs(process: psutil.Process) -> bool:
    try:
        return bool(process.is_running() and process.status() != psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return False


def _torchrun(place: Place, folder: Path, event: int = 0, whom: str = "") -> Group:
    rank = Path(__file__).with_name("rank.py")
    run = ["train", place.settings, f"output_dir={folder / 'run'}", "resume=auto"]
    return Group([*TORCHRUN, rank, event, whom, *run], folder)


def _transfer(place: Place, folder: Path) -> Group:
    cells_of = transfer_of(place, folder / "run", shots="4", seeds=4)
    return Group(["-m", "hyperpelt.cli", *cells_of, "--processes", 2], folder)


def _again(start: Callable[[], Group], result: Callable[[Path], Any], expected: Any) -> str:
    """The fault of doing it again."""
    group = start()
    if not group.wait():
        return f"started again, it hangs: {group.said()}"
    if group.process.returncode:
        return f"started again: exit {group.process.returncode}: {group.said()}"
    if result(group.folder) != expected:
        return "started again, it ends in another result"
    return left_behind(group.folder)


def _fault_of_the_end(ended: bool, group: Group) -> str:
    if not ended:
        return f"those that were not killed hang: {group.said()}"
    return "called a defect" if "defect of hyperpelt" in group.log.read_text(errors="replace") else ""


def torchrun(place: Place, random: Random) -> Tried:
    """Two processes that train together; one, their launcher or all of them are killed at a file event of the first."""
    if "torchrun" not in _EXPECTED:
        first = _torchrun(place, place.fresh())
        assert first.wait(), first.said()
        assert first.process.returncode == 0, first.said()
        _EXPECTED["torchrun"] = tensors(first.folder)
    folder, whom, event = place.fresh(), random.choice(WHOM), random.randint(1, EVENTS)
    group = _torchrun(place, folder, event, whom)
    fault = _fault_of_the_end(group.wait(), group)
    fault = fault or _again(lambda: _torchrun(place, folder), tensors, _EXPECTED["torchrun"])
    return Tried(f"{whom} of two that train, at event {event}", fault, 3 if whom == "all" else 1)


def transfers(place: Place, random: Random) -> Tried:
    """A transfer by two workers; one, the process that started them or all are killed when some cells are done."""
    if "transfer" not in _EXPECTED:
        alone = Work(
            nothing, lambda place, folder: command(*transfer_of(place, folder / "run", shots="4", seeds=4)), cells
        )
        status, err, _ = finish(alone, place, folder := place.fresh())
        assert status == 0, err
        _EXPECTED["transfer"] = cells(folder)
    folder, whom = place.fresh(), random.choice(("main", "worker 0", "worker 1", "all"))
    done, delay = random.randint(0, 3), random.uniform(0, 2)
    group, path = _transfer(place, folder), folder / "run" / "cells.jsonl"
    ended = group.wait(
        lambda: len(group.children) > 1 and (path.read_bytes().count(b"\n") if path.exists() else 0) >= done
    )
    time.sleep(delay)
    killed = group.kill(whom)
    fault = _fault_of_the_end(ended and group.wait(), group)
    fault = fault or _again(lambda: _transfer(place, folder), cells, _EXPECTED["transfer"])
    return Tried(f"{whom} of a transfer's processes, {delay:.1f} s after {done} cells", fault, killed)


CAMPAIGNS: dict[str, Callable[[Place, Random], Tried]] = {
    "kills under torchrun": torchrun,
    "kills of transfer's processes": transfers,
}
