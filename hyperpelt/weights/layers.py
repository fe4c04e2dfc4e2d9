"""The products of a hypernetwork, whose hidden layers are wide and cheap: backward makes them again.

Legend: U tasks asked for, n operations, N rows, h hidden width, e hyper-embedding width, g heads.
"""

from __future__ import annotations

from functools import reduce
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor


def mixed(outer: Float[Tensor, "h e"], bias: Float[Tensor, " e"], *parts: Tensor) -> Float[Tensor, "*shape e"]:
    """relu(the sum of all parts) W + c."""
    return torch.relu(reduce(torch.add, parts)) @ outer + bias


class Mixed(torch.autograd.Function):
    """`mixed`, whose sum is as large as all parts are small, and is not kept."""

    @staticmethod
    # pyrefly: ignore[bad-override]  (PyTorch's base takes anything)
    def forward(ctx: Any, *tensors: Tensor) -> Float[Tensor, "*shape e"]:
        """`mixed(outer, bias, *parts)`."""
        ctx.save_for_backward(*tensors)
        return mixed(*tensors)

    @staticmethod
    # pyrefly: ignore[bad-override]  (PyTorch's base takes anything)
    def backward(ctx: Any, grad: Float[Tensor, "*shape e"]) -> tuple[Tensor | None, ...]:
        """Gradients of outer [h e], bias [e] and each part, summed to its own shape."""
        outer, _, *parts = ctx.saved_tensors
        hidden = torch.relu(reduce(torch.add, parts))
        written = grad.flatten(0, -2)
        of_outer, of_bias = hidden.flatten(0, -2).T @ written, written.sum(0)
        of_parts = torch.ops.aten.threshold_backward(grad @ outer.T, hidden, 0)
        return of_outer, of_bias, *[of_parts.sum_to_size(part.shape) for part in parts]


def two_layers(
    x: Float[Tensor, "U n N e"],
    hidden: Float[Tensor, "g e h"],
    hidden_bias: Float[Tensor, "g 1 h"],
    weight: Float[Tensor, "g h out"],
    bias: Float[Tensor, "g 1 out"],
) -> Float[Tensor, "U n N out"]:
    """tanh(x H + c) W + b, each product as `product` has it."""
    return product(torch.tanh(product(x, hidden, hidden_bias)), weight, bias)


class TwoLayers(torch.autograd.Function):
    """`two_layers`, whose hidden layer, eight times as wide as what it is made of, is not kept but made again."""

    @staticmethod
    # pyrefly: ignore[bad-override]  (PyTorch's base takes anything)
    def forward(ctx: Any, *tensors: Tensor) -> Float[Tensor, "U n N out"]:
        """`two_layers(x, hidden, hidden_bias, weight, bias)`."""
        ctx.save_for_backward(*tensors)
        return two_layers(*tensors)

    @staticmethod
    # pyrefly: ignore[bad-override]  (PyTorch's base takes anything)
    def backward(ctx: Any, grad: Float[Tensor, "U n N out"]) -> tuple[Tensor | None, ...]:
        """Gradients of the five, each of its own shape."""
        x, weight, bias, outer, _ = ctx.saved_tensors
        hidden = torch.tanh(product(x, weight, bias))
        of_hidden, of_outer, of_outer_bias = _backward(hidden, outer, grad)
        of_inner = torch.ops.aten.tanh_backward(of_hidden, hidden)
        return *_backward(x, weight, of_inner), of_outer, of_outer_bias


def _backward(
    x: Float[Tensor, "U n N e"], weight: Float[Tensor, "g e out"], grad: Float[Tensor, "U n N out"]
) -> tuple[Float[Tensor, "U n N e"], Float[Tensor, "g e out"], Float[Tensor, "g 1 out"]]:
    heads = weight.shape[0]
    read, written = _by_head(x, heads), _by_head(grad, heads)
    of_x = _by_head_back(written @ weight.transpose(1, 2), x.shape)
    return of_x, read.transpose(1, 2) @ written, written.sum(1, keepdim=True)


def _by_head(x: Float[Tensor, "U n N e"], heads: int) -> Float[Tensor, "g M e"]:
    return x.flatten(0, 2)[None] if heads == 1 else x.transpose(0, 1).flatten(1, 2)


def _by_head_back(x: Float[Tensor, "g M e"], shape: torch.Size) -> Float[Tensor, "U n N e"]:
    return x.view(shape) if x.shape[0] == 1 else x.unflatten(1, (shape[0], shape[2])).transpose(0, 1)


def product(
    x: Float[Tensor, "U n N e"], weight: Float[Tensor, "g e out"], bias: Float[Tensor, "g 1 out"]
) -> Float[Tensor, "U n N out"]:
    """x W + b, one matrix for all n operations (g = 1) or one an operation (g = n).

    Broadcasting would do, but its backward makes a gradient of W for each (task, operation) before it sums them:
    gigabytes for the widest heads.
    """
    if weight.shape[0] == 1:
        return torch.addmm(bias.squeeze(0), x.flatten(0, 2), weight.squeeze(0)).unflatten(0, x.shape[:3])
    return _by_head_back(torch.baddbmm(bias, _by_head(x, weight.shape[0]), weight), x.shape)
