"""AlphaTuning's scales: the first plane of a weight that is kept as binary codes (Kwon et al. 2022, arXiv 2210.03858,
eqs. 1 and 2).

    W' = diag(alpha_1 + shift) B_1 + sum_{i=2..q} diag(alpha_i) B_i,    OP(x) + shift (.) (x B_1^T)

B and alpha are frozen, fitted to the backbone's weight when the model is built and saved with it, packed; `shift` [e]
is a task's own and starts at 0, at the coded backbone. See `hyperpelt.backbones.coded`. T5-base, every projection:
202,752 values a plane. Reference: float64 transcription.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from jaxtyping import Float
from torch import Tensor, nn

from hyperpelt.backbones.coded import CodedLinear, product
from hyperpelt.errors import UserError
from hyperpelt.operations import PROJECTIONS, Operation
from hyperpelt.tuners.base import Site, Tensors, TensorSpec, Tuner, tuner_type


@tuner_type
@dataclass(frozen=True, kw_only=True)
class CodeScale(Tuner):
    """Scales of a projection's first code plane. **bits** q; **rounds** of the fit after its greedy start."""

    type_name: ClassVar[str] = "code_scale"
    replaces: ClassVar[bool] = True
    bits: int = 3
    rounds: int = 5

    def __post_init__(self) -> None:
        CodedLinear(1, 1, bits=self.bits)  # refuses what is no number of bits

    def tensors(self, operation: Operation) -> dict[str, TensorSpec]:
        if operation.kind not in PROJECTIONS:
            raise self.refuse(operation, f"a projection ({', '.join(PROJECTIONS)})")
        return {"shift": TensorSpec((operation.d_out,))}

    def replacement(self, module: nn.Module, *, fitted: bool) -> nn.Module:
        assert isinstance(module, nn.Linear), "projections are linear maps"
        if isinstance(module, CodedLinear):
            if module.bits != self.bits:
                raise UserError(f"A weight that is coded in {module.bits} bits already cannot be coded in {self.bits}.")
            return module
        return CodedLinear.of(module, bits=self.bits, rounds=self.rounds, fitted=fitted)

    def __call__(self, site: Site, tensors: Tensors) -> Float[Tensor, "B S e"]:
        plane = site.frozen["codes"][:1]
        ones = torch.ones(plane.shape[:2], device=plane.device)
        return product(site.input, plane, ones) * tensors["shift"].unsqueeze(1)
