"""Many tasks in one hypernetwork: what a step and the making of weights cost as the number of tasks grows.

A batch holds rows of eight tasks throughout (of as many as there are, below eight): only the registry grows.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from benchmarking import shapes
from benchmarking.step import SETTINGS
from benchmarking.timing import Step, interleaved, peak_megabytes
from hyperpelt.model.tuned import TunedModel

DISTINCT = 8


def spread(num_tasks: int, rows: int) -> torch.Tensor:
    """Task ids [rows] of `DISTINCT` tasks evenly over the registry."""
    distinct = min(num_tasks, DISTINCT)
    return (torch.arange(rows) % distinct) * (num_tasks // distinct)


def measure(
    *, shape: str, method: str, counts: Sequence[int], rows: int, source: int, target: int, repeats: int
) -> list[dict[str, Any]]:
    """One row a number of tasks: seconds of a step and of generation alone, their ratio to 8 tasks, memory, size."""
    device = "cuda" if torch.cuda.is_available() else "cpu"
    vocabulary = shapes.SHAPES[shape][1].get("vocab_size", 50265)
    batch = shapes.batch(rows=rows, source=source, target=target, num_tasks=1, vocabulary=vocabulary, device=device)
    steps: dict[str, Step] = {}
    models: dict[int, TunedModel] = {}
    for count in counts:
        backbone = shapes.make(shape, device=device)
        settings = {"name": method, **SETTINGS.get(method, {})}
        models[count] = TunedModel.build(backbone, method=settings, tasks=[f"t{i}" for i in range(count)]).train()
        steps[f"step {count}"] = _step(models[count], {**batch, "task_ids": spread(count, rows).to(device)})
        steps[f"weights {count}"] = _weights(models[count], spread(count, rows).unique().to(device))
    seconds = interleaved(steps, repeats=repeats)
    base = DISTINCT if DISTINCT in models else counts[0]
    return [
        {
            "method": method,
            "tasks": count,
            "seconds": seconds[f"step {count}"],
            f"ratio_to_{base}_tasks": seconds[f"step {count}"] / seconds[f"step {base}"],
            "generation_seconds": seconds[f"weights {count}"],
            "peak_mb": peak_megabytes(steps[f"step {count}"], _own(model)),
            "trainable": model.num_trainable(),
        }
        for count, model in models.items()
    ]


def _step(model: TunedModel, batch: dict[str, torch.Tensor]) -> Step:
    optimizer = torch.optim.AdamW([p for _, p in model.trainable_parameters()], lr=1e-5, fused=True)

    def step() -> None:
        model(**batch).loss.backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)

    return step


def _weights(model: TunedModel, tasks: torch.Tensor) -> Step:
    def make() -> None:
        with torch.no_grad():
            model.weights_of(tasks)

    return make


def _own(model: torch.nn.Module) -> set[int]:
    return {p.untyped_storage().data_ptr() for p in [*model.parameters(), *model.buffers()]}
