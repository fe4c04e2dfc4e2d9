"""Killing a process at every single thing that it does to files: what `kill -9` may find, without waiting for luck."""

from __future__ import annotations

import os
import sys
import traceback
from collections.abc import Callable, Iterator
from itertools import count
from typing import Any

EVENTS = {"os.rename", "os.remove", "os.rmdir", "os.mkdir", "os.chmod", "os.truncate", "shutil.rmtree"}
KILLED = 9


def killed_at_each_event(work: Callable[[], Any], before: Callable[[], Any] = lambda: None) -> Iterator[int]:
    """Yields after each kill: before the first file event of `work`, before the second, ..., and once after its end.

    `work` runs in a forked process; `before` prepares what it finds.
    """
    for number in count(1):
        before()
        pid = os.fork()
        if pid == 0:
            _run(work, number)
        status = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
        assert status in (0, KILLED), f"the work failed by itself at event {number}"
        yield number
        if status == 0:
            return


def _run(work: Callable[[], Any], number: int) -> None:
    seen = count(1)

    def kill(event: str, arguments: tuple[Any, ...]) -> None:
        writing = event == "open" and arguments[2] & (os.O_WRONLY | os.O_RDWR | os.O_CREAT)
        if (writing or event in EVENTS) and next(seen) == number:
            os._exit(KILLED)

    sys.addaudithook(kill)
    try:
        work()
    except BaseException:
        traceback.print_exc()
        os._exit(1)
    os._exit(0)
