"""What an image encoder is: pictures in, features of grid cells out, and a fingerprint of all that decides them.

Legend: N images, G cells, Dv width of a feature, h x w an encoder's own grid.
"""

from __future__ import annotations

import hashlib
import json
from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import adaptive_avg_pool2d

from hyperpelt.errors import UserError
from hyperpelt.vision.spec import VisualSpec

if TYPE_CHECKING:
    from PIL.Image import Image

    Grid = int | tuple[int, int]

BATCH_SIZE = 32


class ImageEncoder(ABC):
    """A frozen encoder of images.

    - **name**: what `load_image_encoder` was given
    - **grid** (rows, columns) of its cells, **dim** of a cell's feature, **fingerprint** of all that decides them
    - **dtype**: bfloat16 where it computes under autocast; features are float32 all the same
    """

    name: str
    grid: tuple[int, int]
    dim: int
    fingerprint: str
    pooled: bool = False
    dtype: torch.dtype = torch.float32

    @abstractmethod
    def _encode(self, images: Sequence[Image]) -> Float[Tensor, "N G Dv"]:
        """Features of one batch of RGB pictures."""

    @property
    def cells(self) -> int:
        return self.grid[0] * self.grid[1]

    @property
    def spec(self) -> VisualSpec:
        values = {name: getattr(self, name) for name in ("dim", "grid", "fingerprint", "pooled")}
        return VisualSpec(encoder=self.name, precision=str(self.dtype).removeprefix("torch."), **values)

    @torch.no_grad()
    def encode(self, images: Sequence[Image], *, batch_size: int = BATCH_SIZE) -> Float[Tensor, "N G Dv"]:
        """Features of Pillow pictures, float32 on the CPU; `batch_size` of them at once."""
        pictures = [image if image.mode == "RGB" else image.convert("RGB") for image in images]
        batches = [pictures[i : i + batch_size] for i in range(0, len(pictures), batch_size)]
        made = [self._encode(batch).float().cpu() for batch in batches]
        return torch.cat(made) if made else torch.zeros(0, self.cells, self.dim)


def to_grid(states: Float[Tensor, "N Dv h w"], grid: tuple[int, int]) -> Float[Tensor, "N G Dv"]:
    """A map of features averaged to `grid` cells, row by row."""
    if tuple(states.shape[2:]) != grid:
        states = adaptive_avg_pool2d(states, grid)
    return states.flatten(2).transpose(1, 2)


def fingerprint(plain: Any, tensors: dict[str, Tensor]) -> str:
    """SHA-256 of plain data and of every value of some tensors."""
    digest = hashlib.sha256(json.dumps(plain, sort_keys=True, default=str).encode())
    for name, tensor in sorted(tensors.items()):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        digest.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def pair(size: int | Sequence[int]) -> tuple[int, int]:
    rows, columns = (size, size) if isinstance(size, int) else size
    return rows, columns


def wanted_grid(grid: Grid | None, native: tuple[int, int], pooled: bool, name: str) -> tuple[int, int]:
    """The grid that was asked for, checked against the tower's own."""
    if pooled:
        if grid is not None and pair(grid) != (1, 1):
            raise UserError(f"Image encoder {name!r}: pooled features have one cell, got grid={grid}: leave it out.")
        return (1, 1)
    wanted = native if grid is None else pair(grid)
    if min(wanted) < 1 or wanted[0] > native[0] or wanted[1] > native[1]:
        raise UserError(
            f"Image encoder {name!r} has {native[0]} x {native[1]} cells: expected a grid of at most that many, got "
            f"{wanted[0]} x {wanted[1]}."
        )
    return wanted
