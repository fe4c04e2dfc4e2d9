"""What a training run tells of itself while it runs, for whoever listens: its own screen and trackers, and yours.

    class Stopwatch(hyperpelt.Callback):
        def on_evaluate(self, evaluation):
            print(evaluation.step, evaluation.results.average)

    hyperpelt.train(config, callbacks=[Stopwatch()])

Only the main process calls. What a callback raises ends the run, which goes on from its last checkpoint (`resume`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from hyperpelt.evaluation.results import Results


@dataclass(frozen=True, kw_only=True)
class Evaluation:
    """One evaluation of a run.

    - **metric**, **value**: what checkpoints are compared by (`metric_for_best`), and what it is now
    - **best_step**, **best_value**: of the best evaluation so far, this one included
    - **final**: of the best checkpoint, on the split for the final figures, when training is over
    """

    step: int
    split: str
    results: Results
    metric: str
    value: float
    best_step: int | None
    best_value: float | None
    final: bool = False

    def numbers(self) -> dict[str, float]:
        """By the names that trackers get: `eval/average`, `eval/TASK/METRIC`; `test/...` of the final one."""
        group = "test" if self.final else "eval"
        tasks = {
            f"{group}/{name}/{metric}": score
            for name, task in self.results.tasks.items()
            for metric, score in task.metrics.items()
        }
        return {f"{group}/average": self.results.average, **tasks}


class Callback:
    """Base of callbacks: override the methods that you need; the others do nothing. Called in the main process only."""

    def on_step(self, step: int, numbers: Mapping[str, float]) -> None:
        """After each optimiser step.

        numbers: empty except at every `log_steps`-th step, when losses are fetched from the device: means over the
        steps since the last time, by name (`train/loss`, `train/loss/TASK`, `train/learning_rate`, `train/grad_norm`,
        `train/tokens_per_second`).
        """

    def on_evaluate(self, evaluation: Evaluation) -> None:
        """After each evaluation, before its checkpoint is written."""

    def on_save(self, step: int, checkpoint: Path) -> None:
        """After each checkpoint, a folder that is then completely written."""


class Callbacks(Callback):
    """Several callbacks as one, called in their order."""

    def __init__(self, callbacks: Sequence[Callback]) -> None:
        self.callbacks = tuple(callbacks)

    def on_step(self, step: int, numbers: Mapping[str, float]) -> None:
        for callback in self.callbacks:
            callback.on_step(step, numbers)

    def on_evaluate(self, evaluation: Evaluation) -> None:
        for callback in self.callbacks:
            callback.on_evaluate(evaluation)

    def on_save(self, step: int, checkpoint: Path) -> None:
        for callback in self.callbacks:
            callback.on_save(step, checkpoint)
