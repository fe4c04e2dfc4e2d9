"""The `adapters` library in an environment of its own, step by step in turn with all others; see `other_worker`."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

NAMES = ("adapters-mam", "adapters-pfeiffer")


class Other:
    """The process in that environment."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self.process = process

    def ask(self, command: str) -> dict[str, Any]:
        assert self.process.stdin is not None
        self.process.stdin.write(command + "\n")
        self.process.stdin.flush()
        return self.answer()

    def answer(self) -> dict[str, Any]:
        """The next line that is a JSON object; libraries print what they like in between."""
        assert self.process.stdout is not None
        for line in self.process.stdout:
            if line.startswith("{"):
                return json.loads(line)
        raise RuntimeError(f"The process of the adapters library ended with status {self.process.wait()}.")

    def step(self, name: str) -> float:
        return self.ask(f"step {name}")["seconds"]

    def steps(self, names: Sequence[str]) -> dict[str, Any]:
        """Steps with a clock of their own: what passes between the processes is not counted."""
        return {name: partial(self.step, name) for name in names}


@contextmanager
def other(python: str | None, names: Sequence[str], setting: dict[str, Any]) -> Iterator[Other | None]:
    """The process, ready to make steps; None if none of its contestants was asked for."""
    if not names:
        yield None
        return
    if python is None:
        raise SystemExit(f"{', '.join(names)}: name an environment's interpreter that has adapters: --adapters PYTHON")
    command = [python, str(Path(__file__).with_name("other_worker.py")), json.dumps({**setting, "names": [*names]})]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=sys.stderr, text=True) as made:
        found = Other(made)
        try:
            found.answer()
            yield found
        finally:
            assert made.stdin is not None
            made.stdin.close()
