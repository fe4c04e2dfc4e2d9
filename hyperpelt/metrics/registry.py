"""The registry of metrics, and how several of them are computed at once."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from hyperpelt.errors import UserError, unknown
from hyperpelt.metrics import foreign

Values = Sequence[Any]
Function = Callable[[Values, Values, Values | None], float]
Registered = TypeVar("Registered", bound=Function)


def _nothing() -> str | None:
    return None


@dataclass(frozen=True, slots=True, kw_only=True)
class Metric:
    """One metric: `function(predictions, labels, groups)` in points.

    `lacking()` says in one sentence what is missing to compute it here, or None. `row_wise`: the metric is the mean
    over rows of what it is of each row alone.
    """

    name: str
    function: Function
    kinds: tuple[str, ...]  # kinds of task it applies to
    description: str
    lacking: Callable[[], str | None] = _nothing
    row_wise: bool = False


_METRICS: dict[str, Metric] = {}


def register(
    name: str,
    *,
    kinds: Sequence[str],
    description: str,
    lacking: Callable[[], str | None] = _nothing,
    row_wise: bool = False,
) -> Callable[[Registered], Registered]:
    """Decorator: make `function(predictions, labels, groups) -> points` known as `name`; the rest is `Metric`'s."""

    def add(function: Registered) -> Registered:
        if name in _METRICS:
            raise UserError(f"The metric {name!r} exists already ({_METRICS[name].description}); choose another name.")
        about = {"kinds": tuple(kinds), "description": description, "lacking": lacking, "row_wise": row_wise}
        _METRICS[name] = Metric(name=name, function=function, **about)
        return function

    return add


def names() -> list[str]:
    """Every known metric, sorted."""
    return sorted(_METRICS)


def get(name: str) -> Metric:
    """The metric called `name`, or one of another library; UserError with the nearest names if there is none."""
    if foreign.library_of(name) is not None:
        return _foreign(name)
    if name not in _METRICS:
        raise unknown("metric", name, _METRICS)
    return _METRICS[name]


def _foreign(name: str) -> Metric:
    def function(predictions: Values, labels: Values, groups: Values | None = None) -> float:
        return foreign.compute(name, list(predictions), list(labels))

    library = foreign.library_of(name)
    return Metric(
        name=name, function=function, kinds=foreign.KINDS, description=f"{name.partition(':')[2]} of {library}",
        lacking=lambda: foreign.lacking(name),
    )  # fmt: skip


def available(metric_names: Sequence[str]) -> tuple[list[str], dict[str, str]]:
    """Those of the metrics that can be computed here, and for each other one the sentence that says why not."""
    reasons = {name: get(name).lacking() for name in metric_names}
    return [name for name in metric_names if reasons[name] is None], {n: why for n, why in reasons.items() if why}


def require_any(metric_names: Sequence[str], *, of: str) -> None:
    """Raises UserError, which names `of` (a task), where none of the metrics can be computed here."""
    found, reasons = available(metric_names)
    if not found:
        raise UserError(f"{of}: {' '.join(dict.fromkeys(reasons.values()))}")


def compute(
    metric_names: Sequence[str], predictions: Values, labels: Values, *, groups: Values | None = None
) -> dict[str, float]:
    """Each named metric of `predictions` against `labels`, in points.

    `groups` holds one hashable a row: rows of the same group are scored together (MultiRC's questions).
    Raises UserError for an unknown metric, for one that lacks what it needs, or for no rows at all.
    """
    found = [get(name) for name in metric_names]
    assert len(predictions) == len(labels), f"{len(predictions)} predictions for {len(labels)} labels"
    assert groups is None or len(groups) == len(labels), f"{len(groups)} groups for {len(labels)} labels"
    if not len(labels):
        raise UserError(f"No rows to compute {', '.join(metric_names)} on: the split is empty.")
    for why in available(metric_names)[1].values():
        raise UserError(why)
    return {metric.name: float(metric.function(predictions, labels, groups)) for metric in found}
