"""What a tuner is: a pure function of (what it reads, what OP wrote, tensors), and a declaration of those tensors.

A tuner never owns parameters. `tensors(operation)` says what it needs there (names, shapes, initial distribution);
a weight source provides them; calling the tuner computes its contribution.

Legend: B batch rows, S positions, d width read, e width written, N prefix rows, H heads, k width of a head.
Every tensor that a tuner receives has a leading dimension of B (its row's own) or 1 (the same for all rows).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from typing import Any, ClassVar, Literal, TypeVar

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from hyperpelt.config.setting_types import check_settings
from hyperpelt.errors import UserError, unknown
from hyperpelt.operations import Operation
from hyperpelt.tuners.remade import keep, kept, recipe


@dataclass(frozen=True)
class Init:
    """Initial distribution of a declared tensor.

    - `zeros`, `ones`, `constant` (value)
    - `normal` (value = standard deviation), `uniform` (value = bound)
    - `keys`, `values`: rows like the real keys / values of that attention, from one forward pass of the backbone
      (`normal` with the same standard deviation where no pass was made); `embeddings`: rows of the embedding table.
      For `keys`, value > 0 makes them quieter: real queries' logits are about so much lower than with real keys
    - `spaced`: different whole numbers, evenly spaced below value; they are int64 whatever the model's dtype
    """

    kind: str
    value: float = 0.0

    @property
    def constant(self) -> float | None:
        """The value that every entry starts with, or None if entries are drawn."""
        return {"zeros": 0.0, "ones": 1.0, "constant": self.value}.get(self.kind)

    @property
    def std(self) -> float:
        """Standard deviation of one entry (of the standardised entry for kinds taken from activations)."""
        return {"normal": self.value, "uniform": self.value / 3**0.5}.get(
            self.kind, 0.0 if self.constant is not None else 1.0
        )


ZEROS, ONES = Init("zeros"), Init("ones")


@dataclass(frozen=True)
class TensorSpec:
    """A tensor that a tuner needs: its shape, how it starts, and whose it is.

    - **row_wise**: its first dimension counts equal rows (prefixes, prompts), which a hypernetwork may make row by row,
      from one embedding a row
    - **owner**: each `operation` has one of its own, or the `part` has one for all its operations
    - **role**: `trained`: a weight source provides it; `frozen`: drawn once from the model's seed, the same for all
      tasks, and saved as that seed; `state`: not trained either, but set by a course and saved with the model
    """

    shape: tuple[int, ...]
    init: Init = ZEROS
    row_wise: bool = False
    owner: Literal["operation", "part"] = "operation"
    role: Literal["trained", "frozen", "state"] = "trained"


@dataclass
class Site:
    """What a tuner sees of one call of its operation.

    - **input** [B S d]: what OP read; **output** [B S e]: what OP wrote (None for tuners that act before it)
    - **residual** [B S e]: the hidden state h that OP's output is about to join (only if the tuner reads it)
    - **mask** [B S]: True where a position is no padding (encoder only; None = all are real)
    - **special** [B S]: for each position the 1-based ordinal of its special token in the row, 0 for ordinary tokens
    - **frozen**: OP's own weight and bias where OP is a norm that no tuner has touched before this one; the buffers of
      what stands in OP's place (see `Tuner.replacement`); `ids` [B S], what an embedding reads; else empty
    - **training**: whether dropout and other draws are wanted
    - **first** [B 1 d]: what OP read at each row's first position (only for tuners with `needs_first`)
    - **before**: in a decoder, (name, x [B S d], p) -> the p positions before x, zeros where there are none (only for
      tuners with `looks_back`, which must ask through it: calls may come one token at a time)
    - **project**: at an attention, (`k` or `v`, x [B N d]) -> what its own frozen projection makes of x
    - **causal**: True in a decoder, where no position may look to its right and calls may come one token at a time
    """

    operation: Operation
    input: Float[Tensor, "B S d"]
    output: Float[Tensor, "B S e"] | None = None
    residual: Float[Tensor, "B S e"] | None = None
    mask: Bool[Tensor, "B S"] | None = None
    special: Tensor | None = None
    frozen: Mapping[str, Tensor] = field(default_factory=dict)
    training: bool = False
    first: Float[Tensor, "B 1 d"] | None = None
    before: Callable[[str, Tensor, int], Tensor] | None = None
    project: Callable[[str, Tensor], Tensor] | None = None

    @property
    def causal(self) -> bool:
        """Whether no position may look to its right: those of a decoder, past its embedded input."""
        return self.operation.stack == "decoder" and self.operation.site != "embedding"


Tensors = Mapping[str, Tensor]


@dataclass(frozen=True, kw_only=True)
class Tuner:
    """Base of all tuners. A subclass is a frozen dataclass of hyper-parameters with a `type_name`.

    `point` says where its contribution goes: `output` (added to what OP writes), `input` (added to what OP reads),
    `attention` (key and value rows joined to an attention), `rows` (rows put before the embedded input).
    """

    type_name: ClassVar[str]
    point: ClassVar[str] = "output"
    replaces: ClassVar[bool] = False  # whether a module of its own stands in OP's place
    linear: ClassVar[bool] = False  # at a projection its delta is x M, M made of its tensors alone: it can be merged
    projects: ClassVar[bool] = False  # at an attention it asks for what the frozen projections make, by `Site.project`
    uncompilable: ClassVar[str] = ""  # why a step with it makes no one graph, in a sentence; empty: it does

    def tensors(self, operation: Operation) -> dict[str, TensorSpec]:
        """The tensors needed at `operation`; an empty dict means that the tuner is not attached there.

        Raises:
            UserError: the tuner makes no sense at this operation.
        """
        raise NotImplementedError

    def __call__(self, site: Site, tensors: Tensors) -> Any:
        """The contribution at `site`: a delta [B S e], or what `point` asks for."""
        raise NotImplementedError

    def whole(self, site: Site, tensors: Tensors) -> Float[Tensor, "B S e"] | None:
        """OP(x) and the delta in one formula, where that is cheaper than their sum; None: add the delta."""
        return None

    @property
    def named_tokens(self) -> tuple[str, ...]:
        """Tokens whose ids it must be told before anything else, by `with_token_ids`."""
        return ()

    def with_token_ids(self, ids: Sequence[int]) -> Tuner:
        """The same tuner that knows the ids of its `named_tokens`."""
        return self

    def replacement(self, module: nn.Module, *, fitted: bool) -> nn.Module:
        """The frozen module that stands in OP's place in the model's own copy of the backbone: OP itself, or one whose
        buffers are saved with the model.

        - **fitted**: False where those buffers are about to be loaded
        """
        return module

    @property
    def needs_residual(self) -> bool:
        """Whether `Site.residual` has to be there."""
        return False

    @property
    def needs_first(self) -> bool:
        """Whether `Site.first` has to be there."""
        return False

    @property
    def looks_back(self) -> bool:
        """Whether it asks for earlier positions, by `Site.before`."""
        return False

    @property
    def penalties(self) -> tuple[str, ...]:
        """Names of what the tuner adds to the loss in training; each is logged under its name."""
        return ()

    def penalty(self, site: Site, tensors: Tensors, made: Any) -> Mapping[str, Float[Tensor, " b"]]:
        """What it adds there, by name: a value for each row, or one for all where `tensors` alone decide it.

        - **site**: as `__call__` sees it, but **mask** is there in a decoder too: the positions that have a target
        - **made**: what `__call__` returned, None where `whole` took its place

        A batch's penalty is the mean over its rows and over the tuner's operations, weighted here. A row's value may
        depend on nothing outside of the row: else it would change with how a batch is divided.
        """
        raise NotImplementedError

    def with_rows(self, count: int) -> Tuner:
        """The same tuner whose row-wise tensors have `count` rows."""
        changes: dict[str, Any] = {"length": count} if any(f.name == "length" for f in fields(self)) else {}
        return replace(self, **changes)

    def to_dict(self) -> dict[str, Any]:
        """Plain data from which `from_dict` makes an equal tuner."""
        values = {f.name: getattr(self, f.name) for f in fields(self)}
        plain = {name: value.to_dict() if isinstance(value, Tuner) else value for name, value in values.items()}
        return {"type": self.type_name, **plain}

    def refuse(self, operation: Operation, wants: str) -> UserError:
        """The error to raise in `tensors` for an operation that it cannot sit at. wants: what it can."""
        return UserError(
            f"Tuner {self.type_name!r} works at {wants}, not at {operation.name!r} ({operation.kind}). "
            "Change the part's `at`."
        )


Made = TypeVar("Made", bound=Tuner)
_TYPES: dict[str, type[Tuner]] = {}


def tuner_type(cls: type[Made]) -> type[Made]:
    """Class decorator: makes a tuner known by its `type_name`, in YAML as in `Tuner` dicts."""
    if cls.type_name in _TYPES:
        raise UserError(f"Tuner type {cls.type_name!r} is defined twice: {_TYPES[cls.type_name]!r} and {cls!r}.")
    _TYPES[cls.type_name] = cls
    return cls


def tuner_types() -> dict[str, type[Tuner]]:
    """Every tuner's class by its `type` name."""
    return dict(_TYPES)


def tuner_from_dict(data: Any) -> Tuner:
    """A tuner from plain data, e.g. `{"type": "adapter", "bottleneck": 16}`.

    Raises:
        UserError: unknown type or unknown hyper-parameter (names the nearest), or a value of another type.
    """
    if not isinstance(data, Mapping) or "type" not in data:
        raise UserError(f"A tuner is a mapping of a `type` ({', '.join(sorted(_TYPES))}) and settings, got {data!r}.")
    values = dict(data)
    name = values.pop("type")
    if name not in _TYPES:
        raise unknown("tuner type", str(name), _TYPES)
    nested = {key: tuner_from_dict(v) if isinstance(v, Mapping) and "type" in v else v for key, v in values.items()}
    return _TYPES[name](**check_settings(f"tuner {name!r}", nested, _TYPES[name]))


def row_linear(
    x: Float[Tensor, "B S d"],
    weight: Float[Tensor, "b d e"],
    bias: Float[Tensor, "b e"] | None = None,
    *,
    onto: Float[Tensor, "B S e"] | None = None,
) -> Float[Tensor, "B S e"]:
    """onto + x W + b with a matrix for each row (b = B) or one for all rows (b = 1)."""
    if x.dim() == 3 and (recipe(x) is not None or recipe(weight) is not None):
        return _RowLinear.apply(x, weight, bias, onto)
    return _linear(x, weight, bias, onto)


def _linear(x: Tensor, weight: Tensor, bias: Tensor | None, onto: Tensor | None) -> Tensor:
    if weight.shape[0] == 1:
        return _linear_of_all(x, weight.squeeze(0), bias, onto)
    if bias is not None:
        onto = bias.unsqueeze(1) if onto is None else onto + bias.unsqueeze(1)
    return torch.bmm(x, weight) if onto is None else torch.baddbmm(onto, x, weight)


def _linear_of_all(x: Tensor, weight: Float[Tensor, "d e"], bias: Tensor | None, onto: Tensor | None) -> Tensor:
    """One matrix for all rows: their bias is added by the product, where they have one bias too."""
    if bias is not None and bias.shape[0] == 1:
        y = torch.nn.functional.linear(x, weight.T, bias.squeeze(0))
    else:
        y = x @ weight if bias is None else x @ weight + bias.unsqueeze(1)
    return y if onto is None else onto + y


class _RowLinear(torch.autograd.Function):
    """`row_linear` of what is cheap to make again, which is not kept for backward."""

    @staticmethod
    # pyrefly: ignore[bad-override]  (PyTorch's base takes anything)
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None, onto: Tensor | None) -> Tensor:
        keep(ctx, x, weight)
        ctx.shared_bias = bias is not None and bias.shape[0] == 1
        return _linear(x, weight, bias, onto)

    @staticmethod
    # pyrefly: ignore[bad-override]  (PyTorch's base takes anything)
    def backward(ctx: Any, grad: Float[Tensor, "B S e"]) -> tuple[Tensor | None, ...]:
        x, weight = kept(ctx)
        wanted, shared = ctx.needs_input_grad, weight.shape[0] == 1
        of_x = _linear(grad, weight.transpose(1, 2), None, None) if wanted[0] else None
        of_weight = of_bias = None
        if wanted[1]:
            of_weight = (x.flatten(0, 1).T @ grad.flatten(0, 1))[None] if shared else x.transpose(1, 2) @ grad
        if wanted[2]:
            of_bias = grad.sum((0, 1))[None] if ctx.shared_bias else grad.sum(1)
        return of_x, of_weight, of_bias, grad if wanted[3] else None


def masked_mean(x: Float[Tensor, "B S d"], mask: Bool[Tensor, "B S"] | None) -> Float[Tensor, "B 1 d"]:
    """Mean over the real positions, so that padding never changes a row's result."""
    if mask is None:
        return x.mean(dim=1, keepdim=True)
    weight = mask.to(x.dtype).unsqueeze(-1)
    return (x * weight).sum(dim=1, keepdim=True) / weight.sum(dim=1, keepdim=True).clamp(min=1)
