"""Self-PT's prompts: made of what the row itself begins with, and read by the attention as if they were tokens.

Self-PT (Yuan et al. 2023, ACM Multimedia, openreview RLbWwxQyqfV), with h what the attention reads:

    q   = phi(PHM(pool(h)))                                 pool: the first position, or the mean over real ones
    P_n = PHM_0(q) + sum_j LN(c_n)_j PHM_j(q)               c_n: trained, as wide as there are PHM_j
    K'  = [P W_k ; K],  V' = [P W_v ; V]                    W_k, W_v: the attention's own, frozen

PHM layers are those of `phm_adapter` (Zhang et al. 2021, arXiv 2102.08597); their rules are the part's. So the number
of trained values hardly depends on the number of rows: one more costs c_n alone. Layer-normed c_n of width 2, as the
authors have them, tell two kinds of rows apart; wider ones tell all. The authors give each layer rules of its own, and
start them at 1e-4: prompts near nothing, where ours start like random tokens.

In a decoder the pool is always the first position: what comes later plays no part, and cached decoding gives the same.
Rows start like random tokens; a prompt of length 0 is the backbone. Reference: float64 transcription.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from jaxtyping import Float
from torch import Tensor

from hyperpelt.config.setting_types import check_at_least
from hyperpelt.errors import UserError, unknown
from hyperpelt.operations import Operation
from hyperpelt.tuners.adapter import ACTIVATIONS
from hyperpelt.tuners.base import ONES, Init, Site, Tensors, TensorSpec, Tuner, masked_mean, row_linear, tuner_type
from hyperpelt.tuners.kronecker import phm
from hyperpelt.tuners.prefix import PrefixRows, split_heads

POOLS = ("first", "mean")
EPS = 1e-6


@tuner_type
@dataclass(frozen=True, kw_only=True)
class SelfPrompt(Tuner):
    """Prompts of a self-attention, made of what it reads.

    - **length** N; **bottleneck**, **divisions**, **rank**, **activation** of the PHM layers
    - **index_dim**: width of c_n, and number of PHM_j beside PHM_0
    - **pool**: `first` position, or `mean` (in encoders)
    - **rule_std**: deviation of the rules at the start
    """

    type_name: ClassVar[str] = "self_prompt"
    point: ClassVar[str] = "attention"
    projects: ClassVar[bool] = True
    length: int = 5
    bottleneck: int = 128
    divisions: int = 4
    rank: int = 8
    index_dim: int = 2
    pool: str = "first"
    activation: str = "gelu_new"
    rule_std: float = 0.25

    def __post_init__(self) -> None:
        if self.pool not in POOLS:
            raise unknown("pool of a self-prompt", self.pool, POOLS)
        if self.activation not in ACTIVATIONS:
            raise unknown("activation of a self-prompt", self.activation, ACTIVATIONS)
        check_at_least(0, f"tuner {self.type_name!r}", length=self.length)
        counts = {name: getattr(self, name) for name in ("bottleneck", "divisions", "rank", "index_dim")}
        check_at_least(1, f"tuner {self.type_name!r}", **counts)

    @property
    def needs_first(self) -> bool:
        return True

    def tensors(self, operation: Operation) -> dict[str, TensorSpec]:
        if operation.kind != "self_attention":
            raise self.refuse(operation, "a self-attention")
        if self.length == 0:
            return {}
        n, widths = self.divisions, (operation.d_in, self.bottleneck)
        if any(width % n for width in widths):
            raise UserError(
                f"divisions={n} of a self-prompt must divide its bottleneck ({self.bottleneck}) and the width of "
                f"{operation.name!r} ({operation.d_in})."
            )
        (d, b), many = (width // n for width in widths), (self.index_dim + 1,)
        return {
            "rule": TensorSpec((n, n, n), Init("normal", self.rule_std), owner="part"),
            "index": TensorSpec((self.length, self.index_dim), Init("normal", 1.0)),
            "index_gain": TensorSpec((self.index_dim,), ONES),
            "index_shift": TensorSpec((self.index_dim,)),
            "down_left": self._factor((), d, self.rank),
            "down_right": self._factor((), self.rank, b),
            "down_bias": TensorSpec((self.bottleneck,)),
            "up_left": self._factor(many, b, self.rank),
            "up_right": self._factor(many, self.rank, d),
            "up_bias": TensorSpec((*many, operation.d_in)),
        }

    def _factor(self, many: tuple[int, ...], rows: int, columns: int) -> TensorSpec:
        """Glorot's uniform start with a gain of sqrt(2), as PHM adapters have it."""
        return TensorSpec((*many, self.divisions, rows, columns), Init("uniform", (12 / (rows + columns)) ** 0.5))

    def __call__(self, site: Site, tensors: Tensors) -> PrefixRows:
        assert site.first is not None, "the pass must say what the rows begin with"
        assert site.project is not None, "the pass must say what the attention makes of rows"
        first = self.pool == "first" or site.causal
        rows = self._rows(site.first if first else masked_mean(site.input, site.mask), tensors)
        keys, values = (split_heads(site.project(which, rows), site.operation) for which in ("k", "v"))
        return PrefixRows(keys=keys, values=values)

    def _rows(self, pooled: Float[Tensor, "B 1 d"], t: Tensors) -> Float[Tensor, "B N d"]:
        down = phm(t["rule"], t["down_left"], t["down_right"])
        q = ACTIVATIONS[self.activation](row_linear(pooled, down, t["down_bias"]))
        each = [
            row_linear(q, phm(t["rule"], t["up_left"][:, j], t["up_right"][:, j]), t["up_bias"][:, j])
            for j in range(self.index_dim + 1)
        ]
        index = torch.nn.functional.layer_norm(t["index"], t["index"].shape[-1:], eps=EPS)
        index = index * t["index_gain"].unsqueeze(1) + t["index_shift"].unsqueeze(1)
        rows = each[0]
        for j, made in enumerate(each[1:]):
            rows = rows + index[..., j : j + 1] * made
        return rows
