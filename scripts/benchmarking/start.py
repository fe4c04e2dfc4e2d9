"""How long it takes until something happens: imports and `--help`, each in a new process."""

from __future__ import annotations

import subprocess
import sys
from functools import partial
from typing import Any

from benchmarking.timing import interleaved

CONTESTANTS = {
    "python": ("-c", "pass"),
    "import hyperpelt": ("-c", "import hyperpelt"),
    "hyperpelt --help": ("-m", "hyperpelt.cli", "--help"),
    "hyperpelt methods list": ("-m", "hyperpelt.cli", "methods", "list", "--json"),
    "import transformers": ("-c", "import transformers"),
    "import torch": ("-c", "import torch"),
    "import peft": ("-c", "import peft"),
}


def measure(*, repeats: int) -> list[dict[str, Any]]:
    """One row a command: `method`, `seconds`, and `ratio_to_limit`, the limit being `import torch`."""
    runs = {
        name: partial(subprocess.run, [sys.executable, *arguments], check=True, capture_output=True)
        for name, arguments in CONTESTANTS.items()
    }
    seconds = interleaved(runs, repeats=repeats)
    return [
        {"method": name, "seconds": value, "ratio_to_limit": value / seconds["import torch"]}
        for name, value in seconds.items()
    ]
