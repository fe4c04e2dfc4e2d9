"""The benchmark runs by one command, prints JSON alone, and its limit is truly in the run."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]


def test_step_prints_one_row_a_contestant_with_its_ratio_to_the_limit():
    command = [sys.executable, str(ROOT / "scripts" / "benchmark"), "step", "--shape", "t5-tiny", "--rows", "4"]
    command += ["--source", "16", "--repeats", "2", "--methods", "hyperpelt,peft-lora", "--json"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr[-2000:]
    rows = {row["method"]: row for row in json.loads(done.stdout)["rows"]}
    assert list(rows) == ["limit", "hyperpelt", "peft-lora"]
    for row in rows.values():
        assert row["ratio_to_limit"] == row["seconds"] / rows["limit"]["seconds"]
        assert row["seconds"] > 0
        assert row["peak_mb"] > 0
    assert rows["limit"]["trainable"] == 0 < rows["hyperpelt"]["trainable"]
