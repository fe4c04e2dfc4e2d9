"""`mini-vision`: an image encoder that needs no download and no training, made of fixed filters.

For each grid cell, of a picture brought to 128 x 128:

- **colours** (64): how much of the cell has each of 4 x 4 x 4 colours, softly binned
- **patch** (48): the cell in 4 x 4 pixels, in lightness and two opponent colours
- **edges** (72 + 36): oriented band-pass filters at three octaves, modulus, averaged over 2 x 2 parts of the cell
  (lightness) or the cell (colours): the first order of a scattering transform (Bruna & Mallat 2013, 1203.1513)
- **corners** (108): the moduli filtered and rectified once more at the coarser octaves, its second order
- **place** (10): where the cell stands

Moduli are averaged first and then taken as logarithms, so that contrast adds instead of multiplying. What a cell
holds (colour, shape, stroke) is then read by a linear map: docs/vision.md has the figures.

Legend: N images, C channels, D features of a cell, G cells.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import cos, pi, sin
from typing import TYPE_CHECKING

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import adaptive_avg_pool2d, avg_pool2d, conv2d, pad

from hyperpelt.vision.base import ImageEncoder, fingerprint, to_grid, wanted_grid

if TYPE_CHECKING:
    from PIL.Image import Image

NAME = "mini-vision"
VERSION = 1
SIDE = 128
GRID = (7, 7)
FINEST = (16, 16)
OCTAVES, ORIENTATIONS, WIDTH = 3, 6, 7
BINS = 4
FLOOR = 0.01


def gabor(orientation: int) -> Float[Tensor, "2 width width"]:
    """Real and imaginary part of an oriented wavelet: a Gaussian of deviation 1.5 times a wave of period 4 pixels.

    A constant is taken off the real part, so that plain areas give nothing.
    """
    angle = pi * orientation / ORIENTATIONS
    steps = torch.arange(WIDTH, dtype=torch.float64) - WIDTH // 2
    y, x = torch.meshgrid(steps, steps, indexing="ij")
    along, across = x * cos(angle) + y * sin(angle), y * cos(angle) - x * sin(angle)
    envelope = torch.exp(-(along**2 + across**2 / 2) / (2 * 1.5**2))
    wave = torch.stack([torch.cos(along * pi / 2), torch.sin(along * pi / 2)])
    wave[0] -= (wave[0] * envelope).sum() / envelope.sum()
    filters = wave * envelope
    return (filters / filters.flatten(1).norm(dim=1).mean()).float()


class FilterEncoder(ImageEncoder):
    """`mini-vision`; see the module's text."""

    def __init__(
        self,
        *,
        grid: int | tuple[int, int] | None = None,
        pooled: bool = False,
        device: str | torch.device | None = None,
    ) -> None:
        self.name, self.pooled, self.device = NAME, pooled, torch.device(device or "cpu")
        self.grid = wanted_grid(GRID if grid is None and not pooled else grid, FINEST, pooled, NAME)
        self.filters = torch.stack([gabor(o) for o in range(ORIENTATIONS)]).flatten(0, 1).unsqueeze(1).to(self.device)
        self.place = _place(self.grid).to(self.device)
        self.dim = self._features(torch.zeros(1, 3, SIDE, SIDE, device=self.device)).shape[2]
        self.fingerprint = fingerprint([NAME, VERSION, SIDE, BINS, FLOOR, self.grid], {"filters": self.filters})

    def _encode(self, images: Sequence[Image]) -> Float[Tensor, "N G D"]:
        return self._features(torch.stack([_pixels(image) for image in images]).to(self.device))

    def _features(self, rgb: Float[Tensor, "N 3 side side"]) -> Float[Tensor, "N G D"]:
        opponent = _opponent(rgb)
        first = [self._modulus(level) for level in _pyramid(opponent)]  # each [N, 3, orientations, side, side]
        parts = [
            to_grid(_colour_bins(avg_pool2d(rgb, 2)), self.grid).sqrt(),
            self._inside(opponent, 4),
            *(_log(self._inside(level[:, 0], 2)) for level in first),
            *(_log(to_grid(level[:, 1:].flatten(1, 2), self.grid)) for level in first),
            *(_log(to_grid(self._modulus(finer).flatten(1, 2), self.grid)) for finer in self._second(first)),
        ]
        return torch.cat([*parts, self.place.expand(rgb.shape[0], -1, -1)], dim=2)

    def _second(self, first: Sequence[Tensor]) -> list[Float[Tensor, "N C side side"]]:
        """The moduli in lightness, brought down to every coarser octave."""
        found = []
        for octave, level in enumerate(first):
            coarser = level[:, 0]
            for _ in range(octave + 1, OCTAVES):
                coarser = avg_pool2d(coarser, 2)
                found.append(coarser)
        return found

    def _modulus(self, maps: Float[Tensor, "N C side side"]) -> Float[Tensor, "N C orientations side side"]:
        flat = pad(maps.flatten(0, 1).unsqueeze(1), (WIDTH // 2,) * 4, mode="reflect")
        real, imaginary = conv2d(flat, self.filters).unflatten(1, (ORIENTATIONS, 2)).unbind(2)
        return (real.square() + imaginary.square() + 1e-12).sqrt().unflatten(0, maps.shape[:2])

    def _inside(self, maps: Float[Tensor, "N C side side"], parts: int) -> Float[Tensor, "N G D"]:
        """Each cell as parts x parts averages of each channel."""
        rows, columns = self.grid
        fine = adaptive_avg_pool2d(maps, (rows * parts, columns * parts))
        cells = fine.unflatten(3, (columns, parts)).unflatten(2, (rows, parts))  # N C rows parts columns parts
        return cells.permute(0, 2, 4, 1, 3, 5).flatten(3).flatten(1, 2)


def _pixels(image: Image) -> Float[Tensor, "3 side side"]:
    """RGB in 0..1, stretched to SIDE x SIDE."""
    from PIL.Image import Resampling

    if image.size != (SIDE, SIDE):
        image = image.resize((SIDE, SIDE), Resampling.BICUBIC)
    flat = torch.frombuffer(bytearray(image.tobytes()), dtype=torch.uint8)
    return flat.view(SIDE, SIDE, 3).permute(2, 0, 1).float() / 255


def _opponent(rgb: Float[Tensor, "N 3 side side"]) -> Float[Tensor, "N 3 side side"]:
    """Lightness, red against green, blue against yellow."""
    red, green, blue = rgb.unbind(1)
    return torch.stack([(red + green + blue) / 3, red - green, blue - (red + green) / 2], dim=1)


def _pyramid(maps: Float[Tensor, "N C side side"]) -> list[Tensor]:
    levels = [maps]
    while len(levels) < OCTAVES:
        levels.append(avg_pool2d(levels[-1], 2))
    return levels


def _colour_bins(rgb: Float[Tensor, "N 3 side side"]) -> Float[Tensor, "N C side side"]:
    """Each pixel's share in BINS x BINS x BINS colours: a product of hat functions, which sums to one."""
    centres = torch.linspace(0, 1, BINS, device=rgb.device).view(1, BINS, 1, 1)
    red, green, blue = (
        (1 - (rgb[:, c : c + 1] - centres).abs() * (BINS - 1)).clamp(min=0) for c in range(3)
    )  # each [N, BINS, side, side]
    joint = red[:, :, None, None] * green[:, None, :, None] * blue[:, None, None, :]
    return joint.flatten(1, 3)


def _log(values: Tensor) -> Tensor:
    return (values + FLOOR).log()


def _place(grid: tuple[int, int]) -> Float[Tensor, "1 G 10"]:
    """Row and column of each cell in -1..1, and their sines and cosines at two frequencies."""
    rows, columns = ((torch.arange(size) + 0.5) * 2 / size - 1 for size in grid)
    both = torch.stack(torch.meshgrid(rows, columns, indexing="ij"), dim=-1).flatten(0, 1)
    waves = [f(both * pi * k) for k in (0.5, 1.0) for f in (torch.sin, torch.cos)]
    return torch.cat([both, *waves], dim=1).unsqueeze(0)
