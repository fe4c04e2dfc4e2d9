"""Where a run's numbers go: TensorBoard in the run folder, Weights & Biases, trackio, MLflow; through Accelerate.

    report_to: [tensorboard, wandb]       project: my-project       run_name: first

All but TensorBoard are optional packages. One that is not installed, or that cannot be reached, is said in a sentence
before the first step; one that fails later is left out from there on, and training goes on. A run that is resumed goes
on in the same run of its tracker, whose id stands in `trackers.json`.
"""

from __future__ import annotations

import importlib.util
import os
import socket
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit
from urllib.request import getproxies

from hyperpelt.errors import UserError
from hyperpelt.files.atomic import write_json
from hyperpelt.files.reading import Damaged, read_object
from hyperpelt.training.callbacks import Callback, Evaluation

if TYPE_CHECKING:
    from accelerate.tracking import GeneralTracker

    from hyperpelt.config import RunConfig

IDS = "trackers.json"
REACHED_WITHIN = 5.0  # seconds
HINTS = {
    "tensorboard": "choose another output_dir",
    "wandb": "log in (`wandb login`), set WANDB_MODE=offline",
    "trackio": "see that its folder (TRACKIO_DIR) can be written",
    "mlflow": "name a server or a folder in MLFLOW_TRACKING_URI (`file:mlruns`)",
}


def check_installed(names: Sequence[str]) -> None:
    """Raises UserError for a tracker whose package is not there."""
    for name in names:
        if importlib.util.find_spec(name) is None:
            raise UserError(
                f"report_to: {name} is not installed; `pip install 'hyperpelt[{name}]'`, or leave it out of report_to."
            )


class Trackers(Callback):
    """The trackers of a run, as `report_to` names them. `folder`: of the run; `start`: the step that it goes on from.

    Raises UserError where one cannot be started.
    """

    def __init__(self, config: RunConfig, folder: Path, *, start: int, say: Callable[[str], None]) -> None:
        self._say = say
        check_installed(config.report_to)
        ids = _read_ids(folder / IDS) if start else {}
        self._trackers: dict[str, GeneralTracker] = {}
        for name in config.report_to:
            _check_reachable(name)
            self._trackers[name] = _make(name, config, folder, start, ids.get(name))
            self._start(name, config, again=name in ids)
        found = {name: _id_of(name, tracker) for name, tracker in self._trackers.items()}
        if any(found.values()):
            write_json(folder / IDS, {name: found_id for name, found_id in found.items() if found_id})

    def _start(self, name: str, config: RunConfig, *, again: bool) -> None:
        tracker = self._trackers[name]
        try:
            tracker.start()
            if name != "tensorboard" and not again:  # beside TensorBoard lies run.yaml; MLflow lets none change
                tracker.store_init_configuration(_flat(config.model_dump(mode="json")))
        except Exception as error:  # every tracker has errors of its own
            if not any(hasattr(tracker, opened) for opened in ("active_run", "run", "writer")):
                del self._trackers[name]  # there is nothing to close
            self.close()
            raise UserError(
                f"report_to: {name} could not be started ({_first_line(error)}); {HINTS[name]}, or leave it out of "
                "report_to."
            ) from error

    def on_step(self, step: int, numbers: Mapping[str, float]) -> None:
        if numbers:
            self._log(step, numbers)

    def on_evaluate(self, evaluation: Evaluation) -> None:
        self._log(evaluation.step, evaluation.numbers())

    def _log(self, step: int, numbers: Mapping[str, float]) -> None:
        for name, tracker in list(self._trackers.items()):
            try:
                tracker.log(_named_for(name, numbers), step=step)
            except Exception as error:  # training is worth more than its log
                self._finish(name, self._trackers.pop(name))
                self._say(f"{name} takes no more numbers ({_first_line(error)}); training goes on without it.")

    def close(self) -> None:
        """Nothing is logged any more, and all that was is on its way."""
        while self._trackers:
            self._finish(*self._trackers.popitem())

    def _finish(self, name: str, tracker: GeneralTracker) -> None:
        try:
            tracker.finish()
        except Exception as error:
            self._say(f"{name} could not be closed ({_first_line(error)}).")


def _make(name: str, config: RunConfig, folder: Path, start: int, run_id: str | None) -> GeneralTracker:
    from accelerate.tracking import LOGGER_TYPE_TO_CLASS

    run = config.run_name or folder.resolve().name
    kind: Any = LOGGER_TYPE_TO_CLASS[name]
    if name == "tensorboard":
        # Steps after the checkpoint that a stopped run had logged are hidden: they are trained again.
        return kind("tensorboard", folder, purge_step=start + 1 if start else None)
    if name == "mlflow":
        return kind(config.project, run_name=run, run_id=run_id)
    again: dict[str, Any] = {"resume": "allow"} if name == "trackio" and start else {}
    if name == "wandb":
        again = {"dir": str(folder), **({"id": run_id, "resume": "allow"} if run_id else {})}
    return kind(config.project, name=run, **again)


def _named_for(name: str, numbers: Mapping[str, float]) -> dict[str, float]:
    """MLflow may keep metrics as files, where `train/loss` and `train/loss/TASK` cannot both be."""
    if name != "mlflow":
        return dict(numbers)
    parts = {full: full.split("/", 1) for full in numbers}
    return {"/".join([*parts[full][:-1], parts[full][-1].replace("/", ".")]): value for full, value in numbers.items()}


def _id_of(name: str, tracker: Any) -> str | None:
    """By which a tracker knows the run again."""
    if name == "mlflow":
        return str(tracker.tracker.info.run_id)
    return str(tracker.tracker.id) if name == "wandb" else None


def _read_ids(path: Path) -> dict[str, str]:
    try:
        return read_object(path)
    except (OSError, Damaged):
        return {}


def _check_reachable(name: str) -> None:
    """Trackers wait for minutes for a server that is not there; a person does not."""
    address = _server_of(name)
    place = urlsplit(address or "")
    if place.hostname is None or place.scheme in getproxies():
        return
    try:
        port = place.port or (443 if place.scheme == "https" else 80)
        socket.create_connection((place.hostname, port), timeout=REACHED_WITHIN).close()
    except OSError as error:
        raise UserError(
            f"report_to: {name} at {address} cannot be reached ({error.strerror or error}); {HINTS[name]}, or leave it "
            "out of report_to."
        ) from None


def _server_of(name: str) -> str | None:
    if name == "wandb" and os.environ.get("WANDB_MODE", "online") == "online":
        return os.environ.get("WANDB_BASE_URL", "https://api.wandb.ai")
    address = os.environ.get("MLFLOW_TRACKING_URI", "") if name == "mlflow" else ""
    return address if address.startswith("http") else None


def _flat(settings: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    found: dict[str, Any] = {}
    for key, value in settings.items():
        if isinstance(value, Mapping):
            found |= _flat(value, f"{prefix}{key}.")
        else:
            found[prefix + key] = value if isinstance(value, bool | int | float | str | None) else str(value)
    return found


def _first_line(error: BaseException) -> str:
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0]}" if lines else type(error).__name__
