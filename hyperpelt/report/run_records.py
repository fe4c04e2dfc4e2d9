"""A run folder as reports read it: settings, results, logged curves, and how near the tasks are to each other.

Everything is read as files; no model is built. What a run has not written yet is simply absent.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from hyperpelt.errors import UserError
from hyperpelt.evaluation.results import Results, load_results
from hyperpelt.files.plain_yaml import LARGEST, Bounded, NotYaml, parse_one
from hyperpelt.files.reading import read_object, read_text

# Of run.yaml: what repetitions of a run may differ in.
NOT_COMPARED = (
    "seed",
    "output_dir",
    "data_root",
    "features_dir",
    "features_max_size",
    "plugins",
    "report_to",
    "project",
    "run_name",
    "overwrite",
    "resume",
)


@dataclass(frozen=True)
class Curve:
    """One logged number over optimiser steps."""

    steps: list[int]
    values: list[float]


@dataclass(frozen=True, kw_only=True)
class RunRecord:
    """What a run folder holds."""

    name: str
    folder: Path
    results: Results | None = None
    settings: str = ""  # run.yaml as text
    curves: dict[str, Curve] = field(default_factory=dict)
    tasks: tuple[str, ...] = ()
    definitions: dict[str, str] = field(default_factory=dict)  # fingerprints of the tasks' definitions

    @property
    def training(self) -> dict[str, Any]:
        """How it was trained: steps, tokens, seconds, seed, ...; empty if it has not finished."""
        return dict(self.results.settings.get("training") or {}) if self.results else {}

    @property
    def given(self) -> dict[str, Any]:
        """The settings of run.yaml; its text where it is no mapping."""
        try:
            found = parse_one(self.settings, Bounded)[1] or {}
        except NotYaml:
            found = None
        return found if isinstance(found, dict) else {"run.yaml": self.settings}

    @property
    def so_far(self) -> dict[str, Any]:
        """What is known of a run that has not finished: its method, backbone, seed, and steps logged or saved."""
        steps_of = [curve.steps[-1] for curve in self.curves.values() if curve.steps]
        steps_of += [int(path.name[5:]) for path in self.folder.glob("checkpoints/step-*") if path.name[5:].isdigit()]
        found, logged = self.given, max(steps_of, default=0)
        method, most = found.get("method"), found.get("max_steps")
        steps = f"{logged:,} of {most:,}" if isinstance(most, int) else logged or None
        name = method.get("name", "a composition") if isinstance(method, dict) else method
        return {"method": name, "backbone": found.get("backbone"), "seed": found.get("seed"), "steps": steps}

    @property
    def comparable_settings(self) -> dict[str, Any]:
        """What decides the result beside the seed: its settings without it and without places on this machine."""
        return {key: value for key, value in self.given.items() if key not in NOT_COMPARED}

    @property
    def method(self) -> str:
        """The method's name; the run's own name if it is not known yet."""
        return str(self.results.model.get("method")) if self.results else self.name


def read_runs(folders: Sequence[str | Path]) -> list[RunRecord]:
    """All runs in `folders`, each once: run folders, or folders of run folders. UserError where there is none."""
    found: dict[Path, Path] = {}
    for folder in map(Path, folders):
        if not folder.is_dir():
            raise UserError(f"No run folder {folder}.")
        inside = [folder] if _is_run(folder) else sorted(path for path in folder.iterdir() if _is_run(path))
        if not inside:
            raise UserError(f"{folder} is no run folder and holds none: expected a run.yaml or results.json in it.")
        for path in inside:
            found.setdefault(path.resolve(), path)
    paths = list(found.values())
    return [read_run(path, name) for path, name in zip(paths, _short_names(paths), strict=True)]


def _is_run(path: Path) -> bool:
    return any((path / name).is_file() for name in ("run.yaml", "results.json"))


def _short_names(folders: Sequence[Path]) -> list[str]:
    """The last part of each path; as many parts as it takes to tell them apart."""
    parts = [folder.resolve().parts for folder in folders]
    for length in range(1, max(map(len, parts)) + 1):
        names = ["/".join(part[-length:]) for part in parts]
        if len(set(names)) == len(names):
            return names
    return [str(folder) for folder in folders]


def read_run(folder: Path, name: str) -> RunRecord:
    """One run folder."""
    settings = folder / "run.yaml"
    config = _read_json(folder / "config.json")
    given = config.get("tasks", [])
    if not isinstance(given, list) or not all(isinstance(task, dict) and "name" in task for task in given):
        raise UserError(f"{folder / 'config.json'} names no tasks as a run does: truncated or edited.")
    tasks = tuple(str(task["name"]) for task in given)
    return RunRecord(
        name=name,
        folder=folder,
        results=load_results(folder) if (folder / "results.json").is_file() else None,
        settings=read_text(settings, largest=LARGEST) if settings.is_file() else "",
        curves=read_curves(folder / "tensorboard"),
        tasks=tasks,
        definitions={task["name"]: task["fingerprint"] for task in config.get("tasks", ()) if task.get("fingerprint")},
    )


def _read_json(path: Path) -> dict[str, Any]:
    try:
        return read_object(path)
    except FileNotFoundError:
        return {}


def read_curves(folder: Path) -> dict[str, Curve]:
    """Every scalar in a folder of TensorBoard events, by tag; a resumed run's repeated steps count once."""
    if not folder.is_dir():
        return {}
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(folder), size_guidance={"scalars": 0})
    events.Reload()
    curves = {}
    tags: dict[str, Any] = events.Tags()
    for tag in tags["scalars"]:
        last = {event.step: event.value for event in events.Scalars(tag)}
        steps = sorted(last)
        curves[tag] = Curve(steps, [last[step] for step in steps])
    return curves
