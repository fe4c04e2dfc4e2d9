"""What a run computes in: what its settings say, what the launcher says, or what a race of two products finds.

- `fp32`, `bf16`: the frozen backbone is held and computes so
- `bf16-mixed`: the backbone is held in float32, and products are computed in bfloat16 (PyTorch's autocast), which is
  what `accelerate launch --mixed_precision bf16` asks for
- `auto`: `bf16` where this machine multiplies so much faster, else `fp32`; a method that trains the backbone itself,
  whose small updates bfloat16 would lose, gets `bf16-mixed` instead

What is trained is float32 in all of them. What was settled is written into run.yaml and every checkpoint, so a resumed
run computes as the stopped one did, wherever it goes on.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from time import perf_counter
from typing import TYPE_CHECKING, Any

import torch

from hyperpelt import methods
from hyperpelt.errors import UserError
from hyperpelt.training import checkpoints

if TYPE_CHECKING:
    from hyperpelt.config import RunConfig
    from hyperpelt.training.distributed import Processes

MARGIN = 1.2  # so many times as fast bfloat16 must be: it rounds, and near a tie machines would choose by chance
ROUNDS = 3  # timed ones, of which the fastest counts; one more comes before them
LAUNCHER = "ACCELERATE_MIXED_PRECISION"


def settled(config: RunConfig, processes: Processes, resume_from: Path | None = None) -> tuple[RunConfig, list[str]]:
    """The settings with a precision that is no longer open, and what is to be said about it.

    Raises:
        UserError: the launcher and the run contradict each other.
    """
    launched = os.environ.get(LAUNCHER, "").lower() == "bf16"
    chosen, notes = config.precision, list[str]()
    if launched and chosen == "fp32" and "precision" in config.model_fields_set:
        raise UserError(
            "accelerate launch was told --mixed_precision bf16, and the run says precision=fp32: launch with "
            "--mixed_precision no, or set precision=bf16-mixed."
        )
    if launched and chosen == "bf16":
        notes.append("precision=bf16 holds the backbone in bf16 as it is: the launcher's mixed precision adds nothing.")
    elif launched and chosen != "bf16-mixed":
        chosen = "bf16" if config.quantization else "bf16-mixed"  # packed weights compute in one dtype
        notes.append(f"The launcher's --mixed_precision bf16 is honoured: precision={chosen}.")
    elif chosen == "auto":
        chosen, why = processes.on_main(lambda: _chosen(config, processes.device, resume_from))
        notes.append(f"precision=auto is {chosen}, {why}.")
    return config.model_copy(update={"precision": chosen}), notes


def computing(precision: str, device: torch.device) -> AbstractContextManager[Any]:
    """Context of a forward pass."""
    return torch.autocast(device.type, torch.bfloat16) if precision == "bf16-mixed" else nullcontext()


def _chosen(config: RunConfig, device: torch.device, resume_from: Path | None) -> tuple[str, str]:
    """What `auto` is, and why."""
    if resume_from is not None:
        return str(checkpoints.settings_of(resume_from).get("precision", "fp32")), "as before the run was stopped"
    won = race(device)
    if won == "bf16" and methods.get(config.method).unfreeze:
        won = "bf16-mixed"
    return won, f"by a race of two products on this {device.type}"


def race(device: torch.device, *, clock: Callable[[], float] = perf_counter) -> str:
    """`bf16` if this device multiplies so at least `MARGIN` times as fast as in float32, else `fp32`; in some 20 ms.

    What a processor says of itself does not tell: some that name bfloat16 among their instructions run it slower.
    """
    rows, width = (256, 768) if device.type == "cpu" else (4096, 4096)  # small there, but not for an accelerator
    left, right = torch.ones(rows, width, device=device), torch.ones(width, width, device=device)
    seconds = [_fastest(left.to(dtype), right.to(dtype), clock) for dtype in (torch.float32, torch.bfloat16)]
    return "bf16" if seconds[0] >= MARGIN * seconds[1] else "fp32"


def _fastest(left: torch.Tensor, right: torch.Tensor, clock: Callable[[], float]) -> float:
    times = []
    for _ in range(ROUNDS + 1):
        began = clock()
        left @ right
        if left.device.type != "cpu":
            torch.accelerator.synchronize(left.device)
        times.append(clock() - began)
    return min(times[1:])
