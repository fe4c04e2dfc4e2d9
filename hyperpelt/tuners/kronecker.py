"""Tuners whose matrices are sums of Kronecker products: KronA's delta, and the PHM adapters of Compacter and MixPHM.

- **KronA** (Edalati et al. 2022, arXiv 2212.10650): W' = W + s (A (x) B) with A [a1 a2], B [b1 b2], a1 b1 = e,
  a2 b2 = d, W as PyTorch keeps it [e d]; beside a feed-forward network the same is a parallel adapter (KronA^B), with a
  trained multiple of what it reads KronA^B_res. B = 0 at start. The product is never made: for a row x as a matrix
  [a2 b2], (A (x) B) x = A x B^T.
- **PHM layers** (Zhang et al. 2021, 2102.08597) in adapters, as Compacter has them (Karimi Mahabadi et al. 2021,
  2106.04647, eq. 5): W = sum_i R_i (x) (s_i t_i), the n rules R_i [n n] shared by all adapters of a part, s_i [d/n k],
  t_i [k b/n]. The rules start at N(0, 1e-4^2), as the authors ship it: near nothing, not at it, since all of W is a
  multiple of them.
- **MixPHM** (Jiang & Zheng 2023, 2303.01239) has several up-projections, its *experts*. One is drawn for each operation
  and step in training (the state `draw`, see `hyperpelt.methods.mixphm`); to answer, their factors are averaged. Its
  redundancy penalty is the mean squared correlation of two different features, one of what the adapter gives and one of
  what OP wrote, over the real positions of a row (the paper's is over a batch, which changes with how it is divided).

T5-base, one task: KronA q,v 110,592; Compacter 114,112; MixPHM 874,048. References: peft's LoKr, transcriptions.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.nn.functional import dropout

from hyperpelt.config.setting_types import check_at_least
from hyperpelt.errors import UserError, unknown
from hyperpelt.operations import PROJECTIONS, Operation
from hyperpelt.tuners.adapter import ACTIVATIONS, OUTPUT_KINDS, READS, read
from hyperpelt.tuners.base import Init, Site, Tensors, TensorSpec, Tuner, row_linear, tuner_type


def _factors(size: int) -> tuple[int, int]:
    """The two factors of a width that lie closest to its square root, the larger first."""
    small = next(k for k in range(int(size**0.5), 0, -1) if size % k == 0)
    return size // small, small


def _each(x: Float[Tensor, "B S m k"], matrix: Float[Tensor, "b e k"]) -> Float[Tensor, "B S m e"]:
    """x W^T for each of m, with a matrix for each row or one for all."""
    return x @ (matrix[0].T if matrix.shape[0] == 1 else matrix.transpose(1, 2).unsqueeze(1))


@tuner_type
@dataclass(frozen=True, kw_only=True)
class Kronecker(Tuner):
    """KronA: s x (A (x) B)^T at a projection, or beside any operation that reads hidden states.

    - **scale** s; **residual**: add a trained multiple of what is read, which starts at 0
    """

    type_name: ClassVar[str] = "kronecker"
    linear: ClassVar[bool] = True
    scale: float = 1.0
    residual: bool = False

    def tensors(self, operation: Operation) -> dict[str, TensorSpec]:
        if operation.kind not in (*PROJECTIONS, *OUTPUT_KINDS):
            raise self.refuse(operation, "a projection, an attention, a feed-forward network or a block")
        if self.residual and operation.d_in != operation.d_out:
            raise self.refuse(operation, "an operation that writes as wide as it reads, where it has a residual,")
        (a1, b1), (b2, a2) = _factors(operation.d_out), _factors(operation.d_in)
        specs = {"left": TensorSpec((a1, a2), Init("uniform", a2**-0.5)), "right": TensorSpec((b1, b2))}
        return specs | ({"residual": TensorSpec((1,))} if self.residual else {})

    def __call__(self, site: Site, tensors: Tensors) -> Float[Tensor, "B S e"]:
        left, right = tensors["left"], tensors["right"]
        x = site.input.unflatten(-1, (left.shape[-1], right.shape[-1]))
        made = _each(_each(x, right).transpose(2, 3), left).transpose(2, 3).flatten(2) * self.scale
        return made + site.input * tensors["residual"].unsqueeze(1) if self.residual else made


@tuner_type
@dataclass(frozen=True, kw_only=True)
class PHMAdapter(Tuner):
    """A bottleneck adapter of two PHM layers.

    - **bottleneck** b; **divisions** n, which must divide both widths; **rank** k of the factors
    - **reads**, **activation**: as an `adapter`'s; **rule_std**: deviation of the rules at the start
    - **experts**: number of up-projections, of which one acts in training and their mean otherwise
    - **dropout** of the hidden layer
    - **redundancy**: weight of the redundancy penalty
    """

    type_name: ClassVar[str] = "phm_adapter"
    bottleneck: int = 24
    divisions: int = 4
    rank: int = 1
    reads: str = "output"
    activation: str = "gelu_new"
    rule_std: float = 1e-4
    experts: int = 1
    dropout: float = 0.0
    redundancy: float = 0.0

    def __post_init__(self) -> None:
        if self.reads not in READS:
            raise unknown("setting `reads` of a PHM adapter", self.reads, READS)
        if self.activation not in ACTIVATIONS:
            raise unknown("activation of a PHM adapter", self.activation, ACTIVATIONS)
        counts = {name: getattr(self, name) for name in ("bottleneck", "divisions", "rank", "experts")}
        check_at_least(1, f"tuner {self.type_name!r}", **counts)

    @property
    def needs_residual(self) -> bool:
        return "residual" in self.reads

    @property
    def penalties(self) -> tuple[str, ...]:
        return ("redundancy",) if self.redundancy else ()

    def tensors(self, operation: Operation) -> dict[str, TensorSpec]:
        if operation.kind not in OUTPUT_KINDS:
            raise self.refuse(operation, "an attention, a feed-forward network or a block")
        n, widths = self.divisions, (operation.d_in, self.bottleneck, operation.d_out)
        if any(width % n for width in widths):
            raise UserError(
                f"divisions={n} of a PHM adapter must divide its bottleneck ({self.bottleneck}) and the width of "
                f"{operation.name!r} ({operation.d_in})."
            )
        d, b, e = (width // n for width in widths)
        many = (self.experts,) if self.experts > 1 else ()
        specs = {
            "rule": TensorSpec((n, n, n), Init("normal", self.rule_std), owner="part"),
            "down_left": self._factor((), d, self.rank),
            "down_right": self._factor((), self.rank, b),
            "down_bias": TensorSpec((self.bottleneck,)),
            "up_left": self._factor(many, b, self.rank),
            "up_right": self._factor(many, self.rank, e),
            "up_bias": TensorSpec((*many, operation.d_out)),
        }
        drawn = TensorSpec(many, Init("constant", 1 / self.experts), role="state")
        return specs | ({"draw": drawn} if many else {})

    def _factor(self, many: tuple[int, ...], rows: int, columns: int) -> TensorSpec:
        """Glorot's uniform start with a gain of sqrt(2)."""
        return TensorSpec((*many, self.divisions, rows, columns), Init("uniform", (12 / (rows + columns)) ** 0.5))

    def __call__(self, site: Site, tensors: Tensors) -> Float[Tensor, "B S e"]:
        down = phm(tensors["rule"], tensors["down_left"], tensors["down_right"])
        up = [tensors[name] for name in ("up_left", "up_right", "up_bias")]
        if self.experts > 1:
            up = [self._chosen(values, tensors["draw"], site.training) for values in up]
        hidden = row_linear(read(site, self.reads), down, tensors["down_bias"])
        hidden = dropout(ACTIVATIONS[self.activation](hidden), self.dropout, site.training)
        return row_linear(hidden, phm(tensors["rule"], up[0], up[1]), up[2])

    def _chosen(self, values: Float[Tensor, "b E *s"], draw: Float[Tensor, "b E"], training: bool) -> Tensor:
        """The experts' tensors weighted by what was drawn, or their mean."""
        if not training:
            return values.mean(dim=1)
        return (values * draw.view(*draw.shape, *[1] * (values.ndim - 2))).sum(dim=1)

    def penalty(self, site: Site, tensors: Tensors, made: Any) -> Mapping[str, Float[Tensor, " b"]]:
        assert site.output is not None
        return {"redundancy": self.redundancy * _correlation(made, site.output, site.mask)}


def phm(
    rule: Float[Tensor, "b1 n n n"], left: Float[Tensor, "b2 n d k"], right: Float[Tensor, "b3 n k e"]
) -> Float[Tensor, "b4 nd ne"]:
    """A PHM layer's matrix: sum_i R_i (x) (s_i t_i), for each row or for all."""
    return torch.einsum("bipr,biqk,biku->bpqru", rule, left, right).flatten(3).flatten(1, 2)


def _correlation(
    a: Float[Tensor, "B S d"], b: Float[Tensor, "B S d"], mask: Bool[Tensor, "B S"] | None
) -> Float[Tensor, " B"]:
    """The mean squared correlation of feature i of a with feature j of b over a row's real positions, i and j unequal.

    By the Gram matrices of positions, |A^T B|^2 = sum of (A A^T) (.) (B B^T), which are smaller than [d d].
    """
    real = a.new_ones(a.shape[:2]) if mask is None else mask.to(a.dtype)
    a, b = (_standardised(values.float(), real) for values in (a, b))
    count, width = real.sum(dim=1), a.shape[-1]
    every = ((a @ a.transpose(1, 2)) * (b @ b.transpose(1, 2))).sum(dim=(1, 2))
    same = (a * b).sum(dim=1).square().sum(dim=-1)
    return (every - same) / count.square().clamp(min=1) / (width * (width - 1))


def _standardised(values: Float[Tensor, "B S d"], real: Float[Tensor, "B S"]) -> Float[Tensor, "B S d"]:
    weight = (real / real.sum(dim=1, keepdim=True).clamp(min=1)).unsqueeze(-1)
    centred = (values - (values * weight).sum(dim=1, keepdim=True)) * real.unsqueeze(-1)
    return centred * torch.rsqrt((centred.square() * weight).sum(dim=1, keepdim=True) + 1e-6)
