"""Changes of an operation's own weights, entry by entry: all of them, or those at chosen positions.

With the weights as one vector w (a projection's matrix [d e] row by row, or a norm's scale; then the bias, where there
is one), w' = w + D:

- **delta**: D is trained whole. A course may hold most of it at zero (Dynamic Subset Tuning, arXiv 2411.08610). With a
  threshold, D counts only where the operation's score is high enough, w' = w + 1[s >= threshold] D, and s gets its
  gradient straight through the step (TAPS, 2203.16708); its penalty is sparsity * |s|.
- **entries**: D is zero but at k positions, and only the k values there are trained; a course says which positions
  (SPT, 2303.08566). In a batch that mixes tasks, a row's changes are products of single columns of what is read, where
  its matrix, nearly all zeros, would cost more than the backbone's own product; none is ever put together or kept.

Both start at nothing and can be merged into the weights. References: float64 transcriptions.

Legend: B rows, b rows of tensors (B or 1), S positions, d width read, e width written, k entries.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from math import prod
from typing import Any, ClassVar

import torch
from jaxtyping import Float, Int
from torch import Tensor

from hyperpelt.config.setting_types import check_at_least
from hyperpelt.errors import UserError
from hyperpelt.operations import NORMS, PROJECTIONS, Operation
from hyperpelt.tuners.base import Init, Site, Tensors, TensorSpec, Tuner, row_linear, tuner_type
from hyperpelt.tuners.projection import normed

# Entries are products of columns where there are at most one in so many weights; a matrix of more is put together.
DEAREST = 16


def weight_shape(operation: Operation) -> tuple[int, ...]:
    """Of an operation's own weight: [d e] of a projection, [e] of a norm."""
    return (operation.d_out,) if operation.kind in NORMS else (operation.d_in, operation.d_out)


def num_weights(operation: Operation) -> int:
    """How many values an operation has of its own."""
    return prod(weight_shape(operation)) + (operation.d_out if operation.has_bias else 0)


@tuner_type
@dataclass(frozen=True, kw_only=True)
class Delta(Tuner):
    """A trained change of all weights of a projection.

    - **threshold**: the change counts where its trained score is at least this; None: no score, it always counts
    - **start**: initial score; **sparsity**: weight of the penalty on the score
    """

    type_name: ClassVar[str] = "delta"
    threshold: float | None = None
    start: float = 0.15
    sparsity: float = 0.0

    def __post_init__(self) -> None:
        if self.threshold is None and self.sparsity:
            raise UserError("A delta's sparsity is a penalty on its score: give it a threshold, too.")

    @property
    def penalties(self) -> tuple[str, ...]:
        return ("sparsity",) if self.sparsity else ()

    def tensors(self, operation: Operation) -> dict[str, TensorSpec]:
        if operation.kind not in PROJECTIONS:
            raise self.refuse(operation, f"a projection ({', '.join(PROJECTIONS)})")
        specs = {"weight": TensorSpec(weight_shape(operation))}
        if operation.has_bias:
            specs["bias"] = TensorSpec((operation.d_out,))
        if self.threshold is not None:
            specs["score"] = TensorSpec((1,), Init("constant", self.start))
        return specs

    def opened(self, tensors: Tensors) -> Float[Tensor, "b 1"]:
        """1 where the change counts, else 0; its gradient is that of the score itself."""
        assert self.threshold is not None
        score = tensors["score"]
        step = (score >= self.threshold).to(score.dtype)
        return step + (score - score.detach())

    def __call__(self, site: Site, tensors: Tensors) -> Float[Tensor, "B S e"]:
        made = row_linear(site.input, tensors["weight"], tensors.get("bias"))
        return made if self.threshold is None else made * self.opened(tensors).unsqueeze(-1)

    def penalty(self, site: Site, tensors: Tensors, made: Any) -> Mapping[str, Float[Tensor, " b"]]:
        return {"sparsity": self.sparsity * tensors["score"].abs().sum(dim=1)}


@tuner_type
@dataclass(frozen=True, kw_only=True)
class Entries(Tuner):
    """Trained changes of some weights of a projection or norm.

    - **share**: of an operation's weights that are trained, rounded down; evenly spaced until a course chooses them
    - **counts**: how many instead, by the operation's name
    """

    type_name: ClassVar[str] = "entries"
    share: float = 0.002
    counts: Mapping[str, int] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not 0 <= self.share <= 1:
            raise UserError(f"The share of the entries that are trained lies between 0 and 1, got {self.share}.")
        check_at_least(0, "tuner 'entries' (counts)", **self.counts)

    def __hash__(self) -> int:
        return hash((self.share, tuple(self.counts.items())))

    def count(self, operation: Operation) -> int:
        """How many entries are trained at an operation."""
        return self.counts.get(operation.name, int(self.share * num_weights(operation)))

    def tensors(self, operation: Operation) -> dict[str, TensorSpec]:
        if operation.kind not in (*PROJECTIONS, *NORMS):
            raise self.refuse(operation, "a projection or a norm")
        size, count = num_weights(operation), self.count(operation)
        if count > size:
            raise UserError(f"Operation {operation.name!r} has {size} weights of its own, {count} cannot be trained.")
        if count == 0:
            return {}
        positions = TensorSpec((count,), Init("spaced", float(size)), role="state")
        return {"values": TensorSpec((count,)), "positions": positions}

    def __call__(self, site: Site, tensors: Tensors) -> Float[Tensor, "B S e"]:
        operation, values, positions = site.operation, tensors["values"], tensors["positions"]
        if operation.kind in NORMS:
            weight, bias = _parted(_dense(values, positions, num_weights(operation)), operation)
            made = normed(site.input, operation) * weight.unsqueeze(1)
            return made if bias is None else made + bias.unsqueeze(1)
        size = num_weights(operation)
        if torch.compiler.is_compiling():
            return row_linear(site.input, *_parted(_dense(values, positions, size), operation))
        alone = values.shape[0] == positions.shape[0] == 1
        sparse = not alone and DEAREST * values.shape[1] <= size
        return (_SparseLinear if sparse else _DenseLinear).apply(site.input, values, positions, operation)


def dense(tensors: Tensors, operation: Operation) -> dict[str, Tensor]:
    """The change of an operation's weights that a tuner of this family makes: `weight` [b d e] or [b e], `bias` [b e].

    Tensors as the tuner gets them, or without their first dimension; what is returned has it.
    """
    values, positions = tensors["values"], tensors["positions"]
    values, positions = (t.unsqueeze(0) if t.ndim == 1 else t for t in (values, positions))
    weight, bias = _parted(_dense(values, positions, num_weights(operation)), operation)
    return {"weight": weight} if bias is None else {"weight": weight, "bias": bias}


def _dense(values: Float[Tensor, "b k"], positions: Int[Tensor, "c k"], size: int) -> Float[Tensor, "b size"]:
    rows = max(values.shape[0], positions.shape[0])
    values, positions = values.expand(rows, -1), positions.expand(rows, -1)
    return values.new_zeros(rows, size).scatter(1, positions, values)


def _parted(whole: Float[Tensor, "b size"], operation: Operation) -> tuple[Tensor, Tensor | None]:
    shape = weight_shape(operation)
    weight = whole[:, : prod(shape)].unflatten(1, shape)
    return weight, whole[:, prod(shape) :] if operation.has_bias else None


def _places(which: Int[Tensor, "c k"], num_rows: int) -> Int[Tensor, " n"]:
    """Where the columns `which` lie among columns of all rows together (c = 1), or of each row (c = B)."""
    if len(which) == 1:
        return which[0]
    return (which.T * num_rows + torch.arange(num_rows, device=which.device)).flatten()


def _columns(x: Float[Tensor, "B S d"], which: Int[Tensor, "c k"], *, ones: bool = False) -> Float[Tensor, "k B S"]:
    """Of each row its columns `which`; **ones**: there is a column d, of ones."""
    flat = x.permute(2, 0, 1)
    flat = torch.cat([flat, flat.new_ones(1, *flat.shape[1:])]) if ones else flat
    flat = flat.flatten(1) if len(which) == 1 else flat.flatten(0, 1)
    return flat.index_select(0, _places(which, len(x))).view(which.shape[1], *x.shape[:2])


def _summed(columns: Float[Tensor, "k B S"], which: Int[Tensor, "c k"], width: int) -> Float[Tensor, "B S width"]:
    """`width` columns, to which these are added where `_columns` would take them from."""
    _, rows, length = columns.shape
    flat = columns.flatten(1) if len(which) == 1 else columns.flatten(0, 1)
    made = flat.new_zeros(width * rows * length // flat.shape[1], flat.shape[1])
    return made.index_add_(0, _places(which, rows), flat).view(width, rows, length).permute(1, 2, 0)


class _SparseLinear(torch.autograd.Function):
    """x D + D_b, column by column of the entries: y_j = the sum of v x_i over the entries (i, j); row d is the bias."""

    @staticmethod
    # pyrefly: ignore[bad-override]  (PyTorch's base takes anything)
    def forward(
        ctx: Any,
        x: Float[Tensor, "B S d"],
        values: Float[Tensor, "b k"],
        positions: Int[Tensor, "c k"],
        operation: Operation,
    ) -> Float[Tensor, "B S e"]:
        """[B S e]; c is 1 where positions are one set for all tasks."""
        ctx.save_for_backward(x, values, positions)
        ctx.operation, width = operation, operation.d_out
        read = _columns(x.to(values.dtype), positions // width, ones=operation.has_bias)
        return _summed(read * values.T.unsqueeze(-1), positions % width, width)

    @staticmethod
    # pyrefly: ignore[bad-override]  (PyTorch's base takes anything)
    def backward(ctx: Any, grad: Float[Tensor, "B S e"]) -> tuple[Tensor | None, Tensor | None, None, None]:
        """Gradients of x [B S d] and values [b k], where they are wanted; values share the rows of one task."""
        x, values, positions = ctx.saved_tensors
        bias, width = ctx.operation.has_bias, ctx.operation.d_out
        written = _columns(grad.to(values.dtype), positions % width)
        of_x = of_values = None
        if ctx.needs_input_grad[0]:
            of_read = _summed(written * values.T.unsqueeze(-1), positions // width, x.shape[-1] + bias)
            of_x = of_read[..., : x.shape[-1]].to(x.dtype)
        if ctx.needs_input_grad[1]:
            read = _columns(x.to(values.dtype), positions // width, ones=bias)
            of_values = (read * written).sum(-1).T.sum_to_size(values.shape)
        return of_x, of_values, None, None


class _DenseLinear(torch.autograd.Function):
    """x D + D_b, where D holds `values` at `positions`; kept for backward are these and x, not D."""

    @staticmethod
    # pyrefly: ignore[bad-override]  (PyTorch's base takes anything)
    def forward(
        ctx: Any,
        x: Float[Tensor, "B S d"],
        values: Float[Tensor, "b k"],
        positions: Int[Tensor, "c k"],
        operation: Operation,
    ) -> Float[Tensor, "B S e"]:
        """[B S e]; c is 1 where positions are one set for all tasks."""
        ctx.save_for_backward(x, values, positions)
        ctx.operation = operation
        return row_linear(x, *_parted(_dense(values, positions, num_weights(operation)), operation))

    @staticmethod
    # pyrefly: ignore[bad-override]  (PyTorch's base takes anything)
    def backward(ctx: Any, grad: Float[Tensor, "B S e"]) -> tuple[Tensor | None, Tensor | None, None, None]:
        """Gradients of x [B S d] and values [b k], where they are wanted; values share the rows of one task."""
        read, values, positions = ctx.saved_tensors
        x, grad = read.to(values.dtype), grad.to(values.dtype)  # under autocast they are narrower than what is trained
        of_x = of_values = None
        if ctx.needs_input_grad[0]:
            weight, _ = _parted(_dense(values, positions, num_weights(ctx.operation)), ctx.operation)
            of_x = row_linear(grad, weight.transpose(1, 2)).to(read.dtype)
        if ctx.needs_input_grad[1]:
            one = values.shape[0] == positions.shape[0] == 1
            left, right = (t.flatten(0, 1).unsqueeze(0) if one else t for t in (x, grad))
            whole = torch.bmm(left.transpose(1, 2), right).flatten(1)
            whole = torch.cat([whole, right.sum(dim=1)], dim=1) if ctx.operation.has_bias else whole
            of_values = whole.gather(1, positions.expand(len(whole), -1)).sum_to_size(values.shape)
        return of_x, of_values, None, None
