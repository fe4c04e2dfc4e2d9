"""The rows of a run: how many there are, which of them are drawn, and their tokens."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from math import ceil
from typing import TYPE_CHECKING

import numpy as np

from hyperpelt.data import MixtureSampler, StreamedSet, TokenizedSet, lengths_of, mixing_rates, tokens_of
from hyperpelt.errors import UserError

if TYPE_CHECKING:
    from hyperpelt.config import RunConfig
    from hyperpelt.data import RateTree
    from hyperpelt.data.seeing import Eye
    from hyperpelt.model.tuned import TunedModel
    from hyperpelt.tasks import Task
    from hyperpelt.training.distributed import Processes


def tokenise(
    config: RunConfig,
    processes: Processes,
    trees: Sequence[RateTree],
    tasks: Sequence[Task],
    model: TunedModel,
    show: bool,
    eye: Eye | None,
) -> tuple[dict[str, TokenizedSet], MixtureSampler]:
    """The tokens of the rows that the run draws, and what draws them."""
    for task in tasks:
        if task.templates and config.loss != "lm":
            raise UserError(
                f"loss={config.loss} compares a row's choices, but those of {task.name} differ by template: take lm."
            )
    reading = {"data_root": config.data_root, "limit": config.train_limit}
    make = partial(
        tokens_of,
        split="train",
        tokenizer=model.need_tokenizer(),
        max_source_length=config.max_source_length,
        max_target_length=config.max_target_length,
        progress=show,
        eye=eye,
        blind=config.blind,
        **reading,
    )
    # How many rows are left of those with images is known when they have been seen.
    sets = {task.name: make(task) for task in tasks if eye is not None and "image" in task.modalities}
    streams = {task.name: _stream(config, processes, task, model) for task in tasks if task.streamed("train")}
    sets |= streams
    sizes = {task.name: len(sets.get(task.name, task.examples("train", **reading))) for task in tasks}
    sampler = _make_sampler(config, processes, trees, sizes)
    sampler.total = num_steps(config, sampler)
    sampler.streams = streams
    rows = sampler.rows()
    sets = {task.name: sets[task.name] if task.name in sets else make(task, rows=rows[task.name]) for task in tasks}
    sampler.lengths = lengths_of(sets)
    return sets, sampler


def _stream(config: RunConfig, processes: Processes, task: Task, model: TunedModel) -> StreamedSet:
    if config.train_limit is not None:
        raise UserError(f"train_limit samples splits that are read whole, and {task.name} is streamed: leave it out.")
    return StreamedSet(
        task,
        "train",
        model.need_tokenizer(),
        max_source_length=config.max_source_length,
        max_target_length=config.max_target_length,
        seed=config.seed,
        data_root=config.data_root,
        rank=processes.rank,
        world=processes.world,
        gather=processes.gather,
    )


def _make_sampler(
    config: RunConfig, processes: Processes, trees: Sequence[RateTree], sizes: Mapping[str, int]
) -> MixtureSampler:
    mixing = config.mixing
    rates = mixing_rates(sizes, mixing.strategy, temperature=mixing.temperature, cap=mixing.cap, trees=trees)
    return MixtureSampler(
        rates,
        {name: np.broadcast_to(np.int32(0), size) for name, size in sizes.items()},  # until they are known
        # Rows of a global batch: of all processes and accumulation steps together.
        batch_size=config.per_device_train_batch_size * config.gradient_accumulation_steps * processes.world,
        seed=config.seed,
        batching=config.batching,
        window=config.length_window,
    )


def num_steps(config: RunConfig, sampler: MixtureSampler) -> int:
    """Optimiser steps of the run: `max_steps`, or so many that `num_train_epochs` times all rows are drawn."""
    if config.max_steps is not None:
        return config.max_steps
    rows = sum(len(lengths) for lengths in sampler.lengths.values())
    return max(1, ceil(config.num_train_epochs * rows / sampler.batch_size))
