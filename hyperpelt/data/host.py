"""What stays on the host: no step waits for an accelerator, so what is asked of a batch is asked before it moves."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Int
from torch import Tensor


@dataclass(frozen=True)
class OnHost:
    """A tensor of the host that travels with a batch: DDP moves every tensor it is given, and this is none."""

    values: Tensor


@dataclass(frozen=True)
class Targets:
    """Where flattened labels hold a target, found on the host. **where** is None if everywhere, or nowhere."""

    where: Int[Tensor, " n"] | None

    @classmethod
    def of(cls, labels: Int[Tensor, "B T"], device: torch.device | None = None) -> Targets:
        """Those of `labels`, to be used on `device` (default: theirs)."""
        where = (labels.flatten() != -100).nonzero().squeeze(1)
        if where.shape[0] in (0, labels.numel()):
            return cls(None)
        return cls(where if device is None else where.to(device, non_blocking=True))


def sent(values: Tensor | Sequence[int], device: torch.device) -> Tensor:
    """Values of the host on `device`: sent, and not waited for, as `torch.tensor(values, device=device)` does."""
    given = values if isinstance(values, Tensor) else torch.tensor(values, dtype=torch.long)
    return given.to(device, non_blocking=True)


def unwrapped(values: Tensor | OnHost) -> Tensor:
    """The tensor, wherever it is."""
    return values.values if isinstance(values, OnHost) else values
