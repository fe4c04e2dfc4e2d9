"""Timing of several contestants in one run: interleaved repeats, medians, and what is kept for backward."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode

Step = Callable[[], Any]  # what returns a float has a clock of its own: seconds


def synchronise() -> None:
    if torch.cuda.is_available():
        torch.cuda.synchronize()


# What a second is: on the wall, or of processor time (all threads together), for a machine that is not quiet.
CLOCKS = {"wall": time.perf_counter, "cpu": time.process_time}
_clock = "wall"


def set_clock(name: str) -> None:
    """Let every measurement of this process be by this clock."""
    global _clock
    if name not in CLOCKS:
        raise SystemExit(f"Unknown clock {name!r}: one of {', '.join(CLOCKS)}.")
    _clock = name


def clock() -> str:
    return _clock


def now() -> float:
    return CLOCKS[_clock]()


def interleaved(steps: Mapping[str, Step], *, repeats: int, warmup: int = 1) -> dict[str, float]:
    """Median seconds of each step. Every round runs all of them, so that a slow minute hits all alike."""
    return {name: statistics.median(values) for name, values in rounds(steps, repeats=repeats, warmup=warmup).items()}


def rounds(steps: Mapping[str, Step], *, repeats: int, warmup: int = 1) -> dict[str, list[float]]:
    """Seconds of each step in each round."""
    times: dict[str, list[float]] = {name: [] for name in steps}
    for round_number in range(warmup + repeats):
        for name, step in steps.items():
            synchronise()
            start = now()
            own = step()
            synchronise()
            if round_number >= warmup:
                times[name].append(own if isinstance(own, float) else now() - start)
    return times


def peak_megabytes(step: Step, parameters: set[int]) -> float:
    """Memory of one step: on a GPU what the allocator gave out at most beside what was there, on a CPU the distinct
    tensors kept for backward.

    **parameters**: storage addresses that belong to the model itself and are not counted on a CPU.
    """
    if torch.cuda.is_available():
        before = torch.cuda.memory_allocated()
        torch.cuda.reset_peak_memory_stats()
        step()
        return (torch.cuda.max_memory_allocated() - before) / 2**20
    kept: dict[int, int] = {}

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in parameters:
            kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        step()
    return sum(kept.values()) / 2**20


class _Launches(TorchDispatchMode):
    """Counts what is computed, forward and backward: not views of what is there, nor room that is made."""

    def __init__(self) -> None:
        super().__init__()
        self.count = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        given = [argument.alias_info for argument in func._schema.arguments]
        view = any(alias is not None and not alias.is_write for alias in given)
        name = func.overloadpacket.__name__
        self.count += not (view or "empty" in name or name == "_unsafe_view")
        return func(*args, **(kwargs or {}))


def launches(step: Step) -> int:
    """Operations that a step computes: about as many kernels of an accelerator, each of which costs the host time."""
    with _Launches() as seen:
        step()
    return seen.count
