"""The cells of a transfer: task x shots x seed x adaptation (x start), and what each is known by."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from hyperpelt.transfer.settings import FEWEST, IN_CONTEXT, PARTS, TransferConfig

FORMAT = 2
MEASURED = ("split", "limit", "scoring")
ZERO_SHOT, FROZEN = "zero-shot", "frozen"


@dataclass(frozen=True, order=True)
class Cell:
    """One measurement. **start** is empty where nothing of the trained model is used; without shots the seed is 0.

    Without shots there is nothing to adapt: **adapt** is then `zero-shot` (the trained model with a task that starts as
    `start` says), `in-context` (the backbone with the instruction alone) or `frozen` (the bare backbone).
    """

    task: str
    shots: int
    seed: int
    adapt: str
    start: str = ""

    @property
    def label(self) -> str:
        """What tables and plots call the way of adapting."""
        return f"{self.adapt} from {self.start}" if self.start else self.adapt


def plan(config: TransferConfig, sizes: Mapping[str, int]) -> tuple[list[Cell], list[str]]:
    """All cells in the order in which they are done, few shots first; and notes on those that cannot be.

    sizes: training rows of each task.
    """
    cells: dict[Cell, None] = {}
    notes = []
    for shots in sorted(config.shots):
        for task, size in sizes.items():
            if shots > size:
                notes.append(f"{task} has {size} training rows: its cells with {shots} shots are left out.")
                continue
            found = _zero_shot(config, task) if shots == 0 else _few_shot(config, task, shots)
            cells |= dict.fromkeys(found)
    few = [shots for shots in sorted(config.shots) if 0 < shots < FEWEST]
    if few and config.choose == "held-out":
        named = ", ".join(map(str, few))
        notes.append(f"Of {named} shots no quarter can be held out: there the weights of the last step are measured.")
    return list(cells), notes


def _zero_shot(config: TransferConfig, task: str) -> Iterator[Cell]:
    if set(config.adapt) & set(PARTS):
        yield from (Cell(task, 0, 0, ZERO_SHOT, start) for start in config.start if start != "scored")
    if IN_CONTEXT in config.adapt:
        yield Cell(task, 0, 0, IN_CONTEXT)
    if set(config.adapt) - {*PARTS, IN_CONTEXT}:
        yield Cell(task, 0, 0, FROZEN)


def _few_shot(config: TransferConfig, task: str, shots: int) -> Iterator[Cell]:
    for seed in config.seeds:
        for adapt in config.adapt:
            starts = config.start if adapt in PARTS else [""]
            yield from (Cell(task, shots, seed, adapt, start) for start in starts)


def settings_of(cell: Cell, config: TransferConfig) -> dict[str, Any]:
    """The settings that a cell's result depends on, beside the model, the task and itself."""
    measured = {name: getattr(config, name) for name in MEASURED}
    trained: dict[str, Any] = {}
    if cell.adapt == IN_CONTEXT:
        trained = {"sampling": config.sampling, "context_length": config.context_length}
    elif cell.shots:
        names = ("sampling", "choose", "loss", "optimizer", "steps", "batch_size", "warmup_steps", "max_grad_norm")
        trained = {name: getattr(config, name) for name in names} | {"learning_rate": config.rate_of(cell.adapt)}
    return {**measured, **trained}


def cell_id(cell: Cell, settings: Mapping[str, Any], about: Mapping[str, Any]) -> str:
    """Sixteen hexadecimal digits for everything that a cell's result depends on. about: the model and the task."""
    content = json.dumps([FORMAT, asdict(cell), settings, about], sort_keys=True, default=str)
    return hashlib.sha256(content.encode()).hexdigest()[:16]


def share(cells: Sequence[Cell], rank: int, world: int) -> list[Cell]:
    """The cells of one process of several: dealt out in turn, so that each gets some of every size."""
    return [cell for index, cell in enumerate(cells) if index % world == rank]
