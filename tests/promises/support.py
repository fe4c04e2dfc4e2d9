"""Batches and models that the promise tests share."""

from __future__ import annotations

import torch
from torch import Tensor
from transformers import PreTrainedModel

from hyperpelt.model.tuned import TunedModel

TASKS = ["a", "b", "c"]
# One method for each way of touching the backbone: attention rows, hooks of each kind, input, embedded rows, gates.
METHODS = [
    "hyperpelt",
    "hyperformer++",
    "hyperblock",
    "mam",
    "lora",
    "ia3",
    "bitfit",
    "pasta",
    "prompt-tuning",
    "unipelt",
    "u-tuning",
    "pfeiffer",
]


def small(method: str) -> str | dict[str, object]:
    """The method with widths that suit a model of width 32."""
    settings = {
        "hyperpelt": {"prefix_length": 5, "bottleneck": 4, "prefix_hidden": 16},
        "hyperformer++": {"bottleneck": 4},
        "hyperblock": {"bottleneck": 4},
        "mam": {"prefix_length": 4, "prefix_hidden": 16, "bottleneck": 8},
        "prompt-tuning": {"length": 6},
        "unipelt": {"prefix_length": 4, "prefix_hidden": 16, "bottleneck": 8},
    }
    return {"name": method, **settings.get(method, {})}


def batch(rows: int = 4, source: int = 9, target: int = 5, seed: int = 1) -> dict[str, Tensor]:
    """Rows of several lengths and tasks, padded; ids 2 and 1 (EOS of BART and of T5) stand at both ends of each."""
    generator = torch.Generator().manual_seed(seed)
    ids = torch.randint(3, 128, (rows, source), generator=generator)
    ids[:, 0] = 2
    mask = torch.ones_like(ids)
    for row in range(rows):
        length = source - (2 * row) % (source - 2)
        ids[row, length - 1] = 1
        mask[row, length:] = 0
    labels = torch.randint(3, 128, (rows, target), generator=generator)
    labels[-1, target - 2 :] = -100
    ids = ids.masked_fill(mask == 0, 0)
    return {"input_ids": ids, "attention_mask": mask, "labels": labels, "task_ids": torch.arange(rows) % len(TASKS)}


def tuned(backbone: PreTrainedModel, method: object, *, disturbed: bool = True) -> TunedModel:
    """A tuned model in evaluation mode; `disturbed`: moved from its start: tasks differ, nothing is zero."""
    model = TunedModel.build(backbone, method=method, tasks=TASKS, seed=3).eval()
    if disturbed:
        disturb(model)
    return model


def disturb(model: TunedModel, seed: int = 5, size: float = 0.1) -> None:
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for _, parameter in model.trainable_parameters():
            parameter.add_(torch.randn(parameter.shape, generator=generator) * size)
