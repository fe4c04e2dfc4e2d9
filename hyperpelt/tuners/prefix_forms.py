"""Prefixes that are more than trained rows: APT's, weighted by what a row begins with, and HyperPrompt's bottleneck.

- **APT** (Zhang et al. 2023, arXiv 2305.15212): row n of layer i is scaled by lam_i alpha_n, alpha = sigma(h W_i), h
  the first token's hidden state as the attention reads it, W_i [d N]. In a decoder the first token is its start token:
  what comes later plays no part, and cached decoding gives the same. W = 0, so alpha = 1/2, and lam = 1 at start.
  T5-base on top of a prefix of N=10: 276,516 values.
- **HyperPrompt** (He et al. 2022, 2203.00759): one prompt P [N d] for all layers goes through a bottleneck of each
  attention: P_k = relu(P D_k) U_k, P_v = relu(P D_v) U_v. The prompt is the part's, one a task; the bottlenecks are
  shared by tasks (HyperPrompt-Share), one a task (-Sep), or made by a hypernetwork (-Global): a matter of sources. Rows
  start with the unit deviation of random keys, not like real ones.

References: float64 transcriptions.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from jaxtyping import Float
from torch import Tensor

from hyperpelt.config.setting_types import check_at_least
from hyperpelt.operations import ATTENTIONS, Operation
from hyperpelt.tuners.base import ONES, Init, Site, Tensors, TensorSpec, Tuner, row_linear, tuner_type
from hyperpelt.tuners.prefix import Prefix, PrefixRows, split_heads


@tuner_type
@dataclass(frozen=True, kw_only=True)
class AdaptivePrefix(Prefix):
    """APT's prefix; its settings are a prefix's."""

    type_name: ClassVar[str] = "adaptive_prefix"

    @property
    def needs_first(self) -> bool:
        return True

    def tensors(self, operation: Operation) -> dict[str, TensorSpec]:
        specs = super().tensors(operation)
        gates = {"row_gate": TensorSpec((operation.d_in, self.length)), "layer_scale": TensorSpec((1,), ONES)}
        return specs | gates if specs else {}

    def __call__(self, site: Site, tensors: Tensors) -> PrefixRows:
        assert site.first is not None, "the pass must say what the rows begin with"
        rows = super().__call__(site, tensors)
        weight = torch.sigmoid(row_linear(site.first, tensors["row_gate"])).squeeze(1) * tensors["layer_scale"]
        weight = weight[:, None, :, None].to(rows.keys.dtype)  # [B 1 N 1]
        return PrefixRows(keys=rows.keys * weight, values=rows.values * weight)


@tuner_type
@dataclass(frozen=True, kw_only=True)
class BottleneckPrefix(Tuner):
    """HyperPrompt's prefix. **length** N rows; **bottleneck** b."""

    type_name: ClassVar[str] = "bottleneck_prefix"
    point: ClassVar[str] = "attention"
    length: int = 16
    bottleneck: int = 24

    def __post_init__(self) -> None:
        check_at_least(1, f"tuner {self.type_name!r}", length=self.length, bottleneck=self.bottleneck)

    def tensors(self, operation: Operation) -> dict[str, TensorSpec]:
        if operation.kind not in ATTENTIONS:
            raise self.refuse(operation, "an attention")
        d, b, width = operation.d_in, self.bottleneck, operation.num_heads * operation.d_head
        down, up = TensorSpec((d, b), Init("uniform", (6 / d) ** 0.5)), TensorSpec((b, width), Init("normal", b**-0.5))
        return {
            "prompt": TensorSpec((self.length, d), Init("normal", 1.0), row_wise=True, owner="part"),
            "keys_down": down,
            "keys_up": up,
            "values_down": down,
            "values_up": up,
        }

    def __call__(self, site: Site, tensors: Tensors) -> PrefixRows:
        keys, values = (
            split_heads(
                self._through(tensors["prompt"], tensors[f"{name}_down"], tensors[f"{name}_up"]), site.operation
            )
            for name in ("keys", "values")
        )
        return PrefixRows(keys=keys, values=values)

    @staticmethod
    def _through(
        prompt: Float[Tensor, "b N d"], down: Float[Tensor, "b2 d m"], up: Float[Tensor, "b3 m e"]
    ) -> Float[Tensor, "b4 N e"]:
        return torch.relu(prompt @ down) @ up
