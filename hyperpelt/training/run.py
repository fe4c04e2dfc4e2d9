"""A training run from its configuration to its results: set-up, the loop, the last evaluation, the files."""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from itertools import islice
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from hyperpelt.config import RunConfig, build_run, to_yaml
from hyperpelt.config.paths import inside
from hyperpelt.errors import counted
from hyperpelt.files.atomic import finite, write_json
from hyperpelt.model.maps import task_map
from hyperpelt.tasks.carried import carry
from hyperpelt.tasks.plugins import load_each
from hyperpelt.training import checkpoints
from hyperpelt.training.callbacks import Callback, Callbacks
from hyperpelt.training.compiled import CompiledForward
from hyperpelt.training.courses import composed
from hyperpelt.training.distributed import start_processes
from hyperpelt.training.folder import RunFolder
from hyperpelt.training.interrupts import Stop, StopNow, TrainingInterrupted, noticing_signals
from hyperpelt.training.loop import Loop, State
from hyperpelt.training.optimisation import make_optimizer
from hyperpelt.training.precision import settled
from hyperpelt.training.progress import Screen, rates_as_table
from hyperpelt.training.resuming import check_what_it_stands_on, looking_anew, settings_that_differ, what_it_stands_on
from hyperpelt.training.setup import Setup, build_model, prepare, taken_over, with_rate
from hyperpelt.training.tracking import Trackers

if TYPE_CHECKING:
    from hyperpelt.evaluation.results import Results
    from hyperpelt.model.tuned import TunedModel


def train(
    config: RunConfig | Mapping[str, Any], *, progress: bool = True, callbacks: Sequence[Callback] = ()
) -> dict[str, Any]:
    """Train as `config` says (a mapping of its keys will do), write the run folder, and return its results.json.

    progress: print to stderr. callbacks: told of steps, evaluations and checkpoints, on the main process.

    Raises UserError for every mistake of the input, before training starts where it can be known; TrainingInterrupted
    after Ctrl-C or SIGTERM, when the run is saved.
    """
    config = (config if isinstance(config, RunConfig) else build_run(config)).with_full_paths()
    load_each(config.plugins)  # whatever the settings name may be theirs, the method too
    config, chosen = with_rate(taken_over(config))
    processes = start_processes(use_cpu=config.use_cpu)
    show = progress and processes.is_main
    with RunFolder.claimed(config, processes) as folder, noticing_signals() as stop, _drawing(processes.device):
        try:
            with stop.at_once(processes.world == 1):  # reading and tokenising may take as long as training
                config, notes = settled(config, processes, folder.resume_from)
                setup = prepare(config, processes, show=show)
        except StopNow:
            raise TrainingInterrupted(stop.signum) from None
        results = _Run(setup, folder, stop, chosen=chosen, notes=notes, show=show, callbacks=callbacks).train()
    processes.close()
    return results


class _Run:
    """One call of `train`, from a set-up to its results."""

    def __init__(
        self,
        setup: Setup,
        folder: RunFolder,
        stop: Stop,
        *,
        chosen: bool,
        notes: Sequence[str],
        show: bool,
        callbacks: Sequence[Callback],
    ) -> None:
        self.setup, self.config, self.processes = setup, setup.config, setup.processes
        self.model, self.folder = setup.model, folder
        self.stop, self.show, self.callbacks = stop, show, tuple(callbacks)
        self.chosen = chosen  # the learning rate, for the method
        self.notes = notes  # about the settings, to be said before the first step

    def train(self) -> dict[str, Any]:
        """Loop, then measure the best and write."""
        checkpoint = checkpoints.load_checkpoint(self.folder.resume_from) if self.folder.resume_from else None
        notes = settings_that_differ(self.setup, checkpoint) if checkpoint else []
        self.setup = composed(self.setup, checkpoint.trainer.get("method") if checkpoint else None)
        self.model = self.setup.model
        start = checkpoint.step if checkpoint else 0
        if checkpoint is not None and self.folder.resume_from is not None:
            resumed = partial(check_what_it_stands_on, self.model, checkpoint, self.folder.resume_from)
            self.processes.on_main(resumed)
        loop = self._make_loop()
        if checkpoint is not None:
            loop.restore(checkpoint)
            notes += looking_anew(self.setup, checkpoint.trainer, loop.state)
        with self._told(start) as (loop.screen, loop.callbacks):
            if not self._bring_checkpoints(loop.state):
                notes.append("The best checkpoint so far is not there any more: the best is looked for anew.")
            if checkpoint is not None and self.processes.is_main:
                aside = checkpoints.set_aside(self.folder.checkpoints, after=start)
                notes += [f"Later checkpoints than that are set aside: {', '.join(aside)}."] if aside else []
            self._introduce(loop.screen, start, notes)
            loop.run(self.setup.steps(start), checkpoint.rng if checkpoint else ())
            return self._finish(loop)

    def _make_loop(self) -> Loop:
        buckets = self.setup.buckets
        stands_on = what_it_stands_on(self.model) if self.processes.is_main else {}  # before layers are sharded
        compiled = CompiledForward(self.model, buckets) if buckets.most else None
        forward = self.processes.prepare(self.model, compiled)
        optimizer = make_optimizer(self.config, self.model.trainable_parameters(), self.model.learning_rate_scales())
        _seed(self.config.seed + self.processes.rank)
        return Loop(
            config=self.config,
            processes=self.processes,
            model=self.model,
            forward=forward,
            optimizer=optimizer,
            sampler=self.setup.sampler,
            total=self.setup.total,
            folder=self.folder.checkpoints,
            stop=self.stop,
            evaluate=partial(self._evaluate, self.config.eval_split, self.config.eval_limit, majority=False),
            first=lambda count: islice(self.setup.steps(0), count),
            about={
                "config": self.config.model_dump(mode="json"),
                "data": self.setup.fingerprints,
                "method": self.model.method.to_dict(),
                "stands_on": stands_on,
            },
        )

    @contextmanager
    def _told(self, start: int) -> Iterator[tuple[Screen, Callbacks]]:
        """From here on the run folder is ours: cleared of what it may replace, and written to."""
        plugins = [inside(self.folder.path, plugin) for plugin in self.config.plugins]
        changes = {"resume": False, "overwrite": False, "plugins": plugins}
        self.processes.on_main(partial(self.folder.prepare, to_yaml(self.config.model_copy(update=changes))))
        self.processes.on_main(self._carry)
        main, trackers = self.processes.is_main, list[Trackers]()
        screen = Screen(total=self.setup.total, start=start, show=self.show)

        def track() -> None:
            trackers.append(Trackers(self.config, self.folder.path, start=start, say=screen.say))

        self.processes.on_main(track)
        try:
            with screen:
                yield screen, Callbacks([screen, *trackers, *self.callbacks] if main else [])
        finally:
            for tracker in trackers:
                tracker.close()

    def _bring_checkpoints(self, state: State) -> bool:
        """A run that goes on in another folder takes its checkpoints along. False if the best one is lost."""
        source = self.folder.resume_from
        if source is None:
            return True
        best = source.with_name(f"step-{state.best_step}")
        lost = state.best_step is not None and not best.is_dir()
        self.processes.wait()
        if self.processes.is_main:
            for path in (source, *([] if lost or state.best_step is None else [best])):
                checkpoints.adopt(path, self.folder.checkpoints)
        self.processes.wait()
        if lost:
            state.forget_best()
        return not lost

    def _introduce(self, screen: Screen, start: int, notes: Sequence[str]) -> None:
        config, trained = self.config, self.model.num_trainable()
        share = trained / sum(p.numel() for p in self.model.backbone.parameters())
        steps = f"{counted(self.setup.total, 'step')} of {self.setup.sampler.batch_size} rows"
        screen.say(
            f"{self.model.method.name} on {config.backbone}: {trained:,} trained values ({share:.2%} of the backbone), "
            f"{counted(len(self.setup.tasks), 'task')}, {steps}, "
            f"{self.processes.world} x {self.processes.device.type}, {config.precision}"
        )
        why = f" (what suits {self.model.method.name}; set learning_rate for another)" if self.chosen else ""
        screen.say(f"learning rate {config.peak_rate:g}{why}")
        for note in self.notes:
            screen.say(note)
        if self.setup.buckets.most:
            screen.say(f"compiled: {self.setup.buckets}, so at most {self.setup.buckets.most} graphs")
        mixture = self.setup.mixture()
        screen.say(rates_as_table(mixture))
        if self.setup.about_images:
            screen.say(self.setup.about_images)
        for row in mixture:
            if row["num_bad_images"]:
                screen.say(f"{row['task']}: {row['num_bad_images']} bad images skipped, with their training rows.")
        for warning in self.setup.warnings:
            screen.say(f"Note on {warning}")
        for note in self.folder.outlived():
            screen.say(note)
        for note in [f"Resumed from {self.folder.resume_from}.", *notes] if start else []:
            screen.say(note)

    def _evaluate(
        self, split: str | Mapping[str, str], limit: int | None, *, majority: bool = True, frozen: bool = False
    ) -> Results:
        from hyperpelt.evaluation.run import evaluate

        config = self.config
        return evaluate(
            self.model,
            self.setup.tasks,
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
            features_dir=config.features_dir,
            on_bad_image=config.on_bad_image,
            blind=config.blind,
        )

    def _carry(self) -> None:
        carry(self.config.plugins, self.setup.names, self.folder.path)

    # ------------------------------------------------------------------------------------------------------ finishing

    def _finish(self, loop: Loop) -> dict[str, Any]:
        """Load the best checkpoint, save the model, measure it, and write results.json."""
        state = loop.state
        if state.best_step is not None and state.best_step != state.step:
            best = checkpoints.load_trained(self.folder.checkpoints / f"step-{state.best_step}")
            self.model.load_method_state(best)
        if self.processes.is_main:
            self._writable_model().save_pretrained(self.folder.path)
        self.processes.wait()
        try:
            with loop.screen.paused(), self.stop.at_once(self.processes.world == 1):
                splits = {name: self.config.test_split_of(name) for name in self.setup.names}
                results = self._evaluate(splits, self.config.test_limit, frozen=self.config.frozen_row)
        except StopNow:
            loop.interrupt(self.stop.signum)
        loop.callbacks.on_evaluate(loop.told(results, results.value(self.config.metric_for_best), final=True))
        content = finite({**results.as_dict(), "training": self._summary(state)})
        if self.processes.is_main:
            write_json(self.folder.results, content)
            self._carry()  # again: rows that were rendered may have imported further neighbours
            self.folder.finish()
        self.processes.wait()
        return content

    def _writable_model(self) -> TunedModel:
        """The model as it is written; one whose backbone is sharded is put together anew."""
        if not self.processes.sharded:
            return self.model
        config = self.config.model_copy(update={"method": self.model.method.to_dict()})
        model = build_model(config, self.setup.tasks, self.model.visual)
        model.load_method_state(self.model.method_state())
        return model

    def _summary(self, state: State) -> dict[str, Any]:
        config = self.config
        return {
            "backbone": config.backbone,
            "method": config.method,
            "trainable": self.model.num_trainable(),
            "seed": config.seed,
            "steps": state.step,
            "batch_size": self.setup.sampler.batch_size,
            "tokens": state.tokens,
            "seconds": round(state.seconds, 3),
            "loss": state.loss,
            "processes": self.processes.world,
            "device": self.processes.device.type,
            "precision": config.precision,
            "stopped_early": state.stopped_early,
            "best_step": state.best_step,
            "best_value": state.best_value,
            "metric_for_best": config.metric_for_best,
            "eval_split": config.eval_split,
            "mixture": self.setup.mixture(),
            "history": state.history,
            "task_map": task_map(self.model),
        }


@contextmanager
def _drawing(device: torch.device) -> Iterator[None]:
    """While inside, generators that the caller shares with us are ours; then they stand where they stood."""
    before = checkpoints.random_states(device)
    try:
        yield
    finally:
        checkpoints.restore_random_states(before, device)


def _seed(seed: int) -> None:
    """Dropout draws from PyTorch's own generators; every process from another place."""
    torch.manual_seed(seed)
    random.seed(seed)
    np.random.seed(seed % 2**32)
