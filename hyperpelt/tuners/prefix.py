"""Prefixes: key and value rows joined to an attention, and their gated form.

Prefix-tuning (Li & Liang 2021, arXiv 2101.00190): K' = [P_k; K], V' = [P_v; V], Q unchanged. Rows are always
visible and have zero position bias; they never enter the KV cache. In the view of He et al. (2110.04366, eqs. 7, 8),
and of U-Tuning (2303.00690), this is

    Attn(Q, K', V') = (1 - w) Attn(Q, K, V) + w Attn(Q, P_k, P_v)

per row, head and query, with w the softmax mass of the prefix. A zero prefix is *not* a no-op (each row takes exp(0)
of the mass); only a prefix of length 0 is. Rows start like real keys and values of the attention they join.

Reference: float64 transcription on T5, `adapters` on BART. T5-base, N=10: 552,960 parameters.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import ClassVar

import torch
from jaxtyping import Float
from torch import Tensor

from hyperpelt.errors import UserError
from hyperpelt.operations import ATTENTIONS, Operation
from hyperpelt.tuners.base import Init, Site, Tensors, TensorSpec, Tuner, tuner_type
from hyperpelt.tuners.remade import noted

INITS = ("activations", "quiet", "normal", "zeros")


@dataclass
class PrefixRows:
    """Rows for one attention: keys and values [b H N k], and a gate for each query [B S] where there is one."""

    keys: Float[Tensor, "b H N k"]
    values: Float[Tensor, "b H N k"]
    gate: Float[Tensor, "B S"] | None = None


def together(parts: Sequence[PrefixRows]) -> PrefixRows:
    """The rows of several prefixes without gates, one after the other."""
    most = max(part.keys.shape[0] for part in parts)

    def joined(name: str) -> Tensor:
        return torch.cat([getattr(part, name).expand(most, -1, -1, -1) for part in parts], dim=2)

    return PrefixRows(keys=joined("keys"), values=joined("values"))


def split_heads(rows: Float[Tensor, "b N Hk"], operation: Operation) -> Float[Tensor, "b H N k"]:
    """Rows as the operation's H heads read them, each k = Hk / H wide; a view."""
    split = partial(_split, operation.num_heads)
    return noted(split(rows), split, rows)


def _split(num_heads: int, rows: Tensor) -> Tensor:
    return rows.unflatten(-1, (num_heads, -1)).transpose(1, 2)


@tuner_type
@dataclass(frozen=True, kw_only=True)
class Prefix(Tuner):
    """Key and value rows.

    - **length** N: rows; 0 attaches nothing. A multiple of 8 suits the attention kernels best.
    - **init**: `activations` (rows like real keys and values), `quiet` (the same with keys shifted, so that
      all rows together get about one token's attention: however long, the prefix hardly disturbs it at first),
      `normal` (standard deviation `std`) or `zeros`
    """

    type_name: ClassVar[str] = "prefix"
    point: ClassVar[str] = "attention"
    length: int = 16
    init: str = "quiet"
    std: float = 1.0

    def __post_init__(self) -> None:
        if self.length < 0:
            raise UserError(f"A prefix's length must not be negative, got {self.length}.")
        if self.init not in INITS:
            raise UserError(f"A prefix's init is one of {', '.join(map(repr, INITS))}, got {self.init!r}.")

    def tensors(self, operation: Operation) -> dict[str, TensorSpec]:
        if operation.kind not in ATTENTIONS:
            raise self.refuse(operation, "an attention")
        if self.length == 0:
            return {}
        shape = (self.length, operation.num_heads * operation.d_head)
        keys, values = {
            "activations": (Init("keys"), Init("values")),
            "quiet": (Init("keys", math.log(self.length)), Init("values")),
            "normal": (Init("normal", self.std), Init("normal", self.std)),
            "zeros": (Init("zeros"), Init("zeros")),
        }[self.init]
        return {
            "keys": TensorSpec(shape, keys, row_wise=True),
            "values": TensorSpec(shape, values, row_wise=True),
        }

    def __call__(self, site: Site, tensors: Tensors) -> PrefixRows:
        return PrefixRows(
            keys=split_heads(tensors["keys"], site.operation), values=split_heads(tensors["values"], site.operation)
        )
