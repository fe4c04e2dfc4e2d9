"""Several encoders as one: `mini-vision+efficientnet-lite0` has in each cell the features of both, side by side."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from jaxtyping import Float
from torch import Tensor

from hyperpelt.errors import UserError
from hyperpelt.vision.base import ImageEncoder, fingerprint

if TYPE_CHECKING:
    from PIL.Image import Image


class JoinedEncoder(ImageEncoder):
    """Encoders of one grid, their features joined in the order of their names.

    Raises:
        UserError: their grids differ.
    """

    def __init__(self, encoders: Sequence[ImageEncoder]) -> None:
        self.encoders = list(encoders)
        self.name = "+".join(encoder.name for encoder in encoders)
        self.grid, self.pooled = encoders[0].grid, all(encoder.pooled for encoder in encoders)
        for encoder in encoders:
            if encoder.grid != self.grid:
                raise UserError(
                    f"Image encoder {self.name!r}: {encoders[0].name!r} has {self.grid[0]} x {self.grid[1]} cells, "
                    f"{encoder.name!r} {encoder.grid[0]} x {encoder.grid[1]}: give a grid that all of them can have."
                )
        self.dim = sum(encoder.dim for encoder in encoders)
        low = any(encoder.dtype == torch.bfloat16 for encoder in encoders)
        self.dtype = torch.bfloat16 if low else torch.float32
        self.fingerprint = fingerprint([encoder.fingerprint for encoder in encoders], {})

    def _encode(self, images: Sequence[Image]) -> Float[Tensor, "N G Dv"]:
        return torch.cat([encoder._encode(images).float().cpu() for encoder in self.encoders], dim=2)
