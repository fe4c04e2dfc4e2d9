"""Frozen image encoders by name: any Hugging Face vision tower, or one of the two that are embedded.

    encoder = load_image_encoder("google/siglip-base-patch16-224", grid=7)
    features = encoder.encode(pictures)                 [N, G, Dv] float32, on the CPU
    encoder.spec                                        what a model must know of them

Legend: N images, G cells, Dv width of a feature.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import torch

from hyperpelt.errors import UserError

if TYPE_CHECKING:
    from hyperpelt.vision.base import Grid, ImageEncoder

JOINT = "+"


def load_image_encoder(
    name: str | Path,
    *,
    grid: Grid | None = None,
    pooled: bool = False,
    dtype: torch.dtype | None = None,
    device: str | torch.device | None = None,
) -> ImageEncoder:
    """A frozen image encoder.

    - **name**: `mini-vision`, `efficientnet-lite0`, a folder, or a hub id of a CLIP, SigLIP, DINOv2, ViT, ConvNeXt or
      ResNet model; several joined by `+` for the features of all of them side by side
    - **grid**: cells to average the features to, a number (7 = 7 x 7) or (rows, columns); None: the tower's own
    - **pooled**: one feature an image instead: the trained pooled output of CLIP and SigLIP, the mean of others
    - **dtype**: bfloat16 runs the tower under autocast; features stay float32
    - **device**: where the tower runs; default: the CPU

    Raises:
        UserError: no such tower or folder, weights or image processor missing, a grid finer than the tower's.
    """
    options = {"grid": grid, "pooled": pooled, "device": device}
    if JOINT in str(name) and not Path(name).exists():
        from hyperpelt.vision.joined import JoinedEncoder

        return JoinedEncoder([load_image_encoder(part, dtype=dtype, **options) for part in str(name).split(JOINT)])
    if str(name) == "mini-vision":
        from hyperpelt.vision.filters import FilterEncoder

        return FilterEncoder(**options)
    if dtype not in (None, torch.float32, torch.bfloat16):
        raise UserError(f"Image encoder {str(name)!r}: expected dtype float32 or bfloat16, got {dtype}.")
    if str(name) == "efficientnet-lite0":
        from hyperpelt.vision.efficientnet import EfficientNetEncoder

        return EfficientNetEncoder(dtype=dtype, **options)
    from hyperpelt.vision.towers import TowerEncoder, load_tower

    tower, processor = load_tower(str(name))
    return TowerEncoder(tower, processor, name=str(name), dtype=dtype, **options)
