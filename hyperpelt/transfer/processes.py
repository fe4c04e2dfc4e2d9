"""Cells over several processes: each begins with its share, helps the others after it, and appends to the one file.

Either this library starts them (`--processes N`: it watches the file and shows one bar), or a launcher did (torchrun,
accelerate launch), or somebody started a second transfer into the folder. They never talk to each other but by the
file of records and the locks of cells (see `records`).
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType

from hyperpelt.errors import UserError
from hyperpelt.files.names import hidden
from hyperpelt.transfer import records

PAUSE = 0.5  # seconds between looks at the file
ENDING = (signal.SIGINT, signal.SIGTERM)


def launched() -> tuple[int, int]:
    """(rank, number of processes) as a launcher set them; (0, 1) without one."""
    return int(os.environ.get("RANK", "0")), int(os.environ.get("WORLD_SIZE", "1"))


@contextmanager
def ending_on_sigterm() -> Iterator[None]:
    """While inside, SIGTERM raises SystemExit (with the shell's status for it), so that workers are stopped, too.

    Outside the main thread, where Python takes no signal handlers, nothing changes.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def end(number: int, frame: FrameType | None) -> None:
        raise SystemExit(128 + number)

    before = signal.signal(signal.SIGTERM, end)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


@contextmanager
def _undisturbed() -> Iterator[None]:
    """While inside, Ctrl-C and SIGTERM wait: a process that is just being started would be nobody's to stop."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    came: list[int] = []
    before = {each: signal.signal(each, lambda number, _: came.append(number)) for each in ENDING}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    if came:
        signal.raise_signal(came[0])


def run_workers(request: Path, number: int, path: Path, wanted: Collection[str], shown: Callable[[int], None]) -> None:
    """Start `number` processes on the request's cells and wait for them.

    Raises the UserError that a worker ended with, or that says that one was killed; RuntimeError for a defect. The
    others are then stopped, as all are by Ctrl-C and SIGTERM.
    """
    logs = [hidden(request.with_name(f"worker-{rank}.log"), "tmp") for rank in range(number)]
    workers: list[subprocess.Popen[bytes]] = []
    try:
        for rank, log in enumerate(logs):
            with _undisturbed():
                workers.append(_start(request, rank, number, log))
        while any(worker.poll() is None for worker in workers):
            _check(workers, logs)
            shown(len(set(wanted) & records.read(path).keys()))
            time.sleep(PAUSE)
        _check(workers, logs)
        shown(len(set(wanted) & records.read(path).keys()))
    finally:
        for worker in workers:
            if worker.poll() is None:
                worker.terminate()
        for worker in workers:
            worker.wait()
        for log in logs:
            log.unlink(missing_ok=True)


def _start(request: Path, rank: int, world: int, log: Path) -> subprocess.Popen[bytes]:
    threads = str(max(1, (os.cpu_count() or 1) // world))
    environment = {"OMP_NUM_THREADS": threads, **os.environ, "RANK": str(rank), "WORLD_SIZE": str(world)}
    environment["LOCAL_RANK"] = str(rank)
    command = [sys.executable, "-m", "hyperpelt.transfer.worker", str(request)]
    with log.open("wb") as output:
        return subprocess.Popen(command, env=environment, stdout=output, stderr=output)


def _check(workers: list[subprocess.Popen[bytes]], logs: list[Path]) -> None:
    for worker, log in zip(workers, logs, strict=True):
        status = worker.poll()
        if status:
            said = log.read_text(encoding="utf8", errors="replace").strip()
            if status == 2:
                raise UserError(said.rpartition("hyperpelt: ")[2])
            if status < 0:
                raise UserError(
                    f"A worker of the transfer was killed (signal {-status}), perhaps for lack of memory. Finished "
                    "cells are kept: run the same command again, with fewer --processes if memory was short."
                )
            raise RuntimeError(f"a worker of the transfer ended with status {status}:\n{said[-2000:]}")
