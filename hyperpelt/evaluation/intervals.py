"""How sure a score is: a bootstrap over the rows that it was measured on (Efron 1979; percentile intervals).

Rows are drawn with replacement, as many as there are, and the metric is computed anew; rows that are scored together (a
MultiRC question, an NLVR2 sentence) are drawn together. This measures the choice of rows and nothing else: not seeds of
training, not the wording of a task.

Letters: R resamples, N rows.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any
from zlib import crc32

import numpy as np
from jaxtyping import Float

from hyperpelt import metrics
from hyperpelt.data.progress import shown

RESAMPLES = 1000
COVERED = 95.0  # percent
Draws = dict[str, Float[np.ndarray, " R"]]


def resampled(
    metric_names: Sequence[str],
    predictions: Sequence[Any],
    labels: Sequence[Any],
    groups: Sequence[Any],
    *,
    seed: int,
    name: str,
    resamples: int = RESAMPLES,
    progress: bool = False,
) -> Draws:
    """Each metric on `resamples` bootstrap samples of the rows.

    seed, name (of the task) fix the samples. A metric that is a mean over rows costs one evaluation; others are
    computed on every sample.
    """
    clusters = _clusters(groups)
    found: Draws = {}
    for metric_name in metrics.available(metric_names)[0]:
        metric, values = metrics.get(metric_name), np.empty(resamples)
        generator = np.random.default_rng([seed, 7, crc32(name.encode())])  # every metric has the same samples
        # One sample at a time: all of them together would be gigabytes.
        drawn = (generator.integers(len(clusters), size=len(clusters)) for _ in range(resamples))
        found[metric_name] = values
        if metric.row_wise:
            rows = [metric.function([p], [y], [g]) for p, y, g in zip(predictions, labels, groups, strict=True)]
            sums = np.array([sum(rows[row] for row in cluster) for cluster in clusters])
            sizes = np.array([len(cluster) for cluster in clusters])
            for place, sample in enumerate(drawn):
                values[place] = sums[sample].sum() / sizes[sample].sum()
            continue
        samples = shown(drawn, f"{name} {metric_name}", "samples", progress=progress, total=resamples)
        for place, sample in enumerate(samples):
            # A cluster that is drawn twice counts as two groups.
            chosen = [(row, (place, groups[row])) for place, number in enumerate(sample) for row in clusters[number]]
            parts = [predictions[row] for row, _ in chosen], [labels[row] for row, _ in chosen]
            values[place] = metric.function(*parts, [group for _, group in chosen])
    return found


def _clusters(groups: Sequence[Any]) -> list[list[int]]:
    """Rows that are drawn together: those of a group; a row without one is alone."""
    found: dict[Any, list[int]] = {}
    for row, group in enumerate(groups):
        found.setdefault(("alone", row) if group is None else ("group", group), []).append(row)
    return list(found.values())


def mean_draws(each: Sequence[Draws]) -> Draws:
    """Of several measurements on the same samples (a task's templates) their mean."""
    return {name: np.mean([draws[name] for draws in each], axis=0) for name in each[0]}


def interval(draws: Float[np.ndarray, " R"]) -> dict[str, float]:
    """Standard error and the bounds of the interval."""
    low, high = np.percentile(draws, [(100 - COVERED) / 2, (100 + COVERED) / 2])
    return {"se": float(draws.std(ddof=1)), "low": float(low), "high": float(high)}


def of_averages(tasks: Mapping[str, Draws]) -> dict[str, dict[str, float]] | None:
    """Of both averages of `Results`; rows of different tasks are drawn independently. None of nothing."""
    if not tasks:
        return None
    columns = [draws for task in tasks.values() for draws in task.values()]
    means = [np.mean(list(task.values()), axis=0) for task in tasks.values()]
    found = {"average": columns, "average_over_tasks": means}
    return {name: interval(np.mean(values, axis=0)) for name, values in found.items()}
