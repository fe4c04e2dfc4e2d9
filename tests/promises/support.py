"""Batches and models that the promise tests share."""

from __future__ import annotations

import torch
from torch import Tensor
from transformers import PreTrainedModel

from hyperpelt import methods
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
        "hyperblock": {"bottleneck": 4, "shared_bottleneck": 6},
        "mam": {"prefix_length": 4, "prefix_hidden": 16, "bottleneck": 8},
        "prompt-tuning": {"length": 6},
        "unfreeze-with-care": {"prefix_length": 4, "ids": [5, 9, 2]},
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


def describe(model: TunedModel, seed: int = 6) -> TunedModel:
    """The model, told of its tasks what an encoder might have read; nothing where its method reads nothing of them."""
    generator = torch.Generator().manual_seed(seed)
    for network in model.described():
        vectors = torch.randn(network.words.vectors.shape, generator=generator)
        model.tell(dict(zip(model.tasks, vectors, strict=True)))
    return model


def decode_step_by_step(model: TunedModel, rows: dict[str, Tensor], steps: int) -> Tensor:
    """Greedy decoding by whole forward passes: no cache, no generate."""
    config = model.backbone.config
    ids = torch.full((len(rows["task_ids"]), 1), config.decoder_start_token_id)
    for _ in range(steps):
        inputs = {key: value for key, value in rows.items() if key != "labels"}
        logits = model(**inputs, decoder_input_ids=ids).logits[:, -1]
        logits[:, config.eos_token_id] = -torch.inf
        ids = torch.cat([ids, logits.argmax(-1, keepdim=True)], dim=1)
    return ids


VISUAL = {"feature_dim": 6, "cells": 4}
# Widths that suit a model of width 32, and what else a method of another size needs.
SMALL = {
    "adalora": {"rank": 3, "rank_target": 2},
    "alphatuning": {"bits": 2, "rounds": 1},
    "apt": {"prefix_length": 4},
    "compacter": {"bottleneck": 8},
    "compacter++": {"bottleneck": 8},
    "conv-adapter": {"bottleneck": 4},
    "houlsby": {"bottleneck": 4},
    "hyperblock": {"bottleneck": 4, "shared_bottleneck": 6},
    "hyperdecoders": {"bottleneck": 4, "encoder_bottleneck": 4},
    "hyperformer": {"bottleneck": 4},
    "hyperformer++": {"bottleneck": 4},
    "hyperpelt": {"prefix_length": 5, "bottleneck": 4, "prefix_hidden": 8},
    "hyperprefix": {"prefix_length": 5, "prefix_hidden": 8},
    "hyperprompt": {"length": 4, "bottleneck": 4},
    "lst": {"reduction": 4},
    "mam": {"prefix_length": 4, "prefix_hidden": 8, "bottleneck": 8},
    "memvp": {"hidden": 8, **VISUAL},
    "mixphm": {"bottleneck": 8, "rank": 2},
    "prefix-tuning": {"prefix_length": 4},
    "prefix-tuning-mlp": {"prefix_length": 4, "hidden": 8},
    "prompt-tuning": {"length": 5},
    "spt": {"share": 0.02},
    "self-pt": {"bottleneck": 8, "rank": 2},
    "text-to-lora": {"rank": 2, "embedding_dim": 8, "hidden_dim": 16, "hyper_dim": 8},
    "taps": {"start": 1.0},  # so that of every task some layers are open, whatever a network makes of the scores
    "u-tuning": {"length": 4, "bottleneck": 4},
    "unipelt": {"prefix_length": 4, "prefix_hidden": 8, "bottleneck": 8},
    "vera": {"rank": 6},
    "visual-tokens": VISUAL,
    "vl-adapter": {"bottleneck": 4, **VISUAL},
    "vl-hyperpelt": {"prefix_length": 4, "bottleneck": 4, "prefix_hidden": 8, **VISUAL},
}
MOVED = {  # settings with which a method's per-task tensors can come from elsewhere
    "hyper-adalora": {"rank_target": None},
    "hyper-prefix-tuning-mlp": {"hidden": 512},
    "shared-prefix-tuning-mlp": {"hidden": 512},
}


def spec_of(name: str) -> dict[str, object]:
    """A method of the matrix as a run would name it."""
    base = name.removeprefix("hyper-").removeprefix("shared-") if name not in methods.names() else name
    widths = dict(SMALL.get(base, {}))
    for idle in ("hidden", "prefix_hidden") if base != name and base not in ("memvp", "vl-hyperpelt") else ():
        widths.pop(idle, None)
    return {"name": name, **(widths | {k: v for k, v in MOVED.get(name, {}).items() if k != "hidden"})}


REFUSED = {"hyper-dynamic-subset"}  # a course that sets stored tensors has nothing to set in what a network makes


def forms() -> list[str]:
    """`hyper-NAME` and `shared-NAME` of every method that has per-task tensors, but for those that are refused."""
    found = []
    for name in methods.names():
        made = methods.get(spec_of(name))
        sources = {made.source(source).type for part in made.parts for source in part.sources}
        found += [f"{prefix}-{name}" for prefix in ("hyper", "shared") if "per_task" in sources]
    return [name for name in found if name not in REFUSED]
