"""One process of several that torchrun started: a command of hyperpelt, and a kill before a file event of the first.

    torchrun --standalone --nproc-per-node=2 scripts/soaking/rank.py EVENT WHOM train run.yaml ...

WHOM: "rank 0", "rank 1", "launcher" or "all".
"""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path

import psutil

sys.path.insert(0, str(Path(__file__).parents[1]))

from soaking.forking import before_event

WHOM = ("rank 0", "rank 1", "launcher", "all")


def _kill(whom: str) -> None:
    launcher = psutil.Process(os.getppid())
    others = [one.pid for one in launcher.children() if one.pid != os.getpid()]
    doomed = {"rank 0": [os.getpid()], "rank 1": others, "launcher": [launcher.pid]}
    for pid in doomed.get(whom, [launcher.pid, *others, os.getpid()]):
        os.kill(pid, signal.SIGKILL)


def main() -> None:
    """Like the `hyperpelt` command, after two further arguments."""
    event, whom, *arguments = sys.argv[1:]
    if os.environ["RANK"] == "0":
        before_event(int(event), lambda: _kill(whom))
    from hyperpelt import cli

    sys.argv[1:] = arguments
    cli.main()


if __name__ == "__main__":
    main()
