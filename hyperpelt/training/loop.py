"""The loop of joint training: steps, what is watched, and when it saves.

One optimiser step: every process computes its micro-batches of the global batch. The loss of a micro-batch is the sum
of its rows' losses over the number of target tokens of the *global* batch, so that accumulation and processes add up
to the very gradient of one large batch.

Losses stay on the accelerator until something needs them (a log line, an evaluation, a checkpoint): that is the only
time the device is waited for, and also when a loss that is not finite is found. Nothing is saved after it.
"""

from __future__ import annotations

import math
import shlex
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from time import monotonic
from typing import TYPE_CHECKING, Any, NoReturn

import torch
from torch import Tensor, nn

from hyperpelt.data import Batch
from hyperpelt.errors import UserError, counted
from hyperpelt.model.inputs import inputs_of
from hyperpelt.training import checkpoints
from hyperpelt.training.callbacks import Callbacks, Evaluation
from hyperpelt.training.checkpoints import Checkpoint
from hyperpelt.training.courses import Courses, FirstBatches
from hyperpelt.training.interrupts import Stop, StopNow, TrainingInterrupted
from hyperpelt.training.objective import total_loss
from hyperpelt.training.optimisation import learning_rate, load_optimizer_state, optimizer_state, set_learning_rate
from hyperpelt.training.precision import computing
from hyperpelt.training.step_records import StepRecord, all_finite, first_bad, not_finite, penalty_sums, task_sums

if TYPE_CHECKING:
    from hyperpelt.config import RunConfig
    from hyperpelt.data.sampler import MixtureSampler
    from hyperpelt.evaluation.results import Results
    from hyperpelt.model.tuned import TunedModel
    from hyperpelt.training.distributed import Processes
    from hyperpelt.training.progress import Screen


@dataclass
class State:
    """What a checkpoint has to know beside tensors and random states; plain numbers."""

    step: int = 0
    tokens: int = 0
    seconds: float = 0.0
    loss: float | None = None  # of the steps before the last log line
    best_step: int | None = None
    best_value: float | None = None
    worse: int = 0  # evaluations since the best one
    stopped_early: bool = False
    history: list[dict[str, Any]] = field(default_factory=list)

    def forget_best(self) -> None:
        """Look for the best checkpoint anew: it is not there any more, or was compared otherwise."""
        self.best_step, self.best_value, self.worse, self.stopped_early = None, None, 0, False


@dataclass
class Loop:
    """Everything that one run moves. `run` takes the steps; `restore` goes on from a checkpoint."""

    config: RunConfig
    processes: Processes
    model: TunedModel
    forward: nn.Module  # the model as the processes share it
    optimizer: torch.optim.Optimizer
    sampler: MixtureSampler
    total: int
    folder: Path  # of checkpoints
    stop: Stop
    evaluate: Callable[[], Results]
    about: Mapping[str, Any]  # settings and data, kept in each checkpoint
    first: FirstBatches  # for courses that look before the first step
    state: State = field(default_factory=State)
    screen: Screen = field(init=False)
    callbacks: Callbacks = field(init=False)  # of the main process; the screen and trackers are among them
    _unseen: list[StepRecord] = field(default_factory=list)
    _saved: int | None = None

    def __post_init__(self) -> None:
        self.trained = list(self.model.trainable_parameters())
        self.parameters = [parameter for _, parameter in self.trained]
        options = {"total": self.total, "seed": self.config.seed, "add_up": self.processes.add_up}
        self.courses = Courses(self.model, first=self.first, **options)

    # ------------------------------------------------------------------------------------------------------- running

    def run(self, steps: Iterator[list[Batch]], rng: Sequence[Mapping[str, Any]] = ()) -> None:
        """Train to the end, early stopping, or a signal (which raises TrainingInterrupted after saving).

        rng: random states of a checkpoint, one a process; restored last of all, as libraries draw when they are set up.
        """
        if self.processes.rank < len(rng):
            checkpoints.restore_random_states(rng[self.processes.rank], self.processes.device)
        self.model.train()
        if self.state.step == 0:
            self.courses.begin()
        began, before = monotonic(), self.state.seconds
        self._logged, self._log_tokens = monotonic(), self.state.tokens
        if self._evaluation_is_due():  # the run was stopped in the midst of it
            self._evaluate_and_save()
        for batches in steps if not self.state.stopped_early else ():
            self._step(batches)
            self.state.seconds = before + monotonic() - began
            self._watch()
            if self.state.stopped_early:
                break
        if self.state.stopped_early:
            what, count = self.config.metric_for_best, self.state.worse
            self.screen.say(
                f"stopped early at step {self.state.step}: no better {what} in {counted(count, 'evaluation')}"
            )

    def _step(self, batches: list[Batch]) -> None:
        record = StepRecord.of(self.state.step + 1, batches)
        for index, batch in enumerate(batches):
            last = index == len(batches) - 1
            with self.processes.accumulating(self.forward, last=last):
                record.row_losses.append(self._backward(batch, record))
        self.processes.sum_gradients(self.parameters)
        limit = self.config.max_grad_norm or math.inf
        record.gradient_norm = torch.nn.utils.clip_grad_norm_(self.parameters, limit)
        self._unseen.append(record)
        if self.processes.device.type == "cpu":  # looking costs nothing here: stop before the weights are spoilt
            self._check_finite()
        set_learning_rate(self.optimizer, learning_rate(self.config, self.state.step, self.total))
        self.optimizer.step()
        self.state.step += 1
        self.courses.after_step(self.state.step)
        self.optimizer.zero_grad(set_to_none=True)
        self.state.tokens += batches[0]["num_read_tokens"]

    def _backward(self, batch: Batch, record: StepRecord) -> Tensor:
        """Gradients of one micro-batch, added to those there; returns its rows' losses [B]."""
        inputs = inputs_of(batch, self.processes.device)
        with computing(self.config.precision, self.processes.device):
            output = self.forward(**inputs, smoothing=self.config.label_smoothing)
        loss = total_loss(output, batch)
        self.processes.backward(loss)
        record.add_penalties(output.row_penalties or {}, batch["num_global_rows"])
        return output.row_loss.detach()

    def _watch(self) -> None:
        """After a step: log, evaluate, save and stop, as far as each is due."""
        step, config = self.state.step, self.config
        last = step == self.total
        signum = self.processes.largest(self.stop.signum)
        saving = last or (config.save_steps is not None and step % config.save_steps == 0)
        logging = last or step % config.log_steps == 0
        looking = logging or saving or signum or self._evaluation_is_due()
        self.callbacks.on_step(step, self._look(log=logging) if looking else {})
        if saving or signum:
            self.save()
        if signum:
            self.interrupt(signum)
        if self._evaluation_is_due():
            self._evaluate_and_save()

    def interrupt(self, signum: int) -> NoReturn:
        """End the run because of a signal; it is saved."""
        checkpoint = self.folder / f"step-{self.state.step}"
        command = f"hyperpelt train {shlex.quote(str(self.folder.parent))} resume=true"
        raise TrainingInterrupted(signum, step=self.state.step, checkpoint=checkpoint, command=command)

    # ------------------------------------------------------------------------------------------------------- looking

    def _look(self, *, log: bool) -> dict[str, float]:
        """Check the steps since the last look; their numbers, if they are to be logged."""
        self._check_finite()
        if not log:
            return {}
        sums = self.processes.sum(task_sums(self._unseen, len(self.model.tasks))).numpy()
        now = monotonic()
        numbers = {
            "train/loss": float(sums[:, 0].sum() / sums[:, 1].sum()),
            "train/learning_rate": learning_rate(self.config, self.state.step - 1, self.total),
            "train/grad_norm": float(torch.stack([record.gradient_norm for record in self._unseen]).mean()),
            "train/tokens_per_second": (self.state.tokens - self._log_tokens) / max(now - self._logged, 1e-9),
        }
        numbers |= self._penalties()
        named = zip(self.model.tasks, sums, strict=True)
        self.state.loss = numbers["train/loss"]
        self._unseen.clear()
        self._logged, self._log_tokens = now, self.state.tokens
        return numbers | {f"train/loss/{name}": float(loss / tokens) for name, (loss, tokens) in named if tokens}

    def _penalties(self) -> dict[str, float]:
        """The mean of each penalty over the steps since the last look."""
        names = self.model.penalties
        if not names:
            return {}
        sums = self.processes.sum(penalty_sums(self._unseen, names)) / len(self._unseen)
        return {f"train/penalty/{name}": float(value) for name, value in zip(names, sums, strict=True)}

    def _check_finite(self) -> None:
        """UserError if a loss or gradient since the last look is nan or inf, on whatever process it was."""
        bad = not all_finite(self._unseen)
        if self.processes.largest(int(bad)):
            found = self.processes.gather(first_bad(self._unseen) if bad else None)
            raise not_finite(found, self.folder)

    # ---------------------------------------------------------------------------------------------------- evaluating

    def _evaluation_is_due(self) -> bool:
        step, every = self.state.step, self.config.eval_steps
        if every is None or step == 0 or (step % every and step != self.total):
            return False
        return not self.state.history or self.state.history[-1]["step"] != step

    def _evaluate_and_save(self) -> None:
        """Evaluate, and save if this is the best so far or the end."""
        try:
            best = self._evaluate()
        except StopNow:
            self.save()
            self.interrupt(self.stop.signum)
        if best or self.state.stopped_early or self.state.step == self.total:
            self._saved = None  # what the evaluation found belongs into the checkpoint too
            self.save()

    def _evaluate(self) -> bool:
        """Evaluate, note the result, and say whether it is the best so far."""
        began = monotonic()
        with self.screen.paused(), self.stop.at_once(self.processes.world == 1):
            results = self.evaluate()
        self.model.train()
        value = results.value(self.config.metric_for_best)
        scores = {name: dict(task.metrics) for name, task in results.tasks.items()}
        note = {"step": self.state.step, self.config.metric_for_best: value, "average": results.average}
        self._logged += monotonic() - began  # no part of the training speed
        self.state.history.append({**note, "seconds": round(monotonic() - began, 3), "tasks": scores})
        best = self.state.best_value is None or value > self.state.best_value
        if best:
            self.state.best_step, self.state.best_value, self.state.worse = self.state.step, value, 0
        else:
            self.state.worse += 1
        self.callbacks.on_evaluate(self.told(results, value))
        self.state.stopped_early = self._has_stopped_early()
        return best

    def _has_stopped_early(self) -> bool:
        patience = self.config.early_stopping_patience
        return patience is not None and self.state.worse >= patience

    def told(self, results: Results, value: float, *, final: bool = False) -> Evaluation:
        """An evaluation as callbacks get it."""
        state, config = self.state, self.config
        return Evaluation(
            step=state.step,
            split=str(results.settings["split"]),
            results=results,
            metric=config.metric_for_best,
            value=value,
            best_step=state.best_step,
            best_value=state.best_value,
            final=final,
        )

    # -------------------------------------------------------------------------------------------------------- saving

    def save(self) -> None:
        """Write the checkpoint of this step, once; all processes wait for it. UserError if it cannot be written."""
        if self._saved == self.state.step:
            return
        self._saved = self.state.step
        rng = self.processes.gather(checkpoints.random_states(self.processes.device))
        problem = self._write(rng) if self.processes.is_main else None
        problem = next((text for text in self.processes.gather(problem) if text), None)
        if problem is not None:
            raise UserError(f"Could not write a checkpoint below {self.folder} ({problem}); earlier ones are kept.")

    def _write(self, rng: list[dict[str, Any]]) -> str | None:
        self.sampler.step = self.state.step
        tensors, numbers = optimizer_state(self.optimizer, self.trained)
        trainer = {"state": asdict(self.state), "sampler": self.sampler.state_dict(), "optimizer": numbers}
        state, course = self.model.method_state(), self.courses.state()
        checkpoint = Checkpoint(self.state.step, state, tensors, course, rng, {**trainer, **self.about})
        try:
            written = checkpoints.save_checkpoint(self.folder, checkpoint)
        except (OSError, UserError) as error:
            return str(error)
        checkpoints.prune(self.folder, keep=self.config.save_total_limit, best=self.state.best_step)
        self.callbacks.on_save(self.state.step, written)
        return None

    def restore(self, checkpoint: Checkpoint) -> None:
        """Go on from a checkpoint: tensors, optimiser, position in the data. Random states come back when it runs."""
        self.sampler.load_state_dict(checkpoint.trainer["sampler"])
        self.model.load_method_state(checkpoint.model)
        self.courses.load_state(checkpoint.course)
        load_optimizer_state(self.optimizer, self.trained, checkpoint.optimizer, checkpoint.trainer["optimizer"])
        self.state = State(**checkpoint.trainer["state"])
        self.state.stopped_early = self._has_stopped_early()
