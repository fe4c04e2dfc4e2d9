"""The output softmax over frozen word embeddings, the dearest part of a small model."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F


class FrozenHeadLoss(torch.autograd.Function):
    """Cross-entropy of `softmax(h W' + b)` where W and b are frozen, a few rows at a time.

    As no gradient of W is wanted, the gradient of h, (p - onehot) W, is made in the forward pass while a chunk's
    logits are still in the cache; the [N, V] logits never exist as a whole.
    """

    CHUNK = 128

    @staticmethod
    # pyrefly: ignore[bad-override]  (PyTorch's base takes anything)
    def forward(ctx: Any, hidden: Tensor, weight: Tensor, bias: Tensor, labels: Tensor) -> Tensor:
        """hidden [N, D], weight [V, D], bias [V], labels [N] -> losses [N] in float32."""
        losses: list[Tensor] = []
        gradients: list[Tensor] = []
        for rows, targets in zip(hidden.split(FrozenHeadLoss.CHUNK), labels.split(FrozenHeadLoss.CHUNK), strict=True):
            logits = F.linear(rows, weight, bias).float()
            gold = logits.gather(1, targets[:, None])
            total = logits.logsumexp(1, keepdim=True)
            losses.append((total - gold)[:, 0])
            if ctx.needs_input_grad[0]:
                logits.sub_(total).exp_()
                logits[torch.arange(len(targets), device=logits.device), targets] -= 1.0
                gradients.append(logits.to(weight.dtype) @ weight)
        ctx.gradient = torch.cat(gradients) if gradients else None
        return torch.cat(losses)

    @staticmethod
    def backward(ctx: Any, *outputs: Tensor) -> tuple[Tensor | None, ...]:
        return ctx.gradient * outputs[0][:, None].to(ctx.gradient.dtype), None, None, None
