"""A study: which run configuration, which methods with which settings, which seeds; and the runs that it needs."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from hyperpelt.errors import UserError, unknown
from hyperpelt.results import Results, load_results
from hyperpelt.training.checkpoints import list_checkpoints

KEYS = ("title", "run", "seeds", "methods", "notes")


@dataclass(frozen=True, kw_only=True)
class Study:
    """`methods`: name in the table -> settings that replace those of `run` (among them `method`, if not the name)."""

    path: Path
    title: str
    run: Path
    seeds: tuple[int, ...]
    methods: Mapping[str, Mapping[str, Any]]
    notes: str = ""

    @property
    def name(self) -> str:
        return self.path.stem.removeprefix("compare_")


def read_study(path: Path) -> Study:
    """Read a study's YAML; the path of `run` is relative to it.

    Raises:
        UserError: no such file, a key that is not one of `KEYS`, or one missing.
    """
    if not path.is_file():
        raise UserError(f"{path} does not exist: name a study such as scripts/compare_glue.yaml.")
    content = yaml.safe_load(path.read_text(encoding="utf8"))
    if not isinstance(content, dict) or any(not content.get(key) for key in KEYS[:-1]):
        raise UserError(f"{path}: expected the keys {', '.join(KEYS[:-1])}, got {content if content else 'nothing'}.")
    for key in content:
        if key not in KEYS:
            raise unknown("key of a study", key, KEYS)
    methods = {name: dict(settings or {}) for name, settings in content["methods"].items()}
    rest = {"title": content["title"], "notes": content.get("notes", "")}
    return Study(path=path, run=path.parent / content["run"], seeds=tuple(content["seeds"]), methods=methods, **rest)


@dataclass(frozen=True)
class Cell:
    """One training run of a study."""

    method: str
    seed: int
    settings: tuple[str, ...]
    folder: Path

    @property
    def finished(self) -> bool:
        """Whether a run with these very settings has ended here."""
        marker = self.folder / "compare.json"
        if not (self.folder / "results.json").is_file() or not marker.is_file():
            return False
        return json.loads(marker.read_text(encoding="utf8")) == list(self.settings)

    def results(self) -> Results:
        return load_results(self.folder)


def cells(study: Study, runs: Path, overrides: Sequence[str]) -> Iterator[Cell]:
    """All cells, seed by seed, so that an unfinished study has every method."""
    for seed in study.seeds:
        for name, settings in study.methods.items():
            chosen = {"method": name, **settings, "seed": seed}
            pairs = tuple(f"{key}={_as_text(value)}" for key, value in chosen.items())
            yield Cell(name, seed, (*pairs, *overrides), runs / f"{name}-{seed}")


def _as_text(value: Any) -> str:
    return json.dumps(value) if isinstance(value, (Mapping, list, bool)) else str(value)


def run_cell(study: Study, cell: Cell, at_work: set[subprocess.Popen[bytes]]) -> int:
    """Train and evaluate one cell in a process of its own, from its last checkpoint if it has one; its exit status.

    - **at_work**: where the process is to be found while it runs
    """
    cell.folder.mkdir(parents=True, exist_ok=True)
    marker = cell.folder / "compare.json"
    same = marker.is_file() and json.loads(marker.read_text(encoding="utf8")) == list(cell.settings)
    if not same:  # what lies here was made otherwise
        (cell.folder / "results.json").unlink(missing_ok=True)
    marker.write_text(json.dumps(list(cell.settings)), encoding="utf8")
    going_on = same and bool(list_checkpoints(cell.folder / "checkpoints"))
    settings = [*cell.settings, f"output_dir={cell.folder}", "resume=true" if going_on else "overwrite=true"]
    environment = {"OMP_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false", **os.environ}
    with (cell.folder / "train.log").open("a", encoding="utf8") as log:
        command = [sys.executable, "-m", "hyperpelt.cli", "train", str(study.run), *settings]
        process = subprocess.Popen(command, stdout=log, stderr=log, env=environment)
        at_work.add(process)
        try:
            return process.wait()
        finally:
            at_work.discard(process)


def run_study(
    study: Study, wanted: Sequence[Cell], *, parallel: int, finished: Callable[[Cell, int], None]
) -> dict[str, int]:
    """Run what is not finished, `parallel` at a time; folder -> exit status of the cells that failed.

    Stopped by Ctrl-C or SIGTERM (which need not reach the runs), it stops the runs at work, which save, and waits.
    """
    failed: dict[str, int] = {}
    at_work: set[subprocess.Popen[bytes]] = set()
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    with ThreadPoolExecutor(parallel) as pool:
        started = {pool.submit(run_cell, study, cell, at_work): cell for cell in wanted if not cell.finished}
        try:
            for future in as_completed(started):
                status, cell = future.result(), started[future]
                if status:
                    failed[str(cell.folder)] = status
                finished(cell, status)
        except KeyboardInterrupt:
            pool.shutdown(wait=False, cancel_futures=True)
            for process in list(at_work):  # one that had Ctrl-C too takes this for its echo
                process.terminate()
            raise
    return failed
