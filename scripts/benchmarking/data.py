"""What a run takes before its first step over a large file of rows: processor seconds and memory, in new processes.

The file is made of sentences of drawn words, some 200 bytes a row, and the same on every machine.
"""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

WORDS = 5000
TASK = """
name: bench/rows
source: {files: {train: train.jsonl, test: test.jsonl}}
input: "first: {first} second: {second}"
choices: ["no", "yes"]
splits: {validation: null}
"""
READ = """
import json, sys
with open(sys.argv[1], "rb") as lines:
    number = sum(len(json.loads(line)) for line in lines)
"""
PREPARE = """
import json, sys
from hyperpelt.config import build_run
from hyperpelt.training.distributed import start_processes
from hyperpelt.training.setup import prepare
config = build_run(json.loads(sys.argv[1]))
setup = prepare(config.with_full_paths(), start_processes(use_cpu=True))
next(setup.steps(0))
"""
TOLD = """
import resource
try:
    (peak,) = [int(line.split()[1]) / 1024 for line in open("/proc/self/status") if line.startswith("VmHWM")]
except OSError:
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
spent = resource.getrusage(resource.RUSAGE_SELF)
print(json.dumps({"seconds": spent.ru_utime + spent.ru_stime, "peak_mb": peak}))
"""


def measure(*, rows: int, steps: int, batch: int, backbone: str) -> list[dict[str, Any]]:
    """One row a process: `method`, `seconds` of processor time, `peak_mb` of memory, `ratio_to_limit` of seconds; the
    limit is Python that parses each line once."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_rows(folder, rows)
        small = folder / "small"
        small.mkdir()
        write_rows(small, 64)
        found = {
            "parse each line": _run(READ, str(folder / "train.jsonl"), cache=folder),
            "64 rows": _run(PREPARE, _settings(small, backbone, steps, batch), cache=folder),
            "first time": _run(PREPARE, _settings(folder, backbone, steps, batch), cache=folder),
            "again": _run(PREPARE, _settings(folder, backbone, steps, batch), cache=folder),
        }
    limit = found["parse each line"]["seconds"]
    return [{"method": name, **told, "ratio_to_limit": told["seconds"] / limit} for name, told in found.items()]


def write_rows(folder: Path, rows: int) -> None:
    """`train.jsonl` of so many rows, a small `test.jsonl`, and `tasks.yaml` that names them."""
    draw = random.Random(0)
    letters = "abcdefghijklmnopqrstuvwxyz"
    words = ["".join(draw.choices(letters, k=draw.randint(2, 9))) for _ in range(WORDS)]
    for name, count in (("train", rows), ("test", 64)):
        with (folder / f"{name}.jsonl").open("w", encoding="utf8") as file:
            for number in range(count):
                first, second = (" ".join(draw.choices(words, k=draw.randint(4, 20))) for _ in range(2))
                file.write(json.dumps({"first": first, "second": second, "label": number % 2}) + "\n")
    (folder / "tasks.yaml").write_text(TASK, encoding="utf8")


def _settings(folder: Path, backbone: str, steps: int, batch: int) -> str:
    settings = {
        "backbone": backbone,
        "method": "hyperpelt",
        "tasks": ["bench/rows"],
        "plugins": [str(folder / "tasks.yaml")],
        "output_dir": str(folder / "run"),
        "max_steps": steps,
        "per_device_train_batch_size": batch,
    }
    return json.dumps(settings)


def _run(code: str, argument: str, *, cache: Path) -> dict[str, float]:
    environment = {**os.environ, "HYPERPELT_CACHE": str(cache / "cache"), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, "-c", code + TOLD, argument], check=True, stdout=subprocess.PIPE, text=True, env=environment
    )
    told: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return told
