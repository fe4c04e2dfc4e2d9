"""The backbone's dropout in training on a CPU, and its attention with dropout, several times faster than PyTorch's.

PyTorch draws a random number for each element (about 10 ns where MKL's generators are not used), keeps a factor in
floating point for backward, and leaves its fused attention as soon as a dropout is asked for. Here one draw of 64 bits
serves four elements, one byte an element is kept, and an attention with dropout is four products and one softmax.

`CpuDropout` is a context: while it holds, PyTorch hands it every call of a torch function (no class or function is
patched). It takes over the two that it knows, and lets all others pass. Random bits come from PyTorch's own generator,
so seeds, resumed runs and activation checkpointing work as ever; the stream is another one than PyTorch's dropout has.

Legend: B rows, H heads, Q queries, K keys, k width of a head.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.nn import functional
from torch.overrides import TorchFunctionMode

LEVELS = 2**16  # a probability is rounded to one of so many levels; the factor 1 / (1 - p) is of the rounded one


def _level(p: float) -> int:
    return round(p * LEVELS)


def kept(shape: Sequence[int], p: float) -> Bool[Tensor, ...]:
    """True where an element is kept, each with probability 1 - p (p rounded to a multiple of 1 / 65536)."""
    count = torch.Size(shape).numel()
    # The lower bound makes all 64 bits random; without it the sign would never be drawn.
    bits = torch.empty((count + 3) // 4, dtype=torch.int64).random_(-(2**63), None).view(torch.int16)
    return (bits[:count] >= _level(p) - LEVELS // 2).view(shape)


def _factor(p: float) -> float:
    return 1.0 / (1.0 - _level(p) / LEVELS)


class _Dropout(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, p: float) -> Tensor:
        mask = kept(x.shape, p)
        ctx.save_for_backward(mask)
        ctx.factor = _factor(p)
        return mask.to(x.dtype).mul_(ctx.factor).mul_(x)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        (mask,) = ctx.saved_tensors
        return mask.to(grad.dtype) * ctx.factor * grad, None


class _Attention(torch.autograd.Function):
    """dropout(softmax(scale q k^T + mask)) v, all heads of all rows in each product."""

    @staticmethod
    def forward(
        ctx: Any,
        query: Float[Tensor, "B H Q k"],
        key: Float[Tensor, "B H K k"],
        value: Float[Tensor, "B H K k"],
        mask: Tensor | None,
        p: float,
        scale: float,
    ) -> Float[Tensor, "B H Q k"]:
        q, k, v = (t.contiguous().flatten(0, 1) for t in (query, key, value))
        scores = torch.bmm(q, k.transpose(1, 2)).view(*query.shape[:3], key.shape[2])
        if scale != 1.0:
            scores.mul_(scale)
        if mask is not None:
            scores = scores.masked_fill_(~mask, -torch.inf) if mask.dtype == torch.bool else scores.add_(mask)
        weights = torch.softmax(scores.flatten(0, 1), dim=-1)
        mask = kept(weights.shape, p)
        ctx.save_for_backward(q, k, v, weights, mask)
        ctx.scale, ctx.factor, ctx.shape = scale, _factor(p), query.shape[:2]
        dropped = mask.to(weights.dtype).mul_(weights)
        return torch.bmm(dropped, v).mul_(ctx.factor).unflatten(0, ctx.shape)

    @staticmethod
    def backward(ctx: Any, grad: Float[Tensor, "B H Q k"]) -> tuple[Tensor | None, ...]:
        q, k, v, weights, mask = ctx.saved_tensors
        for_query, for_key, for_value = ctx.needs_input_grad[:3]
        grad, mask = grad.contiguous().flatten(0, 1) * ctx.factor, mask.to(weights.dtype)
        grads: list[Tensor | None] = [None, None, None]
        if for_value:
            grads[2] = torch.bmm((mask * weights).transpose(1, 2), grad)
        if for_query or for_key:
            of_weights = torch.bmm(grad, v.transpose(1, 2)) * mask
            of_scores = torch.ops.aten._softmax_backward_data(of_weights, weights, -1, weights.dtype)
            of_scores = of_scores * ctx.scale if ctx.scale != 1.0 else of_scores
            grads[0] = torch.bmm(of_scores, k) if for_query else None
            grads[1] = torch.bmm(of_scores.transpose(1, 2), q) if for_key else None
        return *(g if g is None else g.unflatten(0, ctx.shape) for g in grads), None, None, None


def _dropout(input: Tensor, p: float = 0.5, training: bool = True, inplace: bool = False) -> Tensor:
    if not training or inplace or input.device.type != "cpu" or not 0 < _level(p) < LEVELS:
        return functional.dropout(input, p, training, inplace)
    return _Dropout.apply(input, p)


def _attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attn_mask: Tensor | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    scale: float | None = None,
    enable_gqa: bool = False,
) -> Tensor:
    suits = 0 < _level(dropout_p) < LEVELS and query.device.type == "cpu" and query.dtype == torch.float32
    if suits and is_causal and attn_mask is None:
        queries, keys = query.shape[-2], key.shape[-2]
        attn_mask, is_causal = torch.ones(queries, keys, dtype=torch.bool).tril(), False
    if suits and not is_causal and not enable_gqa and query.dim() == 4 and _can_add(attn_mask):
        scale = query.shape[-1] ** -0.5 if scale is None else scale
        return _Attention.apply(query, key, value, attn_mask, dropout_p, scale)
    return functional.scaled_dot_product_attention(
        query, key, value, attn_mask, dropout_p, is_causal, scale=scale, enable_gqa=enable_gqa
    )


def _can_add(mask: Tensor | None) -> bool:
    """Whether a mask asks for no gradient and leaves every query something to see (else SDPA has rules of its own)."""
    if mask is None:
        return True
    return not mask.requires_grad and (mask.dtype != torch.bool or bool(mask.any(-1).all()))


TAKEN_OVER: dict[Callable[..., Any], Callable[..., Any]] = {
    functional.dropout: _dropout,
    functional.scaled_dot_product_attention: _attention,
}


class CpuDropout(TorchFunctionMode):
    """While it holds, dropout and attention with dropout on a CPU are computed as this module says."""

    def __torch_function__(
        self, func: Any, types: Any, args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        return TAKEN_OVER.get(func, func)(*args, **(kwargs or {}))
