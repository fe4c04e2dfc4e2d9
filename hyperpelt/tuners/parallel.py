"""U-Tuning's parallel forms of prefix and prompt, for any operation, and the gate around any tuner.

U-Tuning (Jiang et al. 2023, arXiv 2303.00690) writes each method as OP(x) + s * Tuner(x), with Tuner attending from
x to trained rows:

    prefix form   Attn(x, P_k, P_v)        two tables of N rows
    prompt form   Attn(x, P, P)            one table of N rows
    adapter form  phi(x D) U               `Adapter(reads="input")`

per head, scaled by 1/sqrt(k); at attentions, feed-forward networks and blocks. P_v (or the scale s of the prompt
form, which is trained) starts at zero, so a fresh tuner adds nothing.

Gates (UniPELT, Mao et al. 2021, 2110.07577, section 3.2): g = sigma(z w + c) in (0, 1) around any tuner, z what the
tuner reads: of a prefix or LoRA the operation's input, of a sequential adapter the output. In an encoder the gate of a
row is the mean over its real positions; in a decoder each position has its own, since a mean over the sequence would
see the future and change with cached decoding. References: float64 transcriptions.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar

import torch
from jaxtyping import Float
from torch import Tensor, nn

from hyperpelt.config.setting_types import check_at_least
from hyperpelt.errors import UserError
from hyperpelt.operations import Operation
from hyperpelt.tuners.adapter import OUTPUT_KINDS, Adapter, read
from hyperpelt.tuners.base import ZEROS, Init, Site, Tensors, TensorSpec, Tuner, masked_mean, row_linear, tuner_type
from hyperpelt.tuners.prefix import PrefixRows


def _attend(
    x: Float[Tensor, "B S d"], keys: Float[Tensor, "b N d"], values: Float[Tensor, "b N d"], num_heads: int
) -> Float[Tensor, "B S d"]:
    """softmax(x_h K_h^T / sqrt(k)) V_h for each head h, heads joined again."""

    def heads(t: Tensor) -> Tensor:
        return t.expand(x.shape[0], -1, -1).unflatten(-1, (num_heads, -1)).transpose(1, 2)

    out = torch.nn.functional.scaled_dot_product_attention(heads(x), heads(keys), heads(values))
    return out.transpose(1, 2).flatten(2)


@tuner_type
@dataclass(frozen=True, kw_only=True)
class ParallelRows(Tuner):
    """U-Tuning's parallel prefix (`tied=False`) or prompt (`tied=True`).

    - **length** N rows; **num_heads** H, which must divide the width; **scale** s (the prompt form trains its own)
    """

    type_name: ClassVar[str] = "parallel_rows"
    length: int = 16
    num_heads: int = 1
    tied: bool = False
    scale: float = 1.0

    def __post_init__(self) -> None:
        if self.length < 1:
            raise UserError(f"A parallel prefix or prompt needs at least one row, got length={self.length}.")
        check_at_least(1, "tuner 'parallel_rows'", num_heads=self.num_heads)

    def tensors(self, operation: Operation) -> dict[str, TensorSpec]:
        if operation.kind not in OUTPUT_KINDS:
            raise self.refuse(operation, "an attention, a feed-forward network or a block")
        if operation.d_in % self.num_heads:
            raise UserError(
                f"num_heads={self.num_heads} does not divide the width {operation.d_in} of {operation.name!r}."
            )
        shape = (self.length, operation.d_in)
        if self.tied:
            return {"rows": TensorSpec(shape, Init("normal", 1.0), row_wise=True), "scale": TensorSpec((1,), ZEROS)}
        return {
            "keys": TensorSpec(shape, Init("normal", 1.0), row_wise=True),
            "values": TensorSpec(shape, ZEROS, row_wise=True),
        }

    def __call__(self, site: Site, tensors: Tensors) -> Float[Tensor, "B S d"]:
        if self.tied:
            attended = _attend(site.input, tensors["rows"], tensors["rows"], self.num_heads)
            return attended * tensors["scale"].unsqueeze(1) * self.scale
        return _attend(site.input, tensors["keys"], tensors["values"], self.num_heads) * self.scale


@tuner_type
@dataclass(frozen=True, kw_only=True)
class Gate(Tuner):
    """A trained gate around any tuner; it reads what its tuner reads.

    A gated prefix multiplies P_k and P_v by g (zero rows still take softmax mass, so g = 0 does not restore the
    backbone there).
    """

    type_name: ClassVar[str] = "gate"
    tuner: Tuner = field(default_factory=Adapter)

    def __post_init__(self) -> None:
        if self.tuner.point == "rows":
            raise UserError("A gate needs an operation that reads hidden states; a prompt stands before all of them.")

    @property
    def point(self) -> str:  # pyrefly: ignore[bad-override]  (a constant of every other tuner)
        """A gate goes where its tuner goes."""
        return self.tuner.point

    @property
    def projects(self) -> bool:  # pyrefly: ignore[bad-override]  (a constant of every other tuner)
        return self.tuner.projects

    @property
    def replaces(self) -> bool:  # pyrefly: ignore[bad-override]  (a constant of every other tuner)
        return self.tuner.replaces

    def replacement(self, module: nn.Module, *, fitted: bool) -> nn.Module:
        return self.tuner.replacement(module, fitted=fitted)

    @property
    def uncompilable(self) -> str:  # pyrefly: ignore[bad-override]  (a constant of every other tuner)
        return self.tuner.uncompilable

    @property
    def named_tokens(self) -> tuple[str, ...]:
        return self.tuner.named_tokens

    @property
    def ids(self) -> tuple[int, ...]:
        """Of its tuner's tokens, where it knows them."""
        return getattr(self.tuner, "ids", ())

    def with_token_ids(self, ids: Sequence[int]) -> Gate:
        """The same gate around the same tuner, which knows the ids of its tokens."""
        return replace(self, tuner=self.tuner.with_token_ids(ids))

    @property
    def reads(self) -> str:
        """What its tuner reads."""
        return getattr(self.tuner, "reads", "input")

    @property
    def needs_residual(self) -> bool:
        return self.tuner.needs_residual

    def with_rows(self, count: int) -> Gate:
        """The same gate around the same tuner with `count` rows."""
        return replace(self, tuner=self.tuner.with_rows(count))

    @property
    def needs_first(self) -> bool:
        return self.tuner.needs_first

    @property
    def looks_back(self) -> bool:
        return self.tuner.looks_back

    @property
    def penalties(self) -> tuple[str, ...]:
        return self.tuner.penalties

    def penalty(self, site: Site, tensors: Tensors, made: Any) -> Mapping[str, Float[Tensor, " b"]]:
        return self.tuner.penalty(site, tensors, made)

    def tensors(self, operation: Operation) -> dict[str, TensorSpec]:
        inner = self.tuner.tensors(operation)
        if not inner:
            return {}
        return {**inner, "gate": TensorSpec((operation.d_in, 1), ZEROS), "gate_bias": TensorSpec((1,), ZEROS)}

    def __call__(self, site: Site, tensors: Tensors) -> Any:
        gate = torch.sigmoid(row_linear(read(site, self.reads), tensors["gate"], tensors["gate_bias"]))
        if not site.causal:
            gate = masked_mean(gate, site.mask)
        inner = self.tuner(site, tensors)
        if not isinstance(inner, PrefixRows):
            return gate * inner
        if site.causal:
            return replace(inner, gate=gate.squeeze(-1))
        row = gate.unsqueeze(1)
        return PrefixRows(keys=inner.keys * row, values=inner.values * row)
