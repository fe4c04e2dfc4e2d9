"""The training loop: AdamW, warm-up - stable - decay, exact resume, as often as need be.

A batch is a function of (seed, step, rank), so a checkpoint needs no sampler state, and there is no dropout, so it
needs no random state: weights, AdamW's moments and the step say all. Checkpoints are safetensors and JSON, written
beside their place and renamed into it. Under `torchrun` each process takes its own rows and gradients are summed.

The schedule (warm-up, stable, linear decay to zero: "WSD", Hu et al. 2024) is a pure function of the step, so a run
can be prolonged: resume with larger `--steps` and the plateau simply goes on, from a checkpoint before the decay.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import nullcontext
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Protocol

import torch
import torch.distributed as dist
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

from hyperpelt.errors import UserError
from hyperpelt.files import folders
from hyperpelt.files.atomic import write_json
from hyperpelt.files.tensors import write_tensors
from hyperpelt.training.interrupts import Stop, noticing_signals
from hyperpelt.training.precision import race
from pretraining.batches import Batch

MakeBatch = Callable[[int], Batch]


class Pretrainable(Protocol):
    """What the loop needs of a model."""

    def to(self, device: torch.device) -> None: ...
    def trained(self) -> Iterator[tuple[str, nn.Parameter]]: ...
    def state(self) -> dict[str, Tensor]: ...
    def load(self, state: dict[str, Tensor]) -> None: ...
    def token_losses(self, batch: Batch) -> tuple[Tensor, Tensor]: ...


@dataclass(kw_only=True)
class Schedule:
    steps: int
    warmup_steps: int = 100
    decay_steps: int = 400
    learning_rate: float = 1e-3

    def at(self, step: int) -> float:
        """The learning rate of the (0-based) step."""
        warm = min(1.0, (step + 1) / max(self.warmup_steps, 1))
        left = min(1.0, (self.steps - step) / max(self.decay_steps, 1))
        return self.learning_rate * warm * max(left, 0.0)


@dataclass(kw_only=True)
class Settings:
    """Everything but the model and the data. Times are counted in optimiser steps unless named otherwise."""

    schedule: Schedule
    weight_decay: float = 0.01
    max_grad_norm: float = 1.0
    betas: tuple[float, float] = (0.9, 0.98)
    precision: str = "fp32"
    log_steps: int = 10
    eval_steps: int = 200
    save_steps: int = 200
    save_total_limit: int = 2
    keep: tuple[int, ...] = field(default=())  # steps whose checkpoints are never removed
    workers: int = 0  # processes that make batches ahead of time; wanted on a GPU
    stop_after_minutes: float | None = None
    stop_after_steps: int | None = None


@dataclass(frozen=True)
class Steps(Dataset[Batch]):
    """The batches of a run, by step."""

    make_batch: MakeBatch

    def __getitem__(self, index: int) -> Batch:
        return self.make_batch(index)


class Progress(Protocol):
    def __call__(self, step: int, values: Mapping[str, float]) -> None: ...


def choose_precision(name: str, device: torch.device, folder: Path | None = None) -> str:
    """`auto` is what a race of two products finds faster here, or what the run in `folder` was started with.

    With several processes the first one decides.
    """
    if name == "fp16":
        raise UserError("precision fp16 is refused: its range overflows in T5's feed-forward layers; use bf16 or fp32.")
    if name not in ("auto", "bf16", "fp32"):
        raise UserError(f"Expected precision auto, bf16 or fp32, got {name!r}.")
    if name != "auto":
        return name
    saved = checkpoints(folder) if folder is not None else []
    if saved:
        return str(json.loads((saved[-1] / "state.json").read_text(encoding="utf8"))["settings"]["precision"])
    found: list[str | None] = [None]
    if not dist.is_initialized() or dist.get_rank() == 0:
        found = [race(device)]
    if dist.is_initialized():
        dist.broadcast_object_list(found, src=0)
    return str(found[0])


@dataclass
class Trainer:
    """One run in one folder: `checkpoints/step-N/`, `log.jsonl`, TensorBoard's events are the caller's `progress`."""

    task: Pretrainable
    settings: Settings
    folder: Path
    make_batch: MakeBatch
    evaluate: Callable[[], Mapping[str, float]]
    progress: Progress
    device: torch.device

    def __post_init__(self) -> None:
        self.step = 0
        self.tokens = 0
        self.stop = Stop()
        self.names, parameters = zip(*self.task.trained(), strict=True)
        decayed = [p for p in parameters if p.dim() >= 2]
        rest = [p for p in parameters if p.dim() < 2]
        groups = [{"params": decayed}, {"params": rest, "weight_decay": 0.0}]
        self.parameters = list(parameters)
        self.optimizer = torch.optim.AdamW(
            groups,
            lr=self.settings.schedule.learning_rate,
            betas=self.settings.betas,
            weight_decay=self.settings.weight_decay,
        )

    def run(self) -> None:
        """Train until the schedule ends or its time is over; save at the end either way.

        Ctrl-C and SIGTERM end it after the running step, with a checkpoint.
        """
        with noticing_signals() as self.stop:
            self._run()

    def _run(self) -> None:
        settings, started = self.settings, time.monotonic()
        first = self.step
        window: list[float] = []
        window_started, window_tokens = time.monotonic(), 0
        for batch in self._batches():
            loss, norm, count = self._update(batch.to(self.device))
            window.append(loss)
            window_tokens += count
            if self.step % settings.log_steps == 0 or self.step == settings.schedule.steps:
                seconds = time.monotonic() - window_started
                values = {
                    "loss": sum(window) / len(window),
                    "learning_rate": settings.schedule.at(self.step - 1),
                    "grad_norm": norm,
                    "tokens_per_second": window_tokens / seconds,
                    "target_tokens": self.tokens,
                    "eta_minutes": (settings.schedule.steps - self.step) * seconds / len(window) / 60,
                }
                self.progress(self.step, values)
                window.clear()
                window_started, window_tokens = time.monotonic(), 0
            if self.step % settings.eval_steps == 0 or self.step == settings.schedule.steps:
                self.progress(self.step, self.evaluate())
                window.clear()
                window_started, window_tokens = time.monotonic(), 0
            over = self._time_is_over(started, first)
            if self.step % settings.save_steps == 0 or self.step in settings.keep or over:
                self.save()
            if over:
                return
        self.save()

    def _time_is_over(self, started: float, first: int) -> bool:
        """Whether to stop here: out of time, out of steps, or asked to by a signal. Agreed by all processes."""
        settings = self.settings
        over = bool(self.stop.signum)
        if settings.stop_after_steps is not None:
            over = over or self.step - first >= settings.stop_after_steps
        if settings.stop_after_minutes is not None:
            over = over or time.monotonic() - started > 60 * settings.stop_after_minutes
        if not dist.is_initialized():
            return over
        flag = torch.tensor([float(over)], device=self.device)
        dist.all_reduce(flag, dist.ReduceOp.MAX)
        return bool(flag.item())

    def _batches(self) -> DataLoader[Batch]:
        """From the present step to the schedule's last."""
        steps, workers = range(self.step, self.settings.schedule.steps), self.settings.workers
        ahead = 4 if workers else None
        return DataLoader(
            Steps(self.make_batch), batch_size=None, sampler=steps, num_workers=workers, prefetch_factor=ahead
        )

    def _update(self, batch: Batch) -> tuple[float, float, int]:
        """One step: weighted mean loss of the global batch, gradient norm before clipping, target tokens."""
        for group in self.optimizer.param_groups:
            group["lr"] = self.settings.schedule.at(self.step)
        with autocast(self.device, self.settings.precision):
            losses, weights = self.task.token_losses(batch)
        total = torch.stack([(losses * weights).sum(), weights.sum(), torch.tensor(float(len(losses))).to(weights)])
        self.optimizer.zero_grad(set_to_none=True)
        total[0].backward()
        total = total.detach()
        gradients = [p.grad for p in self.parameters]
        if dist.is_initialized():
            dist.all_reduce(total)
            for gradient in gradients:
                dist.all_reduce(gradient)
        for gradient in gradients:
            gradient.div_(total[1])
        norm = nn.utils.clip_grad_norm_(self.parameters, self.settings.max_grad_norm)
        self.optimizer.step()
        self.step += 1
        self.tokens += int(total[2])
        return float(total[0] / total[1]), float(norm), int(total[2])

    def save(self) -> None:
        if not dist.is_initialized() or dist.get_rank() == 0:
            save_checkpoint(self)
        if dist.is_initialized():
            dist.barrier()

    def resume(self) -> bool:
        """Load the newest checkpoint of the folder; False if there is none."""
        found = checkpoints(self.folder)
        if not found:
            return False
        load_checkpoint(self, found[-1])
        return True


def autocast(device: torch.device, precision: str) -> Any:
    return torch.autocast(device.type, dtype=torch.bfloat16) if precision == "bf16" else nullcontext()


def checkpoints(folder: Path) -> list[Path]:
    """Complete checkpoints, oldest first (a partial one has another name)."""
    found = [path for path in (folder / "checkpoints").glob("step-*") if path.name[5:].isdigit()]
    return sorted(found, key=lambda path: int(path.name[5:]))


def save_checkpoint(trainer: Trainer) -> Path:
    target = trainer.folder / "checkpoints" / f"step-{trainer.step}"
    state = {"step": trainer.step, "target_tokens": trainer.tokens, "settings": asdict(trainer.settings)}
    with folders.building(target) as new:
        write_tensors(new / "model.safetensors", trainer.task.state())
        write_tensors(new / "optimizer.safetensors", _moments(trainer))
        write_json(new / "state.json", state)
    kept = [p for p in checkpoints(trainer.folder) if int(p.name[5:]) not in trainer.settings.keep]
    for old in kept[: -trainer.settings.save_total_limit]:
        folders.remove(old)
    return target


def recover(folder: Path) -> None:
    """Put back a checkpoint that a killed process was about to replace, and clear away what else it left."""
    folders.recover(folder / "checkpoints", r"step-\d+")


def _moments(trainer: Trainer) -> dict[str, Tensor]:
    state = {}
    for name, parameter in zip(trainer.names, trainer.parameters, strict=True):
        for key, value in trainer.optimizer.state[parameter].items():
            state[f"{key}:{name}"] = value.detach().cpu().contiguous()
    return state


def load_checkpoint(trainer: Trainer, path: Path) -> None:
    trainer.task.load(load_file(path / "model.safetensors"))
    moments = load_file(path / "optimizer.safetensors")
    for name, parameter in zip(trainer.names, trainer.parameters, strict=True):
        trainer.optimizer.state[parameter] = {
            key: moments[f"{key}:{name}"].to("cpu" if key == "step" else parameter.device)
            for key in ("step", "exp_avg", "exp_avg_sq")
        }
    state = json.loads((path / "state.json").read_text(encoding="utf8"))
    trainer.step, trainer.tokens = state["step"], state["target_tokens"]
