"""A bottleneck adapter whose two maps are convolutions along the sequence.

CHAPTER (Chen et al. 2022, arXiv 2212.01282) has such adapters in the convolutional front of a speech encoder; what
carries over to text is y = z + Conv_up(phi(Conv_down(z))). In an encoder the windows are centred, padding and what lies
outside of a row count as zero. In a decoder a window ends at its position, so that no token sees a later one; in cached
decoding the pass remembers the positions before. A kernel of 1 is the ordinary bottleneck adapter. Conv_up is 0 at
start. Reference: float64 transcription.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import pad

from hyperpelt.config.setting_types import check_at_least
from hyperpelt.errors import UserError, unknown
from hyperpelt.operations import Operation
from hyperpelt.tuners.adapter import ACTIVATIONS, OUTPUT_KINDS, READS, read
from hyperpelt.tuners.base import Init, Site, Tensors, TensorSpec, Tuner, row_linear, tuner_type


@tuner_type
@dataclass(frozen=True, kw_only=True)
class Convolution(Tuner):
    """A convolutional adapter. **bottleneck** b; **kernel** k, odd; **reads**, **activation**: as an `adapter`'s."""

    type_name: ClassVar[str] = "convolution"
    bottleneck: int = 24
    kernel: int = 3
    reads: str = "output"
    activation: str = "gelu"

    def __post_init__(self) -> None:
        if self.reads not in READS:
            raise unknown("setting `reads` of a convolution", self.reads, READS)
        if self.activation not in ACTIVATIONS:
            raise unknown("activation of a convolution", self.activation, ACTIVATIONS)
        check_at_least(1, f"tuner {self.type_name!r}", bottleneck=self.bottleneck, kernel=self.kernel)
        if self.kernel % 2 == 0:
            raise UserError(f"A convolution's kernel must be odd, to have a centre, got {self.kernel}.")

    @property
    def needs_residual(self) -> bool:
        return "residual" in self.reads

    @property
    def looks_back(self) -> bool:
        return self.kernel > 1

    def tensors(self, operation: Operation) -> dict[str, TensorSpec]:
        if operation.kind not in OUTPUT_KINDS:
            raise self.refuse(operation, "an attention, a feed-forward network or a block")
        d, k, b, e = operation.d_in, self.kernel, self.bottleneck, operation.d_out
        return {
            "down": TensorSpec((k, d, b), Init("uniform", (3 / (k * d)) ** 0.5)),
            "down_bias": TensorSpec((b,)),
            "up": TensorSpec((k, b, e)),
            "up_bias": TensorSpec((e,)),
        }

    def __call__(self, site: Site, tensors: Tensors) -> Float[Tensor, "B S e"]:
        z = read(site, self.reads)
        hidden = row_linear(self._windows(site, "down", z), tensors["down"].flatten(1, 2), tensors["down_bias"])
        hidden = ACTIVATIONS[self.activation](hidden)
        return row_linear(self._windows(site, "up", hidden), tensors["up"].flatten(1, 2), tensors["up_bias"])

    def _windows(self, site: Site, name: str, x: Float[Tensor, "B S d"]) -> Float[Tensor, "B S kd"]:
        """The k positions that each position sees, side by side."""
        around = self.kernel - 1
        if around == 0:
            return x
        if site.causal:
            assert site.before is not None, "the pass must say what came before"
            x = torch.cat([site.before(name, x, around), x], dim=1)
        else:
            x = x if site.mask is None else x * site.mask.unsqueeze(-1)
            x = pad(x, (0, 0, around // 2, around // 2))
        length = x.shape[1] - around
        return torch.cat([x[:, i : i + length] for i in range(self.kernel)], dim=-1)
