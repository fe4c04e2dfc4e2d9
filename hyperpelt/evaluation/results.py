"""What an evaluation found: per task and on average, as JSON (`results.json`) and as a table.

Two averages are kept apart. `average` is the plain mean over all metric columns, as the HyperFormer and HyperPELT
papers print it (11 columns for the eight GLUE tasks, so MRPC, QQP and STS-B count twice); `average_over_tasks` first
averages the metrics of each task. The majority baseline and the frozen backbone, where they were measured, carry both.

No PyTorch here: reports read results without it.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import stdev
from typing import TYPE_CHECKING, Any

from hyperpelt.errors import UserError, counted
from hyperpelt.evaluation.tables import data, text_of
from hyperpelt.evaluation.written import checked
from hyperpelt.files.reading import read_object

if TYPE_CHECKING:
    from rich.table import Table

Scores = Mapping[str, float]


def mean(values: Iterable[float]) -> float:
    """The plain mean; nan of nothing."""
    values = list(values)
    return sum(values) / len(values) if values else float("nan")


@dataclass(frozen=True, kw_only=True)
class TaskResult:
    """One task's scores in points, and under which circumstances they were measured."""

    kind: str
    rows: int
    metrics: Scores
    majority: Scores | None = None  # what always answering the training set's most frequent answer scores
    frozen: Scores | None = None  # what the backbone scores without the method
    invalid: int = 0  # generated answers that were no choice or no number
    num_cut: int = 0  # rows whose input was cut at max_source_length
    num_bad_images: int = 0  # images that were skipped; their rows were answered without them
    seconds: float = 0.0
    notes: tuple[str, ...] = ()
    intervals: Mapping[str, Mapping[str, float]] | None = None  # metric -> se, low, high
    templates: Mapping[str, Scores] | None = None  # of each of several templates; `metrics` are their means
    confusion: Mapping[str, Any] | None = None  # choices, and how often each was answered (columns) for each (rows)
    worst: tuple[Mapping[str, Any], ...] = ()  # the rows that the model gets most wrong

    @property
    def score(self) -> float:
        """The mean of the task's metrics."""
        return mean(self.metrics.values())

    def as_dict(self) -> dict[str, Any]:
        """One entry of `results.json`'s `tasks`."""
        return {
            **_block(self.metrics),
            "kind": self.kind,
            "rows": self.rows,
            "majority": None if self.majority is None else _block(self.majority),
            "frozen": None if self.frozen is None else _block(self.frozen),
            "invalid": self.invalid,
            "num_cut": self.num_cut,
            "num_bad_images": self.num_bad_images,
            "seconds": round(self.seconds, 3),
            "notes": list(self.notes),
            **({} if self.intervals is None else {"intervals": self.intervals}),
            **({} if self.templates is None else {"templates": self.templates, "spread": self.spread()}),
            **({} if self.confusion is None else {"confusion": self.confusion}),
            **({"worst": list(self.worst)} if self.worst else {}),
        }

    def spread(self) -> dict[str, float]:
        """The standard deviation of each metric over the task's templates; nothing with one."""
        each = list((self.templates or {}).values())
        return {name: stdev(scores[name] for scores in each) for name in self.metrics} if len(each) > 1 else {}

    @classmethod
    def from_dict(cls, content: Mapping[str, Any]) -> TaskResult:
        """The reverse of `as_dict`."""

        def scores(block: Mapping[str, Any] | None) -> Scores | None:
            return None if block is None else block["metrics"]

        names = ("kind", "rows", "metrics", "invalid", "num_cut", "seconds")
        kept: dict[str, Any] = {name: content[name] for name in names}
        kept["num_bad_images"] = content.get("num_bad_images", 0)
        kept |= {name: content.get(name) for name in ("intervals", "templates", "confusion")}
        kept["worst"] = tuple(content.get("worst", ()))
        majority, frozen = scores(content["majority"]), scores(content["frozen"])
        return cls(**kept, majority=majority, frozen=frozen, notes=tuple(content["notes"]))


def _both_averages(columns: Sequence[Scores]) -> dict[str, float]:
    return {
        "average": mean(value for scores in columns for value in scores.values()),
        "average_over_tasks": mean(mean(scores.values()) for scores in columns),
    }


def _block(scores: Scores) -> dict[str, Any]:
    return {"score": mean(scores.values()), "metrics": dict(scores)}


@dataclass(frozen=True, kw_only=True, repr=False)
class Results:
    """All tasks of one evaluation; printed as their table.

    `settings` holds what the figures depend on: split, normalisation, regression rule, limit, lengths. `model` says
    what was measured: backbone, method, trainable count. `versions` are those of the libraries.
    """

    tasks: Mapping[str, TaskResult]
    settings: Mapping[str, Any] = field(default_factory=dict)
    model: Mapping[str, Any] = field(default_factory=dict)
    versions: Mapping[str, str] = field(default_factory=dict)
    intervals: Mapping[str, Mapping[str, float]] | None = None  # of both averages: se, low, high

    def __repr__(self) -> str:
        return text_of(self.table(title=f"Results of the {self.settings.get('split', '?')} split"))

    @property
    def average(self) -> float:
        """The plain mean over all metric columns, as the papers print it."""
        return self._averages()["average"]

    @property
    def average_over_tasks(self) -> float:
        """The mean over tasks of each task's mean metric."""
        return self._averages()["average_over_tasks"]

    def value(self, name: str) -> float:
        """`average`, the mean score of a task, or one metric of it; a nan (nothing to measure) is the worst value."""
        if name == "average":
            value = self.average
        elif name in self.tasks:
            value = self.tasks[name].score
        else:
            task, _, metric = name.rpartition("/")
            value = self.tasks[task].metrics[metric]
        return -math.inf if math.isnan(value) else value

    @property
    def num_columns(self) -> int:
        """How many metric columns `average` is over."""
        return sum(len(result.metrics) for result in self.tasks.values())

    def averages(self, of: str) -> dict[str, float] | None:
        """Both averages of `metrics`, `majority` or `frozen`; None unless every task has them."""
        columns: list[Scores] = [scores for task in self.tasks.values() if (scores := getattr(task, of)) is not None]
        if len(columns) < len(self.tasks):
            return None
        return _both_averages(columns)

    def _averages(self) -> dict[str, float]:
        return _both_averages([task.metrics for task in self.tasks.values()])

    def as_dict(self) -> dict[str, Any]:
        """JSON-serialisable; the content of `results.json`."""
        return {
            **self._averages(),
            "columns": self.num_columns,
            "majority": self.averages("majority"),
            "frozen": self.averages("frozen"),
            **({} if self.intervals is None else {"intervals": self.intervals}),
            "tasks": {name: result.as_dict() for name, result in self.tasks.items()},
            **self.settings,
            "model": dict(self.model),
            "versions": dict(self.versions),
        }

    @classmethod
    def from_dict(cls, content: Mapping[str, Any]) -> Results:
        """The reverse of `as_dict`, for reports; raises KeyError where something is missing."""
        derived = ("average", "average_over_tasks", "columns", "majority", "frozen", "intervals", "tasks", "model")
        derived += ("versions",)
        return cls(
            tasks={name: TaskResult.from_dict(task) for name, task in content["tasks"].items()},
            settings={name: value for name, value in content.items() if name not in derived},
            model=content["model"],
            versions=content["versions"],
            intervals=content.get("intervals"),
        )

    def table(self, *, title: str | None = None) -> Table:
        """A rich table: one row a task, its metrics joined by " / ", the baselines beside them, the averages below."""
        from rich.table import Table

        columns = self._columns()
        table = Table(title=None if title is None else data(title), title_justify="left")
        table.add_column("task", no_wrap=True)
        table.add_column("metric")
        for heading, _ in columns:
            table.add_column(data(heading), justify="right", no_wrap=True)
        if self.intervals:
            table.add_column("95 % interval", justify="right", no_wrap=True)
        table.add_column("rows", justify="right")
        for name, result in self.tasks.items():
            cells = [joined(getattr(result, of)) for _, of in columns]
            cells += [between(result.intervals)] if self.intervals else []
            table.add_row(data(name), data(" / ".join(result.metrics)), *cells, _counted(result))
        if self.tasks:
            table.add_section()
            self._add_averages(table, [of for _, of in columns])
        return table

    def _columns(self) -> list[tuple[str, str]]:
        """(heading, field) of every column of scores that some task has, baselines first."""
        columns = [("majority", "majority"), ("frozen", "frozen"), (str(self.model.get("method", "score")), "metrics")]
        return [(head, of) for head, of in columns if any(getattr(task, of) for task in self.tasks.values())]

    def _add_averages(self, table: Table, fields: list[str]) -> None:
        found = [self.averages(of) for of in fields]
        kinds = {"average": counted(self.num_columns, "column"), "average_over_tasks": counted(len(self.tasks), "task")}
        for key, label in kinds.items():
            cells = ["-" if averages is None else f"{averages[key]:.2f}" for averages in found]
            cells += [between({key: self.intervals[key]})] if self.intervals else []
            table.add_row("average", label, *cells, "", style="bold" if key == "average" else None)


def _counted(result: TaskResult) -> str:
    """The rows, and how many of their answers were none."""
    return f"{result.rows:,}" + (f"\ninvalid: {result.invalid:,}" if result.invalid else "")


def joined(scores: Scores | None) -> str:
    """Scores as the papers print them: `89.42 / 92.31`."""
    return "-" if scores is None else " / ".join(f"{value:.2f}" for value in scores.values())


def between(intervals: Mapping[str, Mapping[str, float]] | None) -> str:
    """Intervals as a cell of a table: `58.1 .. 64.5 / 60.0 .. 66.2`."""
    return " / ".join(f"{each['low']:.1f} .. {each['high']:.1f}" for each in (intervals or {}).values()) or "-"


def load_results(path: str | Path) -> Results:
    """The results in `path`, a results.json or the run folder that holds one; UserError if it is none."""
    path = Path(path)
    path = path / "results.json" if path.is_dir() else path
    try:
        return Results.from_dict(checked(read_object(path)))
    except FileNotFoundError:
        raise UserError(f"{path} does not exist: the run has not finished, or this is no run folder.") from None
    except (ValueError, KeyError, TypeError, AttributeError) as problem:
        raise UserError(f"{path} is not a hyperpelt results.json ({type(problem).__name__}: {problem}).") from None
