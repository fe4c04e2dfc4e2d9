"""Joint training of one method on many tasks: `train(config)` makes a run folder.

    from hyperpelt.config import load_run
    results = train(load_run("scripts/glue_cpu.yaml", ["output_dir=runs/first"]))

The run folder: `config.json` and `model.safetensors` (what `TunedModel.from_pretrained` loads), `results.json`,
`run.yaml` (every setting), `tensorboard/`, `checkpoints/step-N/` (for `resume`). The same call trains with one process
or with many, under `accelerate launch` or torchrun.

The walls of this room: training_loop.py (steps, saving), run_folder.py (what is there already), checkpoints.py,
optimisation.py, distributed.py, step_records.py, progress.py, interrupts.py.
"""

from __future__ import annotations

import math
import random
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from math import ceil
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import nn

from hyperpelt import checkpoints
from hyperpelt.config import RunConfig, to_yaml
from hyperpelt.data import (
    Batch,
    MicroBatches,
    MixtureSampler,
    RateTree,
    TokenizedSet,
    batches,
    lengths_of,
    mixing_rates,
    rate_trees,
    rates_table,
    task_names,
)
from hyperpelt.distributed import Processes, start_processes
from hyperpelt.errors import UserError, unknown
from hyperpelt.interrupts import Stop, StopNow, noticing_signals
from hyperpelt.model import TunedModel
from hyperpelt.optimisation import make_optimizer
from hyperpelt.progress import Reporter, rates_as_table
from hyperpelt.run_folder import RunFolder, settings_that_differ
from hyperpelt.training_loop import Loop, State

if TYPE_CHECKING:
    from hyperpelt.results import Results
    from hyperpelt.tasks import Task

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}


def train(config: RunConfig, *, progress: bool = True) -> dict[str, Any]:
    """Train as `config` says, write the run folder, and return what its results.json holds.

    progress: print to stderr. Raises UserError for every mistake of the input, before training starts where it can be
    known; TrainingInterrupted after Ctrl-C or SIGTERM, when the run is saved.
    """
    processes = start_processes(use_cpu=config.use_cpu)
    with noticing_signals() as stop:
        results = _Run(config, processes, stop, progress and processes.is_main).train()
    processes.close()
    return results


class _Run:
    """One call of `train`: what it prepares, in the order in which mistakes are cheapest to report."""

    def __init__(self, config: RunConfig, processes: Processes, stop: Stop, show: bool) -> None:
        self.config, self.processes, self.stop, self.show = config, processes, stop, show
        self.trees = _find_tasks(config)
        self.names = task_names(self.trees)
        self.folder = RunFolder.claim(config)
        self.tasks = _registered(self.names)
        _check_splits(config, self.tasks)
        self.model = self._build_model()
        self.sets = self._tokenise()
        self.sampler = self._make_sampler()
        self.total = num_steps(config, self.sampler)

    @property
    def batch_size(self) -> int:
        """Rows of a global batch: of all processes and accumulation steps together."""
        config = self.config
        return config.per_device_train_batch_size * config.gradient_accumulation_steps * self.processes.world

    # --------------------------------------------------------------------------------------------------- preparation

    def _build_model(self) -> TunedModel:
        config = self.config
        with self.processes.accelerator.main_process_first():  # one process fetches what is not here yet
            model = TunedModel.build(
                config.backbone,
                method=config.method,
                tasks=self.names,
                seed=config.seed,
                dtype=DTYPES[config.precision],
            )
        if config.gradient_checkpointing:
            model.gradient_checkpointing_enable()
        return model

    def _tokenise(self) -> dict[str, TokenizedSet]:
        config = self.config
        make = partial(
            TokenizedSet.load_or_build,
            split="train",
            tokenizer=self.model.tokenizer,
            max_source_length=config.max_source_length,
            max_target_length=config.max_target_length,
            data_root=config.data_root,
            limit=config.train_limit,
        )
        return {task.name: make(task) for task in self.tasks}

    def _make_sampler(self) -> MixtureSampler:
        config, sizes = self.config, {name: len(tokens) for name, tokens in self.sets.items()}
        mixing = config.mixing
        rates = mixing_rates(sizes, mixing.strategy, temperature=mixing.temperature, cap=mixing.cap, trees=self.trees)
        return MixtureSampler(
            rates,
            lengths_of(self.sets),
            batch_size=self.batch_size,
            seed=config.seed,
            batching=config.batching,
            window=config.length_window,
        )

    def _steps(self, start: int) -> Iterator[list[Batch]]:
        rows = MicroBatches(
            self.sampler,
            self.sets,
            task_ids={name: self.model.task_id(name) for name in self.names},
            pad_token_id=self.model.backbone.config.pad_token_id,
            num_micro=self.config.gradient_accumulation_steps,
            rank=self.processes.rank,
            world=self.processes.world,
        )
        on_cuda = self.processes.device.type == "cuda"
        workers = self.config.dataloader_num_workers
        return batches(rows, start=start, stop=self.total, num_workers=workers, pin_memory=on_cuda)

    # -------------------------------------------------------------------------------------------------------- running

    def train(self) -> dict[str, Any]:
        """Prepare, loop, evaluate the best, write."""
        checkpoint = checkpoints.load_checkpoint(self.folder.resume_from) if self.folder.resume_from else None
        notes = settings_that_differ(self.config, checkpoint.trainer["config"]) if checkpoint else []
        forward, optimizer = self._prepare()
        _seed(self.config.seed + self.processes.rank)
        start = checkpoint.step if checkpoint else 0
        with self._open_folder(start) as reporter:
            loop = self._make_loop(forward, optimizer, reporter)
            if checkpoint is not None:
                loop.restore(checkpoint)
            self._introduce(reporter, start, notes)
            loop.run(self._steps(start))
            return self._finish(loop, reporter)

    def _prepare(self) -> tuple[nn.Module, torch.optim.Optimizer]:
        forward = self.processes.prepare(self.model)
        optimizer = make_optimizer(self.config, self.model.trainable_parameters())
        return torch.compile(forward) if self.config.torch_compile else forward, optimizer

    @contextmanager
    def _open_folder(self, start: int) -> Iterator[Reporter]:
        """The run folder cleared of what it may replace, and whoever reports on the run."""
        if self.processes.is_main:
            self.folder.prepare(to_yaml(self.config.model_copy(update={"resume": False, "overwrite": False})))
        self.processes.wait()
        main = self.processes.is_main
        with Reporter(self.folder.tensorboard, total=self.total, start=start, show=self.show, write=main) as reporter:
            yield reporter

    def _make_loop(self, forward: nn.Module, optimizer: torch.optim.Optimizer, reporter: Reporter) -> Loop:
        return Loop(
            config=self.config,
            processes=self.processes,
            model=self.model,
            forward=forward,
            optimizer=optimizer,
            sampler=self.sampler,
            total=self.total,
            folder=self.folder.checkpoints,
            reporter=reporter,
            stop=self.stop,
            evaluate=partial(self._evaluate, self.config.eval_split, self.config.eval_limit, majority=False),
            about={"config": self.config.model_dump(mode="json"), "data": self._fingerprints()},
        )

    def _fingerprints(self) -> dict[str, str]:
        return {name: tokens.fingerprint for name, tokens in self.sets.items()}

    def _introduce(self, reporter: Reporter, start: int, notes: Sequence[str]) -> None:
        model, config = self.model, self.config
        share = model.num_trainable() / sum(p.numel() for p in model.backbone.parameters())
        reporter.say(
            f"{config.method if isinstance(config.method, str) else 'method'} on {config.backbone}: "
            f"{model.num_trainable():,} trained values ({share:.2%} of the backbone), {len(self.names)} tasks, "
            f"{self.total:,} steps of {self.batch_size} rows, {self.processes.world} process(es) on "
            f"{self.processes.device.type}, {config.precision}"
        )
        reporter.say(rates_as_table(self._rates()))
        if start:
            reporter.say(f"Resumed from {self.folder.resume_from}.")
        for note in notes:
            reporter.say(note)

    def _rates(self) -> list[dict[str, Any]]:
        sizes = {name: len(tokens) for name, tokens in self.sets.items()}
        rows = rates_table(self.sampler.rates, sizes, self.total * self.batch_size)
        cut = ("num_cut_sources", "num_cut_targets")
        return [{**row, **{key: getattr(self.sets[row["task"]], key) for key in cut}} for row in rows]

    def _evaluate(self, split: str, limit: int | None, *, majority: bool = True, frozen: bool = False) -> Results:
        from hyperpelt.evaluation import evaluate

        config = self.config
        return evaluate(
            self.model,
            self.tasks,
            split=split,
            data_root=config.data_root,
            batch_size=config.per_device_eval_batch_size,
            max_source_length=config.max_source_length,
            max_target_length=config.max_target_length,
            normalisation=config.scoring,
            limit=limit,
            majority=majority,
            frozen=frozen,
            # The layers of a sharded backbone run on all processes together, so all of them do all rows.
            accelerator=None if self.processes.sharded else self.processes.accelerator,
            progress=self.show,
        )

    # ------------------------------------------------------------------------------------------------------ finishing

    def _finish(self, loop: Loop, reporter: Reporter) -> dict[str, Any]:
        """Load the best checkpoint, save the model, measure it, and write results.json."""
        state = loop.state
        if state.best_step is not None and state.best_step != state.step:
            best = checkpoints.load_trained(self.folder.checkpoints / f"step-{state.best_step}")
            self.model.load_method_state(best)
        if self.processes.is_main:
            self._saved_model().save_pretrained(self.folder.path)
        self.processes.wait()
        try:
            with reporter.paused(), self.stop.at_once(self.processes.world == 1):
                results = self._evaluate(self.config.test_split, self.config.test_limit, frozen=self.config.frozen_row)
        except StopNow:
            loop.interrupt(self.stop.signum)
        content = {**results.as_dict(), "training": self._summary(state)}
        if self.processes.is_main:
            checkpoints.write_json(self.folder.results, _plain(content))
        self.processes.wait()
        return _plain(content)

    def _saved_model(self) -> TunedModel:
        """The model as it is written; one whose backbone is sharded is put together anew."""
        if not self.processes.sharded:
            return self.model
        model = TunedModel.build(
            self.config.backbone, method=self.config.method, tasks=self.names, seed=self.config.seed
        )
        model.load_method_state(self.model.method_state())
        return model

    def _summary(self, state: State) -> dict[str, Any]:
        return {
            "backbone": self.config.backbone,
            "method": self.config.method,
            "trainable": self.model.num_trainable(),
            "seed": self.config.seed,
            "steps": state.step,
            "batch_size": self.batch_size,
            "tokens": state.tokens,
            "seconds": round(state.seconds, 3),
            "processes": self.processes.world,
            "device": self.processes.device.type,
            "precision": self.config.precision,
            "stopped_early": state.stopped_early,
            "best_step": state.best_step,
            "best_value": state.best_value,
            "metric_for_best": self.config.metric_for_best,
            "eval_split": self.config.eval_split,
            "mixture": self._rates(),
            "history": state.history,
        }


def num_steps(config: RunConfig, sampler: MixtureSampler) -> int:
    """Optimiser steps of the run: `max_steps`, or so many that `num_train_epochs` times all rows are drawn."""
    if config.max_steps is not None:
        return config.max_steps
    rows = sum(len(lengths) for lengths in sampler.lengths.values())
    return max(1, ceil(config.num_train_epochs * rows / sampler.batch_size))


def _find_tasks(config: RunConfig) -> list[RateTree]:
    from hyperpelt import tasks as registry

    for plugin in config.plugins:
        registry.load_plugin(plugin)
    return rate_trees(config.task_rates)


def _registered(names: Sequence[str]) -> list[Task]:
    from hyperpelt import tasks as registry

    return [registry.get(name) for name in names]


def _check_splits(config: RunConfig, tasks: Sequence[Task]) -> None:
    """Every split that the run will need is there and has rows, and `metric_for_best` names something."""
    used = ["train", config.test_split, *([config.eval_split] if config.eval_steps is not None else [])]
    for task in tasks:
        for split in dict.fromkeys(used):
            if not len(task.rows(split, data_root=config.data_root)):
                raise UserError(f"{task.name}: its split {split!r} has no rows.")
    known = ["average", *(task.name for task in tasks)]
    known += [f"{task.name}/{metric}" for task in tasks for metric in task.metrics]
    if config.metric_for_best not in known:
        raise unknown("metric_for_best", config.metric_for_best, known)


def _seed(seed: int) -> None:
    """Dropout draws from PyTorch's own generators; every process from another place."""
    torch.manual_seed(seed)
    random.seed(seed)
    np.random.seed(seed % 2**32)


def _plain(content: Any) -> Any:
    """JSON has no nan and no infinity: they become null."""
    if isinstance(content, Mapping):
        return {str(key): _plain(value) for key, value in content.items()}
    if isinstance(content, list | tuple):
        return [_plain(value) for value in content]
    return None if isinstance(content, float) and not math.isfinite(content) else content
