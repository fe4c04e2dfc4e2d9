"""What a cell's result is known by: the run, the task, its rows, the settings; and which recorded cells still stand."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from hyperpelt import tasks as registry
from hyperpelt.errors import UserError
from hyperpelt.transfer.cells import MEASURED, ZERO_SHOT, Cell, cell_id, settings_of
from hyperpelt.transfer.settings import PARTS, SCRATCH, TransferConfig

if TYPE_CHECKING:
    from hyperpelt.config import RunConfig
    from hyperpelt.tasks import Task

Record = Mapping[str, Any]
# Of the run's config.json: what changes the answers of the backbone alone; beside them, for images, their features.
CHANGING = ("quantization", "source_language", "target_language")
KNOWN_BY = {"task", "shots", "seed", "adapt", "start", "settings"}  # of a record


class Identities:
    """The ids of a transfer's cells. **saved**: config.json of the run; **settings**: those of its run.yaml, if any."""

    def __init__(self, config: TransferConfig, saved: Mapping[str, Any], settings: RunConfig | None) -> None:
        self.config, self.saved = config, saved
        names = ("max_source_length", "max_target_length", "precision", "blind")
        self._how = {name: getattr(settings, name, None) for name in names}
        self._rows: dict[str, dict[str, str]] = {}

    def of(self, cell: Cell, task: Task, settings: Mapping[str, Any] | None = None) -> str:
        """The id of a cell, by the present settings or those that it was recorded with."""
        return cell_id(cell, settings or settings_of(cell, self.config), self._about(cell, task))

    def _about(self, cell: Cell, task: Task) -> dict[str, Any]:
        """The model, the task and its rows; what uses the backbone alone is the same for every run."""
        names = ("backbone", "backbone_config_sha256", "backbone_weights")
        backbone = {name: self.saved.get(name) for name in names}
        # What most runs do not have stays unsaid where it is not, as in cells of before.
        more = (*CHANGING, *(("visual",) if "image" in task.modalities else ()))
        backbone |= {name: self.saved[name] for name in more if self.saved.get(name) is not None}
        about = {**backbone, "task": task.fingerprint(), "rows": self._rows_of(task), **self._how}
        if cell.adapt in (ZERO_SHOT, *PARTS):
            return {**about, "run": self.saved["config_sha256"]}
        return {**about, "method": self.saved["method"]} if cell.adapt == SCRATCH else about

    def _rows_of(self, task: Task) -> dict[str, str]:
        """Fingerprints of the rows that are learned from and measured."""
        from hyperpelt.data.fingerprints import fingerprint_rows

        if task.name not in self._rows:
            root, splits = self.config.data_root, ("train", self.config.split)
            self._rows[task.name] = {split: fingerprint_rows(task.rows(split, data_root=root)) for split in splits}
        return self._rows[task.name]


def still_standing(
    recorded: Mapping[str, Record], planned: Mapping[Cell, str], tasks: dict[str, Task], identities: Identities
) -> tuple[list[Record], list[str]]:
    """Cells of former transfers into the same folder that belong beside the planned ones in a table; and notes.

    They are those that would be found again now, measured as the planned ones. Of a row of the table all cells have
    the same settings: those of the planned ones, else those of the last recorded one. Their tasks join `tasks`.
    """
    notes: list[str] = []
    ids = set(planned.values())
    others = {name: record for name, record in recorded.items() if name not in ids and record.keys() >= KNOWN_BY}
    for task in dict.fromkeys(record["task"] for record in others.values()):
        if task not in tasks:
            try:
                tasks[task] = registry.get(task)
                identities.of(Cell(task, 0, 0, ZERO_SHOT), tasks[task])  # its rows can be read
            except UserError as problem:
                tasks.pop(task, None)
                notes.append(f"The recorded cells of {task} are left out of the table: {problem}")
    valid = [record for name, record in others.items() if _stands(name, record, tasks, identities)]
    settings = {_row_of(record): record["settings"] for record in valid}
    settings |= {(c.task, c.shots, c.adapt, c.start): settings_of(c, identities.config) for c in planned}
    found = [record for record in valid if record["settings"] == settings[_row_of(record)]]
    if found:
        notes.append(f"{len(found)} cells of earlier transfers into this folder stand in the table, too.")
    return sorted(found, key=lambda record: _cell_of(record)), notes


def _stands(name: str, record: Record, tasks: Mapping[str, Task], identities: Identities) -> bool:
    settings, config = record["settings"], identities.config
    if record["task"] not in tasks or any(settings.get(key) != getattr(config, key) for key in MEASURED):
        return False
    return identities.of(_cell_of(record), tasks[record["task"]], settings) == name


def _cell_of(record: Record) -> Cell:
    return Cell(*(record[name] for name in ("task", "shots", "seed", "adapt", "start")))


def _row_of(record: Record) -> tuple[Any, ...]:
    return tuple(record[name] for name in ("task", "shots", "adapt", "start"))


def diverged(cells: Sequence[Record]) -> list[str]:
    """A note on the cells whose training left the finite numbers, if there are any."""
    found: dict[str, list[str]] = {}
    for cell in cells:
        if (cell.get("fit") or {}).get("diverged_at") is not None:
            label = f"{cell['adapt']} from {cell['start']}" if cell["start"] else cell["adapt"]
            found.setdefault(f"{cell['task']} k={cell['shots']} {label}", []).append(str(cell["seed"]))
    if not found:
        return []
    named = "; ".join(f"{name} (seed {', '.join(seeds)})" for name, seeds in found.items())
    return [
        f"The training of {sum(map(len, found.values()))} cells diverged (a loss, gradient or weight was no finite "
        f"number), so they were measured with earlier weights; lower their --learning-rate: {named}."
    ]
