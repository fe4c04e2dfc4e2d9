"""Attention on a CPU: what SDPA computes, with less kept for backward, faster in narrow types, dropout drawn cheaper.

Legend: B rows, H heads, Q queries, K keys, N prefix rows, k width of a head.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from hyperpelt.tuners.remade import keep, kept

NARROW = (torch.bfloat16, torch.float16)
LONGEST = 2**16  # queries times keys: beyond it the kernel's own backward is as fast as products
AT_ONCE = 2**18  # scores that stay in a core's cache while backward reads them


def join(rows: Float[Tensor, "B H N k"], own: Float[Tensor, "B H K k"]) -> Float[Tensor, "B H N+K k"]:
    """Prefix rows before an attention's own, side by side as projections write them: [B, N + K, H, k] in memory."""
    return torch.cat([rows.transpose(1, 2), own.transpose(1, 2)], dim=1).transpose(1, 2)


class JoinedAttention(torch.autograd.Function):
    """softmax(scaling q [P_k; k]^T + mask) [P_v; v] by SDPA's kernel for a CPU.

    Joined keys and values are not kept but joined again: k and v are short of the prefix, and a row's prefix is picked
    again from that of its task. In narrow types the kernel goes back several times as slowly as plain products do
    (`by_products`), which have the same scores from what it keeps.
    """

    @staticmethod
    # pyrefly: ignore[bad-override]  (PyTorch's base takes anything)
    def forward(
        ctx: Any,
        query: Float[Tensor, "B H Q k"],
        key: Float[Tensor, "B H K k"],
        value: Float[Tensor, "B H K k"],
        keys: Float[Tensor, "B H N k"] | None,
        values: Float[Tensor, "B H N k"] | None,
        mask: Tensor | None,
        scaling: float,
        causal: bool = False,
    ) -> Float[Tensor, "B H Q k"]:
        """What the queries get. keys, values: the prefix's rows, if there is one; mask: what is added to scores,
        broadcast to [B H Q N+K], or None; scaling: of scores; causal: a query sees no later key."""
        out, total = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu(
            query, _whole(keys, key), _whole(values, value), 0.0, causal, attn_mask=mask, scale=scaling
        )
        keep(ctx, query, key, value, keys, values, mask, out, total)
        ctx.scaling, ctx.causal = scaling, causal
        return out

    @staticmethod
    # pyrefly: ignore[bad-override]  (PyTorch's base takes anything)
    def backward(ctx: Any, grad: Float[Tensor, "B H Q k"]) -> tuple[Tensor | None, ...]:
        """Gradients [B H . k] of the five, none of the rest."""
        query, key, value, keys, values, mask, out, total = kept(ctx)
        joined = _whole(keys, key), _whole(values, value)
        narrow = query.dtype in NARROW and query.shape[2] * joined[0].shape[2] <= LONGEST
        backward = by_products if narrow else torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward
        of_query, of_keys, of_values = backward(
            grad, query, *joined, out, total, 0.0, ctx.causal, attn_mask=mask, scale=ctx.scaling
        )
        if keys is None:
            return of_query, of_keys, of_values, *[None] * 5
        sizes = [keys.shape[2], key.shape[2]]
        (of_prefix_keys, of_key), (of_prefix_values, of_value) = of_keys.split(sizes, 2), of_values.split(sizes, 2)
        return of_query, of_key, of_value, of_prefix_keys, of_prefix_values, None, None, None


def _whole(rows: Tensor | None, own: Tensor) -> Tensor:
    return own if rows is None else join(rows, own)


@torch.autocast("cpu", enabled=False)  # whoever goes back within it wants float32 where it is asked for, too
def by_products(
    grad: Float[Tensor, "B H Q k"],
    query: Float[Tensor, "B H Q k"],
    key: Float[Tensor, "B H K k"],
    value: Float[Tensor, "B H K k"],
    out: Float[Tensor, "B H Q k"],
    total: Float[Tensor, "B H Q"],
    dropout: float = 0.0,
    causal: bool = False,
    *,
    attn_mask: Tensor | None,
    scale: float,
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of query, key and value, as the kernel's backward has them: p = exp(scale q k^T + mask - total), and
    d scores = p (grad v^T - sum(grad out)).

    Scores, and what is subtracted from one another, are made in float32. Gradients of attention that looks at few keys
    are then off by 0.2 to 0.6 %, as the kernel's are; with scores rounded to bfloat16 they were off by 5 to 8 %.
    """
    assert dropout == 0.0, dropout
    (rows, heads, queries, _), keys = query.shape, key.shape[2]
    mask = None if attn_mask is None else attn_mask.expand(rows, heads, queries, keys)
    later = torch.ones(queries, keys, dtype=torch.bool).triu(1) if causal else None
    made = torch.empty_like(query), torch.empty_like(key), torch.empty_like(value)
    for part in _parts(rows, heads, queries * keys):
        g, q, k, v = grad[part], query[part], key[part], value[part]
        scores = (q.float() @ k.float().transpose(2, 3)).mul_(scale)
        if mask is not None:
            scores += mask[part]
        if later is not None:
            scores.masked_fill_(later, -torch.inf)
        p = scores.sub_(total[part][..., None]).exp_()
        mean = (g.float() * out[part].float()).sum(-1, keepdim=True)
        of_scores = (g.float() @ v.float().transpose(2, 3)).sub_(mean).mul_(p).mul_(scale).to(query.dtype)
        torch.matmul(of_scores, k, out=made[0][part])
        torch.matmul(of_scores.transpose(2, 3), q, out=made[1][part])
        torch.matmul(p.to(query.dtype).transpose(2, 3), g, out=made[2][part])
    return made


def _parts(rows: int, heads: int, scores: int) -> Iterator[tuple[slice, slice]]:
    """Slices of rows and heads with `AT_ONCE` scores or few more."""
    some_heads = min(heads, max(1, AT_ONCE // scores))
    some_rows = max(1, AT_ONCE // (some_heads * scores))
    for row in range(0, rows, some_rows):
        for head in range(0, heads, some_heads):
            yield slice(row, row + some_rows), slice(head, head + some_heads)


def drawn(like: Tensor, dropout: float) -> tuple[Tensor, float]:
    """Which entries are kept, and how many of one are in the mean: four entries a drawn number, 16 bits each.

    PyTorch draws a number an entry, which takes longer than the attention's products with a mask of it.
    """
    dropped = min(round(dropout * 2**16), 2**16 - 1)
    bits = torch.empty((like.numel() + 3) // 4, dtype=torch.int64, device=like.device).random_(-(2**63), None)
    numbers = bits.view(torch.int16)[: like.numel()].view(like.shape)
    return numbers >= dropped - 2**15, 1 - dropped / 2**16


class DroppingAttention(torch.autograd.Function):
    """dropout(softmax(scaling q k^T + mask)) v, for which SDPA has no kernel on a CPU.

    Without SDPA's passes for queries that see nothing (here every query sees the prefix). Kept for backward are the
    softmax and one byte an element, instead of three times the former.
    """

    @staticmethod
    # pyrefly: ignore[bad-override]  (PyTorch's base takes anything)
    def forward(
        ctx: Any,
        query: Float[Tensor, "B H Q k"],
        key: Float[Tensor, "B H K k"],
        value: Float[Tensor, "B H K k"],
        mask: Tensor | None,
        dropout: float,
        scaling: float,
    ) -> Float[Tensor, "B H Q k"]:
        """What the queries get, entries of the softmax dropped with probability `dropout` (in steps of 2^-16).

        - **mask**, broadcast to [B H Q K]: where a query may look (bool), or what scores get; **scaling**: of scores
        """
        scores = (query if scaling == 1.0 else query * scaling) @ key.transpose(2, 3)
        if mask is not None:
            scores = scores.masked_fill_(~mask, -torch.inf) if mask.dtype == torch.bool else scores.add_(mask)
        weights = scores.softmax(dim=-1)
        here, share = drawn(weights, dropout)
        ctx.save_for_backward(query, key, value, weights, here)
        ctx.scaling, ctx.factor = scaling, 1 / share
        return ((weights * here) @ value).mul_(ctx.factor)

    @staticmethod
    # pyrefly: ignore[bad-override]  (PyTorch's base takes anything)
    def backward(ctx: Any, grad: Float[Tensor, "B H Q k"]) -> tuple[Tensor | None, ...]:
        """Gradients of query, key and value where they are wanted, each in its own dtype; none of the rest."""
        *read, weights, here = ctx.saved_tensors
        # Under autocast products are narrower than the softmax; elsewhere all of them are of one dtype.
        query, key, value, grad, here = (t.to(weights.dtype) for t in (*read, grad, here))
        grad = grad * ctx.factor
        of_value = (here * weights).transpose(2, 3) @ grad if ctx.needs_input_grad[2] else None
        of_weights = here.mul_(grad @ value.transpose(2, 3))
        of_scores = torch.ops.aten._softmax_backward_data(of_weights, weights, -1, weights.dtype)
        of_scores = of_scores if ctx.scaling == 1.0 else of_scores * ctx.scaling
        of_query = of_scores @ key if ctx.needs_input_grad[0] else None
        of_key = of_scores.transpose(2, 3) @ query if ctx.needs_input_grad[1] else None
        made = zip((of_query, of_key, of_value), read, strict=True)
        return *(None if t is None else t.to(like.dtype) for t, like in made), None, None, None
