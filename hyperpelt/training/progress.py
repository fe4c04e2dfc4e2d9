"""What a person sees of a training run: a progress bar with the loss of every task, or plain lines.

People read on stderr, so that stdout stays free for results. Only the main process reports.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from time import monotonic
from typing import Any

from rich.console import Console, Group
from rich.live import Live
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.table import Table
from rich.text import Text

from hyperpelt.evaluation.tables import WIDEST, blocks, data
from hyperpelt.training.callbacks import Callback, Evaluation

MOST_TASKS = 16  # shown at once; more are summed up
MOST_LINES = 8  # of losses below the bar
MOST_IN_LINE = 5  # of these where there is no terminal
SMOOTHING = 0.8  # of the losses on the screen; trackers get the plain ones
OF_TASK = "train/loss/"


class Screen(Callback):
    """The screen of one run.

    show: print at all. start: the step the run goes on from.
    """

    def __init__(self, *, total: int, start: int, show: bool) -> None:
        self.total, self.step = total, start
        self.console = Console(stderr=True, quiet=not show)
        self.losses: dict[str, float] = {}
        self._began, self._start = monotonic(), start
        self._bar = Progress(
            TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(),
            TimeRemainingColumn(), console=self.console,
        )  # fmt: skip
        self._task = self._bar.add_task("training", total=total, completed=start)
        self._numbers = ""
        self._live = Live(console=self.console, get_renderable=self._picture, refresh_per_second=4, transient=True)

    def __enter__(self) -> Screen:
        if self.console.is_terminal:
            self._live.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._live.stop()

    @contextmanager
    def paused(self) -> Iterator[None]:
        """The screen belongs to somebody else (an evaluation with its own bar)."""
        running = self._live.is_started
        self._live.stop()
        try:
            yield
        finally:
            if running:
                self._live.start()

    def say(self, text: str | Table) -> None:
        """One line, or a table, above the bar."""
        if isinstance(text, str):
            self.console.print(data(text), highlight=False, soft_wrap=True)
            return
        wide = self.console.width if self.console.is_terminal else WIDEST
        for block in blocks(text, wide):
            self.console.print(block, highlight=False, width=wide)

    def on_step(self, step: int, numbers: Mapping[str, float]) -> None:
        """Move the bar, and show the numbers where there are new ones."""
        self.step = step
        self._bar.update(self._task, completed=step)
        if numbers:
            self._show(step, numbers)

    def _show(self, step: int, numbers: Mapping[str, float]) -> None:
        task_losses = {name.removeprefix(OF_TASK): loss for name, loss in numbers.items() if name.startswith(OF_TASK)}
        for name, loss in task_losses.items():
            self.losses[name] = SMOOTHING * self.losses.get(name, loss) + (1 - SMOOTHING) * loss
        whole, speed = f"loss {numbers['train/loss']:.4f}", f"{numbers['train/tokens_per_second']:,.0f} tokens/s"
        rate = f"lr {numbers['train/learning_rate']:.2e}  grad {numbers['train/grad_norm']:.2f}"
        self._numbers = f"  {whole}  {rate}  {speed}"
        if not self.console.is_terminal:
            self.say(f"step {step}/{self.total}  {whole}  {self._remaining(step)}  {in_line(task_losses)}")

    def on_evaluate(self, evaluation: Evaluation) -> None:
        """One line; the final figures come as a table."""
        if evaluation.final:
            return
        best = evaluation.best_step == evaluation.step
        standing = "best so far" if best else f"best {evaluation.best_value:.2f} at step {evaluation.best_step}"
        found = list(evaluation.results.tasks.items())
        most = len(found) if len(found) <= MOST_TASKS else MOST_IN_LINE
        lowest = sorted(found, key=lambda pair: pair[1].score)[:most] if most < len(found) else found
        tasks = "  ".join(f"{name} {task.score:.1f}" for name, task in lowest)
        more = f"  ... and {len(found) - most} more tasks, all above" if len(found) > most else ""
        label = f"{evaluation.split} {evaluation.metric} {evaluation.value:.2f} ({standing})"
        self.say(f"step {evaluation.step}: {label}  {tasks}{more}")

    def _remaining(self, step: int) -> str:
        done = max(1, step - self._start)
        seconds = int((monotonic() - self._began) / done * (self.total - step))
        return f"{seconds // 3600}:{seconds // 60 % 60:02d}:{seconds % 60:02d} left"

    def _picture(self) -> Group:
        table = Table.grid(padding=(0, 2))
        shown = sorted(self.losses.items())[:MOST_TASKS]
        longest = max((len(name) for name, _ in shown), default=0) + len("  0.000") + 4
        columns = max(1, min(4, self.console.width // longest))  # names and numbers stay whole
        shown = shown[: columns * MOST_LINES]
        for start in range(0, len(shown), columns):
            table.add_row(
                *(
                    data(f"  {name} ").append(f"{loss:.3f}", style="bold")
                    for name, loss in shown[start : start + columns]
                )
            )
        if len(self.losses) > len(shown):
            table.add_row(f"  ... and {len(self.losses) - len(shown)} more tasks")
        return Group(self._bar, Text(self._numbers, no_wrap=True, overflow="crop"), table)


def in_line(losses: Mapping[str, float]) -> str:
    """The tasks with the highest losses, as much as a line holds; the group is left out where all are of one."""
    groups = {name.rpartition("/")[0] for name in losses}
    highest = sorted(losses, key=lambda name: -losses[name])[:MOST_IN_LINE]
    shown = [f"{name.rpartition('/')[2] if len(groups) == 1 else name} {losses[name]:.3f}" for name in sorted(highest)]
    more = [f"{len(losses) - len(shown)} more below"] if len(losses) > len(shown) else []
    return "  ".join([*shown, *more])


def rates_as_table(rows: Sequence[Mapping[str, Any]]) -> Table:
    """The mixture as people check it before training: rows, share of the draws, passes over the data."""
    table = Table(title="Training mixture", title_justify="left")
    table.add_column("task", no_wrap=True)
    for heading in ("rows", "rate", "epochs", "cut inputs", "cut targets"):
        table.add_column(heading, justify="right")
    for row in rows:
        cut = [f"{row[key]:,}" if row.get(key) else "-" for key in ("num_cut_sources", "num_cut_targets")]
        table.add_row(row["task"], f"{row['rows']:,}", f"{row['rate']:.2%}", f"{row['epochs']:.2f}", *cut)
    return table
