"""Low-rank deltas in other forms than LoRA's: AdaLoRA's triplets and VeRA's scaled random projections.

- **AdaLoRA** (Zhang et al. 2023, arXiv 2303.10512): W' = W + (alpha/r) P diag(lam) Q, lam = 0 at start, P and Q
  N(0, 0.02^2). Its penalty keeps P's columns and Q's rows near orthonormal: w (|P^T P - I| + |Q Q^T - I|) / 2 with
  Frobenius norms, as the authors' code and peft have it (the paper squares them, eq. 4). What takes ranks away is a
  course, `hyperpelt.methods.courses.budget`.
- **VeRA** (Kopiczko et al. 2023, 2310.11454, eq. 2): W' = W + A diag(d) B diag(b), A and B random, frozen, and the
  part's: one pair for each shape of projection; d = 0.1 and b = 0 at start.

T5-base, q and v, one task: AdaLoRA r=12 1,327,968, r=8 885,312; VeRA r=256 73,728. References: peft.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from jaxtyping import Float
from torch import Tensor

from hyperpelt.config.setting_types import check_at_least
from hyperpelt.operations import PROJECTIONS, Operation
from hyperpelt.tuners.base import Init, Site, Tensors, TensorSpec, Tuner, row_linear, tuner_type


@tuner_type
@dataclass(frozen=True, kw_only=True)
class SVD(Tuner):
    """AdaLoRA's delta of a projection. **rank** r; **alpha**: scaled by alpha / r; **orthogonality**: weight w."""

    type_name: ClassVar[str] = "svd"
    linear: ClassVar[bool] = True
    rank: int = 12
    alpha: float | None = None
    orthogonality: float = 0.5

    def __post_init__(self) -> None:
        check_at_least(1, f"tuner {self.type_name!r}", rank=self.rank)

    @property
    def penalties(self) -> tuple[str, ...]:
        return ("orthogonality",) if self.orthogonality else ()

    def tensors(self, operation: Operation) -> dict[str, TensorSpec]:
        if operation.kind not in PROJECTIONS:
            raise self.refuse(operation, f"a projection ({', '.join(PROJECTIONS)})")
        return {
            "left": TensorSpec((operation.d_in, self.rank), Init("normal", 0.02)),
            "values": TensorSpec((self.rank,)),
            "right": TensorSpec((self.rank, operation.d_out), Init("normal", 0.02)),
        }

    def __call__(self, site: Site, tensors: Tensors) -> Float[Tensor, "B S e"]:
        factor = 1.0 if self.alpha is None else self.alpha / self.rank
        inner = row_linear(site.input, tensors["left"]) * (tensors["values"] * factor).unsqueeze(1)
        return row_linear(inner, tensors["right"])

    def penalty(self, site: Site, tensors: Tensors, made: Any) -> Mapping[str, Float[Tensor, " b"]]:
        left, right = tensors["left"].float(), tensors["right"].float()
        one = torch.eye(self.rank, device=left.device)
        away = [
            (gram - one).flatten(1).norm(dim=1) for gram in (left.transpose(1, 2) @ left, right @ right.transpose(1, 2))
        ]
        return {"orthogonality": self.orthogonality * (away[0] + away[1]) / 2}


@tuner_type
@dataclass(frozen=True, kw_only=True)
class VeRA(Tuner):
    """Vectors that scale a shared random low-rank delta of a projection. **rank** r; **start**: d's first value."""

    type_name: ClassVar[str] = "vera"
    linear: ClassVar[bool] = True
    rank: int = 256
    start: float = 0.1

    def __post_init__(self) -> None:
        check_at_least(1, f"tuner {self.type_name!r}", rank=self.rank)

    def tensors(self, operation: Operation) -> dict[str, TensorSpec]:
        if operation.kind not in PROJECTIONS:
            raise self.refuse(operation, f"a projection ({', '.join(PROJECTIONS)})")
        d, r, e = operation.d_in, self.rank, operation.d_out
        return {
            "down": TensorSpec((d, r), Init("uniform", (6 / d) ** 0.5), owner="part", role="frozen"),
            "up": TensorSpec((r, e), Init("uniform", (6 / r) ** 0.5), owner="part", role="frozen"),
            "inner": TensorSpec((r,), Init("constant", self.start)),
            "outer": TensorSpec((e,)),
        }

    def __call__(self, site: Site, tensors: Tensors) -> Float[Tensor, "B S e"]:
        inner = row_linear(site.input, tensors["down"]) * tensors["inner"].unsqueeze(1)
        return row_linear(inner, tensors["up"]) * tensors["outer"].unsqueeze(1)
