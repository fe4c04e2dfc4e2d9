"""Rows of several tasks for anybody's training loop: a dataset as PyTorch reads it, and the collator of its batches.

    rows = MixedRows(model.tasks, model.tokenizer, num_rows=3200)
    loader = DataLoader(rows, batch_size=32, collate_fn=Collator(model.tokenizer))
    model(**next(iter(loader))).loss.backward()

What a batch holds is what `TunedModel.forward` takes. docs/own_loop.md has the whole loop, and `Seq2SeqTrainer`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from hyperpelt.data.batches import MULTIPLE, collate, see
from hyperpelt.data.mixing import STRATEGIES, mixing_rates
from hyperpelt.data.sampler import MixtureSampler
from hyperpelt.data.templated import tokens_of
from hyperpelt.data.tokenized import TokenizedSet, TokenRow
from hyperpelt.errors import UserError, unknown

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from hyperpelt.data.seeing import Eye
    from hyperpelt.tasks import Task
    from hyperpelt.vision.store import FeatureStore

DRAWN_TOGETHER = 256  # rows of one draw from the mixture; shares are exact in each
FORWARD = ("input_ids", "attention_mask", "labels", "task_ids", "row_weights")


class MixedRows(Dataset[dict[str, Any]]):
    """Rows of several tasks, each a mapping with `input_ids`, `labels`, `task_ids` (its task's index among `tasks`),
    `row_weights`, and `images` where it has some.

    - **tasks**: a model's, in its order: names, or `Task` objects
    - **num_rows**: None: every row of every task once. Else that many rows, drawn from the tasks by **mixing** and
      **temperature** (`hyperpelt.data.mixing`), each task's without replacement, in an order that **seed** fixes
    - **limit**: at most this many rows of each task; **eye**: sees images (`hyperpelt.model.eye`)

    Raises:
        UserError: an unknown task or strategy, an empty split, a row that does not render.
    """

    def __init__(
        self,
        tasks: Sequence[str | Task],
        tokenizer: PreTrainedTokenizerBase,
        *,
        split: str = "train",
        num_rows: int | None = None,
        mixing: str = "temperature",
        temperature: float = 10.0,
        seed: int = 0,
        max_source_length: int = 128,
        max_target_length: int = 32,
        data_root: str | Path | None = None,
        limit: int | None = None,
        eye: Eye | None = None,
    ) -> None:
        from hyperpelt import tasks as registry

        if isinstance(tasks, str):
            raise UserError(f"MixedRows takes a list of tasks, got the single string {tasks!r}: put it in a list.")
        chosen = [registry.get(task) if isinstance(task, str) else task for task in tasks]
        _check_given([task.name for task in chosen], num_rows, mixing)
        lengths = {"max_source_length": max_source_length, "max_target_length": max_target_length}
        for task in chosen:
            if task.streamed(split):
                raise UserError(f"{task.name} is streamed, and MixedRows reads whole splits: use hyperpelt.train.")
        reading = {"data_root": data_root, "limit": limit}
        how = {"tokenizer": tokenizer, "split": split, "eye": eye, **reading, **lengths}
        # How many rows are left of those with images is known when they have been seen.
        seen = {task.name: tokens_of(task, **how) for task in chosen if eye is not None and "image" in task.modalities}
        sizes = {task.name: len(seen.get(task.name, task.examples(split, **reading))) for task in chosen}
        self._tasks, self._rows = _all(sizes) if num_rows is None else _draw(sizes, num_rows, mixing, temperature, seed)
        needed = {name: np.unique(self._rows[self._tasks == place]) for place, name in enumerate(sizes)}
        self.sets: dict[str, TokenizedSet] = {
            task.name: seen.get(task.name) or tokens_of(task, rows=needed[task.name], **how) for task in chosen
        }
        self.seed, self._made = seed, list(self.sets.values())
        self.split = split

    def __repr__(self) -> str:
        counts = np.bincount(self._tasks, minlength=len(self.sets))
        told = ", ".join(f"{name} {count:,}" for name, count in zip(self.sets, counts, strict=True))
        return f"MixedRows({len(self):,} rows of {self.split}: {told})"

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, index: int) -> dict[str, Any]:
        task = int(self._tasks[index])
        tokens = self._made[task]
        row = tokens.drawn(int(self._rows[index]), seed=self.seed, step=int(index))
        images = {"images": row.images} if tokens.has_images else {}
        return {
            "input_ids": row.input_ids, "labels": row.labels, "task_ids": task, "row_weights": row.weight, **images,
        }  # fmt: skip


def _check_given(names: Sequence[str], num_rows: int | None, mixing: str) -> None:
    if not names or len(set(names)) < len(names):
        raise UserError(f"MixedRows takes one task or more, each once, got {list(names)}.")
    if num_rows is not None and num_rows < 1:
        raise UserError(f"Expected num_rows of at least 1, or None for every row once, got {num_rows}.")
    if mixing not in STRATEGIES:
        raise unknown("mixing strategy", mixing, STRATEGIES)


def _all(sizes: Mapping[str, int]) -> tuple[np.ndarray, np.ndarray]:
    """Every row of every task once, as (task, row)."""
    each = list(sizes.values())
    return np.repeat(np.arange(len(each)), each), np.concatenate([np.arange(size) for size in each])


def _draw(
    sizes: Mapping[str, int], num_rows: int, mixing: str, temperature: float, seed: int
) -> tuple[np.ndarray, np.ndarray]:
    rates, size = mixing_rates(sizes, mixing, temperature=temperature), min(DRAWN_TOGETHER, num_rows)
    lengths = {name: np.zeros(count, np.int32) for name, count in sizes.items()}  # nothing is sorted by them
    sampler = MixtureSampler(rates, lengths, batch_size=size, seed=seed, window=1)
    batches = [sampler.batch(step) for step in range(-(-num_rows // size))]
    tasks, rows = (np.concatenate([getattr(batch, name) for batch in batches]) for name in ("tasks", "rows"))
    return tasks[:num_rows], rows[:num_rows]


class Collator:
    """Pads rows (mappings with `input_ids`, `labels`, `task_ids`, and if need be `row_weights`) into one batch.

    - **features**: of the rows' images, which come as keys
    - **multiple**: of padded lengths
    """

    def __init__(
        self,
        tokenizer: PreTrainedTokenizerBase,
        *,
        features: FeatureStore | None = None,
        multiple: int = MULTIPLE,
    ) -> None:
        self.tokenizer, self.features, self.multiple = tokenizer, features, multiple

    def __call__(self, rows: Sequence[Mapping[str, Any]]) -> dict[str, Tensor]:
        """The batch as `TunedModel.forward` takes it. Raises UserError for rows that name no task."""
        if any("task_ids" not in row for row in rows):
            raise UserError(
                "A row names no task: expected `task_ids` beside `input_ids` and `labels`. If `Trainer` took them "
                "away, set remove_unused_columns=False."
            )
        tokens = [
            TokenRow(
                np.asarray(row["input_ids"]), np.asarray(row["labels"]), float(row.get("row_weights", 1.0)), number,
                tuple(row.get("images", ())),
            )
            for number, row in enumerate(rows)
        ]  # fmt: skip
        made = collate(
            tokens,
            task_ids=[int(row["task_ids"]) for row in rows],
            names=[""] * len(rows),
            pad_token_id=self.tokenizer.pad_token_id,
            multiple=self.multiple,
        )
        batch: dict[str, Tensor] = {name: torch.as_tensor(made[name]) for name in FORWARD}
        return batch if self.features is None else {**batch, **see(tokens, self.features)}
