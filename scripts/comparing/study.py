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
from functools import cache
from pathlib import Path
from typing import Any

from hyperpelt.backbones import embedded
from hyperpelt.backbones.packaged import sha256
from hyperpelt.config import RunConfig, load_run
from hyperpelt.config.runs import build_run
from hyperpelt.config.text import read_yaml
from hyperpelt.errors import UserError, unknown
from hyperpelt.evaluation.results import Results, load_results
from hyperpelt.files import folders
from hyperpelt.files.atomic import write_json
from hyperpelt.training.checkpoints import list_checkpoints

NEEDED = ("title", "run", "seeds", "methods")
KEYS = (*NEEDED, "settings", "notes")
MARKER = "compare.json"  # in a cell's folder: the settings that it was made with
WITHOUT_EFFECT = ("save_steps", "save_total_limit", "frozen_row", "dataloader_num_workers", "report_to")
OWN = {
    "seed": "--seeds, or the study's `seeds`",
    "method": "--methods, or the study's `methods`",
    "output_dir": "--runs",
}
PLACES = ("output_dir", "data_root", "features_dir", "features_max_size", "plugins", "resume", "overwrite")


@dataclass(frozen=True, kw_only=True)
class Study:
    """`settings` replace those of `run` in every cell; `methods`: name in the table -> what replaces both, for that
    method (among it `method`, if not the name)."""

    path: Path
    title: str
    run: Path
    seeds: tuple[int, ...]
    methods: Mapping[str, Mapping[str, Any]]
    settings: Mapping[str, Any]
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
    content, _ = read_yaml(path)
    if any(not content.get(key) for key in NEEDED):
        raise UserError(f"{path}: expected the keys {', '.join(NEEDED)}, got {content if content else 'nothing'}.")
    for key in content:
        if key not in KEYS:
            raise unknown("key of a study", key, KEYS)
    _check(path, content)
    methods = {str(name): dict(settings or {}) for name, settings in content["methods"].items()}
    rest = {"title": content["title"], "settings": content.get("settings") or {}, "notes": content.get("notes") or ""}
    return Study(path=path, run=path.parent / content["run"], seeds=tuple(content["seeds"]), methods=methods, **rest)


def _check(path: Path, content: Mapping[str, Any]) -> None:
    """UserError for a value of another kind than the study needs."""
    seeds, methods = content["seeds"], content["methods"]
    kinds = {
        "title, run: text": all(isinstance(content[key], str) for key in ("title", "run")),
        "seeds: a list of whole numbers, such as [0, 1]": isinstance(seeds, list)
        and all(type(s) is int for s in seeds),
        "seeds: each once": isinstance(seeds, list) and len({*map(str, seeds)}) == len(seeds),
        "settings: a mapping, such as {max_steps: 500}": isinstance(content.get("settings") or {}, dict),
        "methods: a mapping from names to settings, such as {lora: {learning_rate: 0.001}}": isinstance(methods, dict)
        and all(settings is None or isinstance(settings, dict) for settings in methods.values()),
    }
    for expected, met in kinds.items():
        if not met:
            raise UserError(f"{path}: expected {expected}.")
    shared = content.get("settings") or {}
    for place, settings in (("settings", shared), *methods.items()):
        if "seed" in (settings or {}):
            raise UserError(f"{path}: {place} holds a seed: give the study's own, such as seeds: [0, 1, 2].")
    if "method" in shared:
        raise UserError(f"{path}: settings holds a method: put it under methods, with the name it has in the table.")


@dataclass(frozen=True)
class Cell:
    """One training run of a study. **resolved**: every setting, those of the run configuration too, but no places."""

    method: str
    seed: int
    settings: tuple[str, ...]
    folder: Path
    resolved: Mapping[str, Any]

    @property
    def ended(self) -> bool:
        """Whether some run has ended here."""
        return (self.folder / "results.json").is_file()

    @property
    def finished(self) -> bool:
        """Whether a run with these very settings has ended here."""
        return self.ended and not self.differing()

    @property
    def weights(self) -> str | None:
        return weights_of(self.resolved["backbone"])

    def differing(self) -> list[str]:
        """Settings in which what lies here was made otherwise; `weights`, if its backbone had others."""
        made, weights = _made_with(self.folder)
        keys = sorted(key for key in {*made, *self.resolved} if made.get(key) != self.resolved.get(key))
        return keys + ["weights"] * (weights not in (None, self.weights))

    def results(self) -> Results:
        return load_results(self.folder)


@cache
def weights_of(backbone: str) -> str | None:
    """Which weights an embedded backbone has here, as docs/results/backbones.md names them; None for any other."""
    if backbone not in embedded.NAMES:
        return None
    return sha256(embedded.asset_folder(backbone) / "model.safetensors")[:16]


def _made_with(folder: Path) -> tuple[dict[str, Any], str | None]:
    """The settings of the run that lies in a cell's folder, but places, and its backbone's weights; a marker of old
    holds only some of them."""
    try:
        content = json.loads((folder / MARKER).read_text(encoding="utf8"))
        if isinstance(content, list):
            return resolved(folder / "run.yaml", ()), None
        made = build_run({**content["resolved"], "output_dir": "-"})  # fills in what is new since
        return _without_places(made), content.get("weights")
    except (OSError, ValueError, KeyError):  # none, or damaged: made in an unknown way
        return {}, None


def resolved(run: Path, overrides: Sequence[str]) -> dict[str, Any]:
    """Every setting of a run, but where things lie and whether it goes on.

    Raises:
        UserError: a setting is unknown or wrong.
    """
    return _without_places(load_run(run, overrides).with_full_paths())


def _without_places(config: RunConfig) -> dict[str, Any]:
    return {key: value for key, value in config.model_dump(mode="json").items() if key not in PLACES}


def cells(study: Study, runs: Path, overrides: Sequence[str]) -> Iterator[Cell]:
    """All cells, seed by seed, so that an unfinished study has every method.

    Raises:
        UserError: a setting is unknown or wrong, or an override of what makes cells differ.
    """
    for pair in overrides:
        if (key := pair.split("=", 1)[0].strip()) in OWN:
            raise UserError(
                f"{pair!r} would be the same in every run of the study, which sets {key!r} itself: {OWN[key]}."
            )
    for seed in study.seeds:
        for name, settings in study.methods.items():
            chosen = {**study.settings, "method": name, **settings, "seed": seed}
            pairs = tuple(f"{key}={_as_text(value)}" for key, value in chosen.items())
            settings, folder = (*pairs, *overrides), runs / f"{name}-{seed}"
            yield Cell(name, seed, settings, folder, resolved(study.run, (*settings, f"output_dir={folder}")))


def _as_text(value: Any) -> str:
    return json.dumps(value) if isinstance(value, (Mapping, list, bool, type(None))) else str(value)


def run_cell(study: Study, cell: Cell, at_work: set[subprocess.Popen[bytes]]) -> int:
    """Train and evaluate one cell in a process of its own, from its last checkpoint if it has one; its exit status.

    - **at_work**: where the process is to be found while it runs
    """
    cell.folder.mkdir(parents=True, exist_ok=True)
    same = not cell.differing()
    if not same:  # what lies here was made otherwise, and nothing may go on from it
        folders.remove(cell.folder / "results.json")
        folders.remove(cell.folder / "checkpoints")
    marker = {"settings": list(cell.settings), "resolved": dict(cell.resolved), "weights": cell.weights}
    write_json(cell.folder / MARKER, marker)
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
            if at_work:
                print("compare: stopping as soon as the runs at work have saved.", file=sys.stderr, flush=True)
            for process in list(at_work):  # one that had Ctrl-C too takes this for its echo
                process.terminate()
            raise
    return failed
