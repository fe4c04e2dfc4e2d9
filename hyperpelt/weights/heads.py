"""The heads of a hypernetwork: from hyper-embeddings to the tensors of one group, and how they start.

See `hyperpelt.weights.hypernetwork` for the equations.

Legend: U tasks asked for, n operations, N rows, e hyper-embedding width, g heads.
"""

from __future__ import annotations

from math import prod

import torch
from jaxtyping import Float
from torch import Tensor, nn

from hyperpelt.tuners.base import Init
from hyperpelt.weights.base import Group, draw
from hyperpelt.weights.hyper_config import SHARING, Head


class HeadSet(nn.Module):
    """The heads of one group: each serves the operations that share it. Weights are kept per head [g, e, out].

    `spread` is the deviation of what the heads read at the start.
    """

    def __init__(
        self,
        group: Group,
        head: Head,
        row_wise: bool,
        e: int,
        init: str,
        generator: torch.Generator | None,
        *,
        spread: float = 1.0,
    ) -> None:
        super().__init__()
        labels = [SHARING[head.shared](op) for op, *_ in group.places]
        names = sorted(set(labels))
        self.members = [[i for i, label in enumerate(labels) if label == name] for name in names]
        order = torch.tensor([i for members in self.members for i in members])
        self.sorted = bool((order == torch.arange(len(labels))).all()) if not order.is_meta else True
        self.register_buffer("order", order, persistent=False)
        self.register_buffer("back", torch.argsort(order), persistent=False)
        self.row_wise, self.shape = row_wise, group.spec.shape
        out = prod(self.shape[1:]) if row_wise else prod(self.shape)
        count = len(names)
        self.hidden: nn.Parameter | None = None
        if head.hidden:
            # tanh of a unit normal keeps about 0.63 of the deviation.
            self.hidden = nn.Parameter(draw((count, e, head.hidden), Init("normal", e**-0.5 / spread), generator))
            self.hidden_bias = nn.Parameter(draw((count, 1, head.hidden), Init("zeros"), generator))
        width, gain = head.hidden or e, 0.63 if head.hidden else spread
        weight, bias = _start(group, row_wise, (count, width, out), init, gain, generator)
        self.weight, self.bias = nn.Parameter(weight), nn.Parameter(bias)

    def matrices(self) -> dict[str, int]:
        """The width that each matrix reads."""
        hidden = {} if self.hidden is None else {"hidden": self.hidden.shape[-2]}
        return {**hidden, "weight": self.weight.shape[-2]}

    def forward(self, made: Float[Tensor, "U n N e"]) -> Float[Tensor, "U n *shape"]:
        values = self._apply_heads(made if self.sorted else made.index_select(1, self.order))
        if not self.sorted:
            values = values.index_select(1, self.back)
        return values.unflatten(-1, self.shape[1:]) if self.row_wise else values.squeeze(2).unflatten(-1, self.shape)

    def at(self, made: Float[Tensor, "U 1 N e"], place: int) -> Float[Tensor, "U ..."]:
        """The tensors of place number `place` alone."""
        number = next(i for i, members in enumerate(self.members) if place in members)
        values = self._layers(made, slice(number, number + 1)).squeeze(1)
        return values.unflatten(-1, self.shape[1:]) if self.row_wise else values.squeeze(1).unflatten(-1, self.shape)

    def _apply_heads(self, made: Float[Tensor, "U n N e"]) -> Float[Tensor, "U n N out"]:
        if len(self.members) == made.shape[1]:
            return self._layers(made, slice(None))
        pieces = made.split([len(members) for members in self.members], dim=1)
        done = [self._layers(piece, slice(i, i + 1)) for i, piece in enumerate(pieces)]
        return done[0] if len(done) == 1 else torch.cat(done, dim=1)

    def _layers(self, x: Tensor, which: slice) -> Tensor:
        if self.hidden is not None:
            x = torch.tanh(_product(x, self.hidden[which], self.hidden_bias[which]))
        return _product(x, self.weight[which], self.bias[which])


def _product(
    x: Float[Tensor, "U n N e"], weight: Float[Tensor, "g e out"], bias: Float[Tensor, "g 1 out"]
) -> Float[Tensor, "U n N out"]:
    """x W + b, one matrix for all n operations (g = 1) or one an operation (g = n).

    Broadcasting would do, but its backward makes a gradient of W for each (task, operation) before it sums them:
    gigabytes for the widest heads.
    """
    if weight.shape[0] == 1:
        return torch.addmm(bias[0], x.flatten(0, 2), weight[0]).unflatten(0, x.shape[:3])
    each = x.transpose(0, 1).flatten(1, 2)
    return torch.baddbmm(bias, each, weight).unflatten(1, (x.shape[0], x.shape[2])).transpose(0, 1)


def _start(
    group: Group,
    row_wise: bool,
    shape: tuple[int, int, int],
    init: str,
    gain: float,
    generator: torch.Generator | None,
) -> tuple[Tensor, Tensor]:
    """Initial weight [count, width, out] and bias [count, 1, out] of the heads; see the module's text."""
    own, (count, width, out) = group.spec.init, shape
    zero = draw((count, 1, out), Init("zeros"), generator)
    if init == "normal":
        return draw((count, width, out), Init("normal", 0.01), generator), zero
    constant = own.constant
    if constant is not None:
        return draw((count, width, out), Init("zeros"), generator), zero + constant
    if init == "plain" and not row_wise:
        # The same draw for every head: all operations start from it, as all tasks do in `PerTask`.
        bias = draw((1, 1, out), own, generator).repeat_interleave(count, dim=0)
        return draw((count, width, out), Init("zeros"), generator), bias
    return draw((count, width, out), Init("uniform", own.std / gain * (3 / width) ** 0.5), generator), zero
