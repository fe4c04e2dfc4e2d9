"""Several runs under one launch: `accelerate launch ... -m several_runs RUNS.json`, a list of settings for each."""

from __future__ import annotations

import json
import sys
from pathlib import Path

from hyperpelt.config import load_run
from hyperpelt.training import train
from hyperpelt.training.distributed import Processes

if __name__ == "__main__":
    Processes.close = Processes.wait  # the group stays for the next run
    for settings in json.loads(Path(sys.argv[1]).read_text(encoding="utf8")):
        train(load_run(None, settings), progress=False)
