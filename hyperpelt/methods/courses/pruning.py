"""How a side network starts: as the backbone's own layers, pruned to its width.

Which dimensions of the hidden states, of each attention head and of each feed-forward network stay is decided by their
importance, the sum over the weights that touch them of squared gradients on the first batches (Fisher information, as
in Sung, Cho & Bansal 2022, arXiv 2206.06522) or of absolute values (`batches: 0`). The dimensions of the hidden states
are one choice for all layers, so that residuals stay aligned. Legend: d width, s narrow, D inner width.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from jaxtyping import Int
from torch import Tensor, nn

from hyperpelt.backbones.families import Family
from hyperpelt.backbones.quantised import require_weights
from hyperpelt.config.setting_types import check_at_least
from hyperpelt.errors import UserError
from hyperpelt.methods.base import Method
from hyperpelt.methods.course import Course, Moment, course_type
from hyperpelt.operations import NORMS, PROJECTIONS, Operation, list_operations
from hyperpelt.weights import SideNetwork
from hyperpelt.weights.side import SIDE, STACKS

WRITES = ("o", "wo")  # projections whose output is a hidden state; the others read one


@course_type
@dataclass(frozen=True, kw_only=True)
class PrunedStart(Course):
    """The side network starts as the layers beside which it runs. **batches**: to measure on; 0: by absolute values."""

    type_name: ClassVar[str] = "pruned_start"
    part: str = SIDE
    batches: int = 8

    def check(self, method: Method) -> None:
        check_at_least(0, f"course {self.type_name!r}", batches=self.batches)
        if method.side is None:
            raise UserError(
                f"The course {self.type_name!r} is for a side network, which {method.name!r} does not have."
            )

    def begin(self, now: Moment) -> None:
        require_weights(now.backbone, "A side network that starts as the pruned backbone (set pruned=false)")
        network = now.sources[SIDE]
        assert isinstance(network, SideNetwork)
        there = [
            op for op in list_operations(now.backbone) if op.kind in (*PROJECTIONS, *NORMS) and _beside(network, op)
        ]
        importance = self._importance(now, [op for op in there if op.kind in PROJECTIONS])
        with torch.no_grad():
            _fill(network, now.backbone, there, importance)

    def _importance(self, now: Moment, there: Sequence[Operation]) -> dict[str, Tensor]:
        """Of every weight [out in] of the projections, by operation."""
        weights = {op.name: _module(now.backbone, op).weight for op in there}
        if not self.batches:
            return {name: weight.detach().float().abs() for name, weight in weights.items()}
        assert now.gradients is not None, "before the first step there are gradients"
        sums = {name: torch.zeros_like(weight, dtype=torch.float32) for name, weight in weights.items()}
        for gradients in now.gradients(weights, self.batches, alone=True):
            for name, gradient in gradients.items():
                sums[name] += gradient.float() ** 2
        return sums


def _module(backbone: nn.Module, operation: Operation) -> nn.Linear:
    module = backbone.get_submodule(operation.path)
    assert isinstance(module, nn.Linear)
    return module


def _beside(network: SideNetwork, operation: Operation) -> bool:
    """Whether the side network has a counterpart of it."""
    return operation.kind == "final_norm" or operation.layer in network.ladder(operation.stack).rungs


def _fill(
    network: SideNetwork, backbone: nn.Module, there: Sequence[Operation], importance: Mapping[str, Tensor]
) -> None:
    narrow = network.ladder("encoder").first.out_features
    of_states = torch.stack([_of_states(op, importance[op.name]) for op in there if op.kind in PROJECTIONS])
    states, family = _kept(of_states.sum(0), narrow), network.family
    inner = _inner(network, family, there, importance)
    for op in there:
        own, theirs = backbone.get_submodule(op.path), _counterpart(network, family, op)
        if op.kind in NORMS:
            for name, values in own.named_parameters(recurse=False):
                theirs.get_parameter(name).copy_(values[states])
            continue
        within = inner[_network_of(op)]
        rows, columns = (states, within) if op.kind in WRITES else (within, states)
        weight = own.get_parameter("weight")
        theirs.get_parameter("weight").copy_(weight[rows][:, columns])
        if op.has_bias:
            theirs.get_parameter("bias").copy_(own.get_parameter("bias")[rows])
    _take_tables(network, backbone, family)


def _of_states(operation: Operation, importance: Tensor) -> Tensor:
    """Importance [d] of the dimensions of hidden states, of one projection."""
    return importance.sum(dim=1 if operation.kind in WRITES else 0)


def _network_of(operation: Operation) -> str:
    """The attention or feed-forward network that a projection belongs to."""
    return operation.name.rsplit(".", 1)[0]


def _inner(
    network: SideNetwork, family: Family, there: Sequence[Operation], importance: Mapping[str, Tensor]
) -> dict[str, Int[Tensor, " kept"]]:
    """The inner dimensions that stay in each attention and feed-forward network; of an attention, in each head."""
    sums: dict[str, Tensor] = {}
    narrow: dict[str, int] = {}
    sites: dict[str, str] = {}
    for op in there:
        if op.kind in PROJECTIONS:
            name, writes = _network_of(op), op.kind in WRITES
            sums[name] = sums.get(name, torch.zeros(())) + importance[op.name].sum(dim=0 if writes else 1).cpu()
            small = _counterpart(network, family, op).get_parameter("weight")
            narrow[name], sites[name] = small.shape[1 if writes else 0], op.site
    found = {}
    for name, total in sums.items():
        if sites[name] == "feed_forward":
            found[name] = _kept(total, narrow[name])
            continue
        heads = _heads(network, name)
        width, small = len(total) // heads, narrow[name] // heads
        each = total.view(heads, width).topk(small, dim=1).indices.sort(dim=1).values
        found[name] = (each + torch.arange(heads)[:, None] * width).flatten()
    return found


def _heads(network: SideNetwork, name: str) -> int:
    config = network.ladder(name.split(".")[0]).stack.config
    return getattr(config, f"{name.split('.')[0]}_attention_heads", None) or config.num_heads


def _kept(importance: Tensor, count: int) -> Int[Tensor, " kept"]:
    return importance.cpu().topk(count).indices.sort().values


def _counterpart(network: SideNetwork, family: Family, operation: Operation) -> nn.Module:
    """The module of the side network that stands where `operation` stands in the backbone."""
    ladder = network.ladder(operation.stack)
    path = operation.path.removeprefix(f"{family.stacks[operation.stack]}.")
    if operation.layer >= 0:
        inside = path.removeprefix(f"{family.layers}.{operation.layer}.")
        path = f"{family.layers}.{ladder.rungs.index(operation.layer)}.layer.{inside}"
    return ladder.stack.get_submodule(path)


def _take_tables(network: SideNetwork, backbone: nn.Module, family: Family) -> None:
    """Position biases, which have an entry a head and not one a dimension, as the backbone's first layer has them."""
    for stack in STACKS:
        own = dict(backbone.get_submodule(family.stacks[stack]).named_parameters())
        for name, parameter in network.ladder(stack).stack.named_parameters():
            plain = name.replace(f"{family.layers}.0.layer.", f"{family.layers}.0.", 1)
            if plain.endswith("relative_attention_bias.weight") and plain in own:
                parameter.copy_(own[plain])
