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
from hyperpelt.tuners.remade import autocast
from hyperpelt.weights.base import Group, draw
from hyperpelt.weights.hyper_config import SHARING, Head
from hyperpelt.weights.layers import TwoLayers, product, two_layers


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
        self.order = [i for members in self.members for i in members]
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
        """The group's tensors in its order; what they are made of comes in the heads' `order`."""
        values = self._in_place(self._apply_heads(made))
        return values.unflatten(-1, self.shape[1:]) if self.row_wise else values.squeeze(2).unflatten(-1, self.shape)

    def at(self, made: Float[Tensor, "U 1 N e"], place: int) -> Float[Tensor, "U ..."]:
        """The tensors of place number `place` alone."""
        number = next(i for i, members in enumerate(self.members) if place in members)
        values = _layers(made, *(parameter[number : number + 1] for parameter in self._parameters_used())).squeeze(1)
        return values.unflatten(-1, self.shape[1:]) if self.row_wise else values.squeeze(1).unflatten(-1, self.shape)

    def _apply_heads(self, made: Float[Tensor, "U n N e"]) -> list[Float[Tensor, "U _ N out"]]:
        parameters = self._parameters_used()
        if len(self.members) in (1, made.shape[1]):
            return [_layers(made, *parameters)]
        pieces = made.split([len(members) for members in self.members], dim=1)
        # Split, not indexed: a gradient of each head is joined to the others', not added to zeros for all of them.
        heads = zip(*(parameter.split(1) for parameter in parameters), strict=True)
        return [_layers(piece, *own) for piece, own in zip(pieces, heads, strict=True)]

    def _parameters_used(self) -> tuple[Tensor, ...]:
        outer = self.weight, self.bias
        return outer if self.hidden is None else (self.hidden, self.hidden_bias, *outer)

    def _in_place(self, pieces: list[Float[Tensor, "U _ N out"]]) -> Float[Tensor, "U n N out"]:
        """What the heads made, each where the group has it: the widest tensors of all, so they are copied but once."""
        if self.order == sorted(self.order):
            return pieces[0] if len(pieces) == 1 else torch.cat(pieces, dim=1)
        made = dict(zip(self.order, (place for piece in pieces for place in piece.unbind(1)), strict=True))
        return torch.stack([made[i] for i in range(len(made))], dim=1)


def _layers(x: Tensor, *parameters: Tensor) -> Tensor:
    if len(parameters) == 2:
        return product(x, *parameters)
    return (two_layers if torch.compiler.is_compiling() or autocast(x) else TwoLayers.apply)(x, *parameters)


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
