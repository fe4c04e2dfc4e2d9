"""Timing of several contestants in one run: interleaved repeats, medians, and what is kept for backward."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping
from typing import Any

import torch

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
    """Memory of one step: on a GPU the allocator's peak, on a CPU the distinct tensors kept for backward.

    **parameters**: storage addresses that belong to the model itself and are not counted on a CPU.
    """
    if torch.cuda.is_available():
        torch.cuda.reset_peak_memory_stats()
        step()
        return torch.cuda.max_memory_allocated() / 2**20
    kept: dict[int, int] = {}

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in parameters:
            kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        step()
    return sum(kept.values()) / 2**20
