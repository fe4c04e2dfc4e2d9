"""Writing tokens: bare backbone; one task merged, baked, live; one batch of eight tasks against eight batches."""

from __future__ import annotations

from typing import Any

import torch

from benchmarking import shapes
from benchmarking.step import SETTINGS
from benchmarking.timing import Step, interleaved
from hyperpelt.export.baking import bake
from hyperpelt.export.merging import merge
from hyperpelt.model.tuned import TunedModel

TASKS = 8


def measure(*, shape: str, method: str, rows: int, source: int, target: int, repeats: int) -> list[dict[str, Any]]:
    """One row a way: `tokens_per_second`, and its ratio to the bare backbone (or to eight batches of one task)."""
    device = "cuda" if torch.cuda.is_available() else "cpu"
    vocabulary = shapes.SHAPES[shape][1].get("vocab_size", 50265)
    batch = shapes.batch(rows=rows, source=source, target=1, num_tasks=TASKS, vocabulary=vocabulary, device=device)
    ids, mask = batch["input_ids"], batch["attention_mask"]
    task_ids = batch["task_ids"].sort().values
    bare: Any = shapes.make(shape, device=device).eval()  # `generate` is of every family, not of the base class
    settings = {"name": method, **SETTINGS.get(method, {})}
    model = TunedModel.build(
        shapes.make(shape, device=device), method=settings, tasks=[f"task-{i}" for i in range(TASKS)]
    ).eval()
    baked, merged = bake(model, "task-0"), merge(model, "task-0")
    exactly: dict[str, Any] = {"max_new_tokens": target, "min_new_tokens": target, "do_sample": False}

    def plain() -> None:
        with torch.no_grad():
            bare.generate(ids, attention_mask=mask, **exactly)

    def eight_batches() -> None:
        for task in range(TASKS):
            own = task_ids == task
            model.generate(ids[own], task_ids=task_ids[own], attention_mask=mask[own], **exactly)

    steps: dict[str, Step] = {
        "bare backbone": plain,
        "merged": lambda: merged.generate(ids, task="task-0", attention_mask=mask, **exactly),
        "baked": lambda: baked.generate(ids, task="task-0", attention_mask=mask, **exactly),
        "live": lambda: model.generate(ids, task="task-0", attention_mask=mask, **exactly),
        "one batch of 8 tasks": lambda: model.generate(ids, task_ids=task_ids, attention_mask=mask, **exactly),
        "8 batches of one task": eight_batches,
    }
    seconds = interleaved(steps, repeats=repeats)
    return [
        {
            "method": f"{method}, {name}" if name != "bare backbone" else name,
            "tokens_per_second": rows * target / value,
            "ratio_to_bare": seconds["bare backbone"] / value,
        }
        for name, value in seconds.items()
    ]
