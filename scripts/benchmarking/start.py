"""How long it takes until something happens: imports and `--help`, each in a new process."""

from __future__ import annotations

import resource
import subprocess
import sys
import time
from functools import partial
from typing import Any

from benchmarking.timing import clock, interleaved

CONTESTANTS = {
    "python": ("-c", "pass"),
    "import hyperpelt": ("-c", "import hyperpelt"),
    "hyperpelt --help": ("-m", "hyperpelt.cli", "--help"),
    "hyperpelt methods list": ("-m", "hyperpelt.cli", "methods", "list", "--json"),
    "import transformers": ("-c", "import transformers"),
    "import torch": ("-c", "import torch"),
    "import peft": ("-c", "import peft"),
}


def _run(arguments: tuple[str, ...]) -> float:
    """Seconds of a process from start to end, by the clock that was chosen."""
    start, before = time.perf_counter(), resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run([sys.executable, *arguments], check=True, capture_output=True)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    spent = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return spent if clock() == "cpu" else time.perf_counter() - start


def measure(*, repeats: int) -> list[dict[str, Any]]:
    """One row a command: `method`, `seconds`, and `ratio_to_limit`, the limit being `import torch`."""
    seconds = interleaved({name: partial(_run, command) for name, command in CONTESTANTS.items()}, repeats=repeats)
    return [
        {"method": name, "seconds": value, "ratio_to_limit": value / seconds["import torch"]}
        for name, value in seconds.items()
    ]
