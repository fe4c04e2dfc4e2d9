"""Batches: rows of tokenised splits, padded and ready for the model, in the order that a sampler gives."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NotRequired, TypedDict

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from hyperpelt.data.buckets import MULTIPLE, Buckets, rounded
from hyperpelt.data.candidates import Candidates, Ranking
from hyperpelt.data.choices import Choices
from hyperpelt.data.sampler import Draws, RowBatch, slice_batch
from hyperpelt.data.tokenized import TokenizedSet, TokenRow

if TYPE_CHECKING:
    from hyperpelt.vision.store import FeatureStore

ANY = Buckets()
IGNORED = -100  # a label that carries no loss


class Batch(TypedDict):
    """What one process computes in one accumulation step."""

    input_ids: Int[Tensor, "B S"]
    attention_mask: Int[Tensor, "B S"]
    labels: Int[Tensor, "B T"]  # IGNORED where padded
    task_ids: Int[Tensor, " B"]
    row_weights: Float[Tensor, " B"]
    row_names: list[str]  # 'glue/rte train row 17'
    num_global_tokens: int  # label tokens of the whole global batch, over all processes and accumulation steps
    num_read_tokens: int  # source and label tokens of the whole global batch
    wrong_labels: NotRequired[Int[Tensor, "W T"]]  # of wrong choices, for T-Few's losses
    wrong_rows: NotRequired[Int[Tensor, " W"]]  # the row of each
    candidates: NotRequired[Candidates]  # of all rows, for ranking
    num_global_rows: NotRequired[int]
    num_global_wrong_tokens: NotRequired[int]
    visual: NotRequired[Float[Tensor, "N G Dv"]]  # features of the rows' images
    visual_rows: NotRequired[Int[Tensor, " N"]]  # the row of each


def collate(
    rows: Sequence[TokenRow],
    *,
    task_ids: Sequence[int],
    names: Sequence[str],
    pad_token_id: int,
    num_tokens: tuple[int, int] | None = None,
    multiple: int = MULTIPLE,
    buckets: Buckets = ANY,
) -> Batch:
    """Pad rows on the right. num_tokens: (sources, labels) of the global batch; None: of this. buckets: the lengths
    that a batch may have; none: every multiple."""
    sources, labels = num_tokens or (sum(len(r.input_ids) for r in rows), sum(len(r.labels) for r in rows))
    input_ids = pad([row.input_ids for row in rows], pad_token_id, multiple, buckets.sources)
    lengths = torch.tensor([len(row.input_ids) for row in rows])
    return Batch(
        input_ids=input_ids,
        attention_mask=(torch.arange(input_ids.shape[1]) < lengths[:, None]).long(),
        labels=pad([row.labels for row in rows], IGNORED, multiple, buckets.targets),
        task_ids=torch.tensor(list(task_ids), dtype=torch.long),
        row_weights=torch.tensor([row.weight for row in rows], dtype=torch.float32),
        row_names=list(names),
        num_global_tokens=labels,
        num_read_tokens=sources + labels,
    )


def see(rows: Sequence[TokenRow], features: FeatureStore) -> dict[str, Tensor]:
    """`visual` and `visual_rows` of a batch; nothing where no row has an image."""
    keys = [key for row in rows for key in row.images]
    if not keys:
        return {}
    owners = [number for number, row in enumerate(rows) for _ in row.images]
    return {"visual": features.read(keys), "visual_rows": torch.tensor(owners)}


def pad(
    rows: Sequence[Sequence[int] | Int[np.ndarray, " _"]],
    value: int,
    multiple: int = MULTIPLE,
    among: Sequence[int] = (),
) -> Int[Tensor, "B S"]:
    """Rows of token ids as one tensor, filled up with `value` on the right to one of the lengths `among`, or else to
    such a multiple."""
    longest = max(len(row) for row in rows)
    padded = np.full((len(rows), rounded(longest, multiple, among)), value, np.int64)
    for line, row in zip(padded, rows, strict=True):
        line[: len(row)] = row
    return torch.from_numpy(padded)


def lengths_of(sets: Mapping[str, TokenizedSet]) -> dict[str, Int[np.ndarray, " N"]]:
    """Tokens of each row, source and target: what the sampler sorts by."""
    return {name: tokens.lengths for name, tokens in sets.items()}


@dataclass
class MicroBatches(Dataset[Batch]):
    """All micro-batches of one process, by number: step * num_micro + micro."""

    sampler: Draws
    sets: Mapping[str, TokenizedSet]
    task_ids: Mapping[str, int]
    pad_token_id: int
    num_micro: int = 1
    rank: int = 0
    world: int = 1
    choices: Choices | None = None  # where wrong choices are wanted
    ranking: Ranking | None = None  # where candidates are wanted
    features: FeatureStore | None = None  # of the rows' images; without it they are not looked at
    multiple: int = MULTIPLE  # of padded lengths
    buckets: Buckets = ANY  # the lengths themselves, where they shall be few

    def __getitem__(self, index: int) -> Batch:
        step, micro = divmod(index, self.num_micro)
        whole = self.sampler.batch(step)
        part = slice_batch(whole, micro=micro, num_micro=self.num_micro, rank=self.rank, world=self.world)
        rows = [self._row(task, row, step) for task, row in zip(part.tasks, part.rows, strict=True)]
        batch = collate(
            rows,
            task_ids=[self.task_ids[self.sampler.names[task]] for task in part.tasks],
            names=[self._set(task).name_of(row) for task, row in zip(part.tasks, part.rows, strict=True)],
            pad_token_id=self.pad_token_id,
            # Every process knows the whole global batch: the loss is normalised without asking the others.
            num_tokens=self._count_tokens(whole, step),
            multiple=self.multiple,
            buckets=self.buckets,
        )
        batch["num_global_rows"] = len(whole.rows)
        if self.features is not None:
            seen = see(rows, self.features)
            if seen:
                batch["visual"], batch["visual_rows"] = seen["visual"], seen["visual_rows"]
        if self.ranking is not None:
            found = zip(map(self._set, part.tasks), map(int, part.rows), rows, strict=True)
            batch["candidates"] = self.ranking.candidates(found, seed=self.sampler.seed, step=step)
        return batch if self.choices is None else self._with_wrong_choices(batch, part, whole)

    def _with_wrong_choices(self, batch: Batch, part: RowBatch, whole: RowBatch) -> Batch:
        mine = list(map(self._wrong, part.tasks, part.rows))
        found = [ids for choices in mine for ids in choices]
        rows = [row for row, choices in enumerate(mine) for _ in choices]
        batch["wrong_labels"] = (
            pad(found, IGNORED, self.multiple) if found else torch.zeros(0, MULTIPLE, dtype=torch.long)
        )
        batch["wrong_rows"] = torch.tensor(rows, dtype=torch.long)
        every = map(self._wrong, whole.tasks, whole.rows)
        batch["num_global_wrong_tokens"] = sum(len(ids) for choices in every for ids in choices)
        return batch

    def _wrong(self, task: int, row: int) -> list[list[int]]:
        assert self.choices is not None
        return self.choices.wrong(self._set(task), row)

    def _row(self, task: int, row: int, step: int) -> TokenRow:
        tokens = self._set(task)
        return tokens.drawn(row, seed=self.sampler.seed, step=step) if tokens.has_targets else tokens[row]

    def _set(self, task: int) -> TokenizedSet:
        return self.sets[self.sampler.names[task]]

    def _count_tokens(self, batch: RowBatch, step: int) -> tuple[int, int]:
        counts = np.zeros(2, np.int64)
        for task in np.unique(batch.tasks):
            rows, tokens = batch.rows[batch.tasks == task], self._set(task)
            if tokens.has_targets:
                drawn = [self._row(task, row, step) for row in rows]
                counts += (sum(len(row.input_ids) for row in drawn), sum(len(row.labels) for row in drawn))
            else:
                counts += (tokens.source_lengths[rows].sum(), tokens.target_lengths[rows].sum())
        return int(counts[0]), int(counts[1])


def batches(
    rows: MicroBatches, *, start: int, stop: int, num_workers: int = 0, pin_memory: bool = False
) -> Iterator[list[Batch]]:
    """For each optimiser step from `start` to `stop`: this process's micro-batches.

    The order is the sampler's, however many workers prepare it.
    """
    loader: DataLoader[Any] = DataLoader(
        rows,
        batch_size=None,
        sampler=range(start * rows.num_micro, stop * rows.num_micro),
        num_workers=num_workers,
        pin_memory=pin_memory,
        collate_fn=_unchanged,
        # A generator of its own: the loader draws from it, and dropout's must not move when a run is resumed.
        generator=torch.Generator(),
    )
    step: list[Batch] = []
    for batch in loader:
        step.append(batch)
        if len(step) == rows.num_micro:
            yield step
            step = []


def _unchanged(batch: Any) -> Any:
    return batch
