"""What a person sees of a training run: a progress bar with the loss of every task, or plain lines; and TensorBoard.

People read on stderr, so that stdout stays free for results. Only the main process reports.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from time import monotonic
from typing import TYPE_CHECKING, Any

from rich.console import Console, Group
from rich.live import Live
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.table import Table

if TYPE_CHECKING:
    from torch.utils.tensorboard import SummaryWriter

MOST_TASKS = 16  # shown at once; more are summed up
MOST_IN_LINE = 5  # of these where there is no terminal
SMOOTHING = 0.8  # of the losses on the screen; TensorBoard gets the plain ones


class Reporter:
    """The screen and the TensorBoard log of one run.

    show: print at all. write: write TensorBoard files (the main process does). start: the step the run goes on from.
    """

    def __init__(self, folder: Path, *, total: int, start: int, show: bool, write: bool) -> None:
        self.total, self.step = total, start
        self.console = Console(stderr=True, quiet=not show)
        self.losses: dict[str, float] = {}
        self._writer = _open_writer(folder, start) if write else None
        self._began, self._start = monotonic(), start
        self._bar = Progress(
            TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(),
            TimeRemainingColumn(), TextColumn("{task.fields[numbers]}"), console=self.console,
        )  # fmt: skip
        self._task = self._bar.add_task("training", total=total, completed=start, numbers="")
        self._live = Live(console=self.console, get_renderable=self._picture, refresh_per_second=4, transient=True)

    def __enter__(self) -> Reporter:
        if self.console.is_terminal:
            self._live.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._live.stop()
        if self._writer is not None:
            self._writer.close()

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
        self.console.print(text, highlight=False, soft_wrap=isinstance(text, str), markup=False)

    def advance(self, step: int) -> None:
        """So many optimiser steps are done."""
        self.step = step
        self._bar.update(self._task, completed=step)

    def log(self, step: int, numbers: Mapping[str, float], task_losses: Mapping[str, float]) -> None:
        """Numbers of the steps since the last call: train/loss, train/learning_rate, train/grad_norm, ..."""
        self.scalars(step, {**numbers, **{f"train/loss/{name}": loss for name, loss in task_losses.items()}})
        for name, loss in task_losses.items():
            self.losses[name] = SMOOTHING * self.losses.get(name, loss) + (1 - SMOOTHING) * loss
        whole, speed = f"loss {numbers['train/loss']:.4f}", f"{numbers['train/tokens_per_second']:,.0f} tokens/s"
        rate = f"lr {numbers['train/learning_rate']:.2e}  grad {numbers['train/grad_norm']:.2f}"
        self._bar.update(self._task, numbers=f"{whole}  {rate}  {speed}")
        if not self.console.is_terminal:
            self.say(f"step {step}/{self.total}  {whole}  {self._remaining(step)}  {in_line(task_losses)}")

    def scalars(self, step: int, numbers: Mapping[str, float]) -> None:
        """To TensorBoard alone."""
        if self._writer is not None:
            for name, value in numbers.items():
                self._writer.add_scalar(name, value, step)

    def flush(self) -> None:
        """What was logged so far is on disk."""
        if self._writer is not None:
            self._writer.flush()

    def _remaining(self, step: int) -> str:
        done = max(1, step - self._start)
        seconds = int((monotonic() - self._began) / done * (self.total - step))
        return f"{seconds // 3600}:{seconds // 60 % 60:02d}:{seconds % 60:02d} left"

    def _picture(self) -> Group:
        table = Table.grid(padding=(0, 2))
        shown = sorted(self.losses.items())[:MOST_TASKS]
        columns = 4
        for start in range(0, len(shown), columns):
            table.add_row(*(f"  {name} [bold]{loss:.3f}[/bold]" for name, loss in shown[start : start + columns]))
        if len(self.losses) > MOST_TASKS:
            table.add_row(f"  ... and {len(self.losses) - MOST_TASKS} more tasks")
        return Group(self._bar, table)


def in_line(losses: Mapping[str, float]) -> str:
    """The tasks with the highest losses, as much as a line holds; the group is left out where all are of one."""
    groups = {name.rpartition("/")[0] for name in losses}
    highest = sorted(losses, key=lambda name: -losses[name])[:MOST_IN_LINE]
    shown = [f"{name.rpartition('/')[2] if len(groups) == 1 else name} {losses[name]:.3f}" for name in sorted(highest)]
    more = [f"{len(losses) - len(shown)} more below"] if len(losses) > len(shown) else []
    return "  ".join([*shown, *more])


def _open_writer(folder: Path, start: int) -> SummaryWriter:
    from torch.utils.tensorboard import SummaryWriter

    # Steps after the checkpoint that a stopped run had logged are hidden: they are trained again.
    return SummaryWriter(str(folder), purge_step=start + 1 if start else None)


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
