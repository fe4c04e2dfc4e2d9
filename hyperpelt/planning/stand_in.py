"""A model whose tensors are only shapes: what a step would keep is found without weights and without the device.

On `cpu` tensors are PyTorch's fakes, which take the code paths of a CPU, tensor for tensor; any accelerator is played
by the `meta` device (some five times as fast), with one attention kernel in place of PyTorch's that keeps what a fused
one keeps.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any
from unittest.mock import patch

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from transformers import masking_utils

CPU, ACCELERATOR = torch.device("cpu"), torch.device("meta")
Mode = AbstractContextManager[Any]


@dataclass
class Played:
    """FLOPs of the attention that was played: two products forward, five backward, one of them the scores anew."""

    flops: int = 0


class _Fused(torch.autograd.Function):
    """Attention that keeps q, k, v, its output and a log-sum-exp a query for backward, as a fused kernel does."""

    @staticmethod
    def forward(*args: Any, **_: Any) -> Tensor:
        ctx, query, key, value, mask, played = args
        out = query.new_empty(*query.shape[:-1], value.shape[-1])
        sums = query.new_empty(query.shape[:-1], dtype=torch.float32)
        ctx.save_for_backward(query, key, value, mask, out, sums)
        ctx.played, ctx.product = played, 2 * query.numel() * key.shape[-2]
        played.flops += 2 * ctx.product
        return out

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Any) -> tuple[Tensor | None, ...]:
        query, key, value, mask, _, _ = ctx.saved_tensors
        ctx.played.flops += 5 * ctx.product
        wanted = zip((query, key, value, mask), ctx.needs_input_grad, strict=False)
        return (*(torch.empty_like(x) if wants and x is not None else None for x, wants in wanted), None)


def stood_in(model: nn.Module, device: torch.device) -> Mode:
    """Replace every tensor of `model` by its shape on `device`; parameters that were one stay one. Returns the mode
    that shapes are made in."""
    mode: Mode = nullcontext() if device == ACCELERATOR else FakeTensorMode(allow_non_fake_inputs=True)
    known: dict[int, nn.Parameter] = {}
    for module in model.modules():
        for name, parameter in module._parameters.items():
            if parameter is None:
                continue
            if id(parameter) not in known:
                shape = empty(mode, parameter, device)
                known[id(parameter)] = nn.Parameter(shape, requires_grad=parameter.requires_grad)
            module._parameters[name] = known[id(parameter)]
        for name, buffer in module._buffers.items():
            if buffer is not None:
                module._buffers[name] = empty(mode, buffer, device)
    return mode


def empty(mode: Mode, like: Tensor, device: torch.device) -> Tensor:
    """A stand-in of the same shape, type and layout on `device`."""
    with mode:
        return torch.empty_strided(like.shape, like.stride(), dtype=like.dtype, device=device)


def _unpadded(_mask: Tensor | None, queries: int, keys: int, *_: Any, **__: Any) -> bool:
    """What transformers finds in the decoder of a CPU's batch: no padding, so that its mask is left out."""
    return queries in (1, keys)


def _fused_dropout(input: Tensor, p: float = 0.5, training: bool = True, inplace: bool = False) -> Tensor:
    """As an accelerator's kernel: a byte an element is kept, where the stand-in's own formula keeps a number."""
    return torch.native_dropout(input, p, train=True)[0] if training and p > 0 else input


@contextmanager
def attention_of(device: torch.device) -> Iterator[Played]:
    """Within, attention keeps what it keeps on that device; a fake cannot be asked whether it is padded."""
    played = Played()

    def attend(query: Tensor, key: Tensor, value: Tensor, attn_mask: Tensor | None = None, *_: Any, **__: Any) -> Any:
        return _Fused.apply(query, key, value, attn_mask, played)

    with ExitStack() as stack:
        if device == ACCELERATOR:
            stack.enter_context(patch.object(torch.nn.functional, "scaled_dot_product_attention", attend))
            stack.enter_context(patch.object(torch.nn.functional, "dropout", _fused_dropout))
        else:
            stack.enter_context(patch.object(masking_utils, "_ignore_causal_mask_sdpa", _unpadded))
        yield played
