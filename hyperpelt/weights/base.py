"""Where the tensors of a method come from: the interface of weight sources, and drawing initial values.

A weight source is told which tensors are needed, in groups: one `Group` holds one tensor (same name, same shape) of
one part of the method for all the operations the part touches. For the U distinct tasks of a batch it returns, for
each group, one tensor [U, n, *shape] with n operations (or [1, n, *shape] if all tasks share it); n is 1 where the part
owns the tensor. A source never knows what a tuner does with its tensors.

Legend: T tasks known, U tasks asked for, n places (operations) of a group, N equal rows of a row-wise tensor.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int, Num
from torch import Tensor, nn

from hyperpelt.operations import Operation
from hyperpelt.tuners.base import Init, TensorSpec


@dataclass(frozen=True)
class Group:
    """One tensor of one part, for all operations that need it. **key** is `part.tensor`, unique in a method."""

    key: str
    part: str
    tensor: str
    operations: tuple[Operation, ...]
    spec: TensorSpec

    @property
    def places(self) -> tuple[tuple[Operation, ...], ...]:
        """The operations that use each of the group's n tensors: one each, or all the only one that the part owns."""
        return (self.operations,) if self.spec.owner == "part" else tuple((op,) for op in self.operations)


# Real key, value and embedding rows by operation name and init kind: [M, width] sampled rows of the backbone.
Samples = Mapping[tuple[str, str], Tensor]


class TensorSource(nn.Module):
    """What sources of tensors have in common, whether these are made of tasks or of images.

    Subclasses are built from the groups they serve and draw every initial value from `generator`. Samples of the
    backbone's activations are there when a real backbone is (not on the meta device).
    """

    type_name: str

    def __init__(self, groups: Sequence[Group]) -> None:
        super().__init__()
        self.groups = {group.key: group for group in groups}

    def learning_rate_scales(self) -> dict[str, float]:
        """Factors of the learning rate, by parameter name; parameters not named take the rate as it is.

        Adam moves every entry by about the rate. What a matrix makes from a vector of width n moves by up to n times
        that, so matrices inside a network take 1 / n (muP, Yang et al. 2022, arXiv 2203.03466, table 3): the tensors
        that a hypernetwork makes then move as fast as tensors of their own, and one rate suits every source.
        """
        scales: dict[str, float] = {}
        for path, module in self.named_modules():
            for name, width in getattr(module, "matrices", dict)().items():
                scales[f"{path}.{name}" if path else name] = 1.0 / width
        return scales


class WeightSource(TensorSource):
    """Base of the sources that make tensors of tasks."""

    def __init__(self, groups: Sequence[Group], num_tasks: int) -> None:
        super().__init__(groups)
        self.num_tasks = num_tasks

    @abstractmethod
    def forward(self, tasks: Int[Tensor, " U"]) -> dict[str, Num[Tensor, "u n *shape"]]:
        """For each group key the tensors of the given distinct tasks, [U, n, *shape] (or [1, n, *shape])."""

    def task_parameters(self) -> Iterator[tuple[nn.Module, str]]:
        """(owner, attribute) of every parameter that holds one entry a task along its first dimension."""
        return iter(())

    @torch.no_grad()
    def keep(self, values: Mapping[str, Num[Tensor, "u n *shape"]]) -> None:
        """Take these tensors, by group key, as they are, where the source stores tensors; others do nothing."""

    @torch.no_grad()
    def add_task(self, mix: Float[Tensor, " T"]) -> None:
        """Room for one more task, which starts as this mixture of the known ones; those do not change by a bit."""
        for owner, name in list(self.task_parameters()):
            old = getattr(owner, name)
            entry = torch.tensordot(mix.to(old), old, dims=1)
            grown = nn.Parameter(torch.cat([old.detach(), entry[None]]), requires_grad=old.requires_grad)
            setattr(owner, name, grown)
        self.num_tasks += 1


def safe(key: str) -> str:
    """A group key as a parameter name (PyTorch forbids dots)."""
    return key.replace(".", "__")


def standardise(
    group: Group, samples: Samples | None
) -> tuple[Float[Tensor, "n 1 width"], Float[Tensor, "n 1 width"]] | None:
    """Mean and standard deviation of the real rows that a group's tensors shall look like, per operation and feature.

    None if the group does not start from activations or no sample was taken.
    """
    if samples is None or group.spec.init.kind not in ("keys", "values", "embeddings"):
        return None
    rows = [torch.cat([samples[op.name, group.spec.init.kind].float() for op in place]) for place in group.places]
    means = torch.stack([r.mean(0, keepdim=True) for r in rows])
    if group.spec.init.kind == "keys" and group.spec.init.value:
        loud = [torch.stack([samples[op.name, "loudness"] for op in place]).mean(0) for place in group.places]
        means = means - group.spec.init.value * torch.stack(loud)
    stds = torch.stack([r.std(0, keepdim=True) for r in rows])
    return means, stds


def draw(shape: Sequence[int], init: Init, generator: torch.Generator | None) -> Tensor:
    """A tensor of the given shape from `init`, float32 (`spaced`: int64).

    Kinds taken from activations give standard normal entries; on the meta device (under `torch.device("meta")`) nothing
    is drawn.
    """
    if init.kind == "spaced":
        return (torch.arange(shape[-1]) * int(init.value) // max(shape[-1], 1)).expand(*shape).clone()
    tensor = torch.empty(tuple(shape))
    if tensor.is_meta:
        return tensor
    if init.constant is not None:
        return tensor.fill_(init.constant)
    if init.kind == "uniform":
        return tensor.uniform_(-init.value, init.value, generator=generator)
    return tensor.normal_(0.0, init.std, generator=generator)


def draw_group(group: Group, copies: int, samples: Samples | None, generator: torch.Generator | None) -> Tensor:
    """Initial values [copies, n, *shape] of a group: rows drawn from real activations where the spec asks for them."""
    values = draw((copies, len(group.places), *group.spec.shape), group.spec.init, generator)
    real = standardise(group, samples)
    if real is None:
        return values
    means, stds = real
    return means + stds * values
