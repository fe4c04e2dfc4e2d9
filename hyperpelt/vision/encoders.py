"""Frozen image encoders by name: any Hugging Face vision tower, or one of the two that are embedded.

    encoder = load_image_encoder("google/siglip-base-patch16-224", grid=7)
    features = encoder.encode(pictures)                 [N, G, Dv] float32, on the CPU
    encoder.spec                                        what a model must know of them

A tower's last hidden states are its cells: patch tokens (CLIP, SigLIP, DINOv2, ViT; class and register tokens are left
out), or the last feature map (ConvNeXt, ResNet). They are pooled to the wanted grid by adaptive averaging. Pictures
are prepared by the tower's own image processor, as its `preprocessor_config.json` says, with Pillow.

Legend: N images, G cells, Dv width of a feature, h x w the tower's own grid.
"""

from __future__ import annotations

import hashlib
import json
from abc import ABC, abstractmethod
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.functional import adaptive_avg_pool2d

from hyperpelt.errors import UserError
from hyperpelt.vision.spec import VisualSpec

if TYPE_CHECKING:
    from PIL.Image import Image
    from transformers import PretrainedConfig, PreTrainedModel

    Grid = int | tuple[int, int]

EMBEDDED = "mini-vision"
JOINT = "+"
BATCH_SIZE = 32
# Settings that say where a model came from or how it is run, not what it computes.
_PASSING = ("_name_or_path", "transformers_version", "dtype", "torch_dtype", "architectures", "_attn_implementation")
# Families whose pooled output is trained with the tower; that of others (ViT, ResNet) is a mean or a fresh layer.
_TRAINED_POOL = ("clip_vision_model", "siglip_vision_model")


class ImageEncoder(ABC):
    """A frozen encoder of images.

    - **name**: what `load_image_encoder` was given
    - **grid** (rows, columns) of its cells, **dim** of a cell's feature, **fingerprint** of all that decides them
    """

    name: str
    grid: tuple[int, int]
    dim: int
    fingerprint: str
    pooled: bool = False

    @abstractmethod
    def _encode(self, images: Sequence[Image]) -> Float[Tensor, "N G Dv"]:
        """Features of one batch of RGB pictures."""

    @property
    def cells(self) -> int:
        return self.grid[0] * self.grid[1]

    @property
    def spec(self) -> VisualSpec:
        values = {name: getattr(self, name) for name in ("dim", "grid", "fingerprint", "pooled")}
        return VisualSpec(encoder=self.name, **values)

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


class TowerEncoder(ImageEncoder):
    """A Hugging Face vision tower with its image processor."""

    def __init__(
        self,
        tower: PreTrainedModel,
        processor: Any,
        *,
        name: str = "",
        grid: Grid | None = None,
        pooled: bool = False,
        dtype: torch.dtype | None = None,
        device: str | torch.device | None = None,
    ) -> None:
        self.tower = tower.eval().requires_grad_(False).to(device or "cpu")
        self.processor, self.name, self.pooled, self.dtype = processor, name, pooled, dtype or torch.float32
        self.own_pool = pooled and tower.config.model_type in _TRAINED_POOL
        self.native, self.dim = self._probe()
        self.grid = wanted_grid(grid, self.native, pooled, name)
        self.fingerprint = self._fingerprint()

    @torch.no_grad()
    def _probe(self) -> tuple[tuple[int, int], int]:
        from PIL import Image

        states = self._states(self._prepared([Image.new("RGB", (64, 64))]))
        return (states.shape[2], states.shape[3]), states.shape[1]

    def _prepared(self, images: Sequence[Image]) -> Float[Tensor, "N 3 height width"]:
        return self.processor(images=list(images), return_tensors="pt")["pixel_values"]

    def _outputs(self, pixels: Tensor) -> Any:
        device = self.tower.device
        with torch.autocast(device.type, dtype=torch.bfloat16, enabled=self.dtype == torch.bfloat16):
            return self.tower(pixel_values=pixels.to(device))

    def _states(self, pixels: Tensor) -> Float[Tensor, "N Dv h w"]:
        states = self._outputs(pixels).last_hidden_state
        if states.dim() == 4:
            return states
        patch = _pair(self.tower.config.patch_size)
        rows, columns = pixels.shape[2] // patch[0], pixels.shape[3] // patch[1]
        special = states.shape[1] - rows * columns
        if special < 0:
            raise UserError(
                f"Image encoder {self.name!r} gives {states.shape[1]} tokens for {rows} x {columns} patches: "
                "this family of towers is not known. CLIP, SigLIP, DINOv2, ViT, ConvNeXt and ResNet are."
            )
        return states[:, special:].transpose(1, 2).unflatten(2, (rows, columns))

    def _encode(self, images: Sequence[Image]) -> Float[Tensor, "N G Dv"]:
        pixels = self._prepared(images)
        if self.own_pool:
            return self._outputs(pixels).pooler_output.unsqueeze(1)
        return to_grid(self._states(pixels).float(), self.grid)

    def _fingerprint(self) -> str:
        config = {k: v for k, v in self.tower.config.to_dict().items() if k not in _PASSING}
        how = [self.grid, self.pooled, str(self.dtype)]
        return fingerprint([config, _plain(self.processor.to_dict()), how], self.tower.state_dict())


def fingerprint(plain: Any, tensors: dict[str, Tensor]) -> str:
    """SHA-256 of plain data and of every value of some tensors."""
    digest = hashlib.sha256(json.dumps(plain, sort_keys=True, default=str).encode())
    for name, tensor in sorted(tensors.items()):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        digest.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def _plain(settings: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in settings.items() if key not in ("transformers_version", "_processor_class")}


def _pair(size: int | Sequence[int]) -> tuple[int, int]:
    rows, columns = (size, size) if isinstance(size, int) else size
    return rows, columns


def wanted_grid(grid: Grid | None, native: tuple[int, int], pooled: bool, name: str) -> tuple[int, int]:
    """The grid that was asked for, checked against the tower's own."""
    if pooled:
        if grid is not None and _pair(grid) != (1, 1):
            raise UserError(f"Image encoder {name!r}: pooled features have one cell, got grid={grid}: leave it out.")
        return (1, 1)
    wanted = native if grid is None else _pair(grid)
    if min(wanted) < 1 or wanted[0] > native[0] or wanted[1] > native[1]:
        raise UserError(
            f"Image encoder {name!r} has {native[0]} x {native[1]} cells: expected a grid of at most that many, got "
            f"{wanted[0]} x {wanted[1]}."
        )
    return wanted


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
    if str(name) == EMBEDDED:
        from hyperpelt.vision.filters import FilterEncoder

        return FilterEncoder(**options)
    if dtype not in (None, torch.float32, torch.bfloat16):
        raise UserError(f"Image encoder {str(name)!r}: expected dtype float32 or bfloat16, got {dtype}.")
    if str(name) == "efficientnet-lite0":
        from hyperpelt.vision.efficientnet import EfficientNetEncoder

        return EfficientNetEncoder(dtype=dtype, **options)
    tower, processor = _load(str(name))
    return TowerEncoder(tower, processor, name=str(name), dtype=dtype, **options)


def _load(name: str) -> tuple[PreTrainedModel, Any]:
    from transformers import AutoConfig, AutoImageProcessor

    what = f"Image encoder {name!r}"
    try:
        config = AutoConfig.from_pretrained(name)
        tower, report = _tower_class(config).from_pretrained(name, output_loading_info=True)
    except (OSError, ValueError) as error:
        raise UserError(
            f"{what} cannot be loaded: expected 'mini-vision', 'efficientnet-lite0', a folder, or a hub id that can be "
            f"reached ({error})."
        ) from None
    missing = [key for key in report["missing_keys"] if "pooler" not in key]
    if missing:
        raise UserError(f"{what} lacks {len(missing)} weights, such as {sorted(missing)[0]!r}: its files are damaged.")
    try:
        return tower, AutoImageProcessor.from_pretrained(name, backend="pil")
    except (OSError, ValueError) as error:
        raise UserError(
            f"{what} has no image processor: expected a preprocessor_config.json beside its config.json ({error})."
        ) from None


def _tower_class(config: PretrainedConfig) -> type[nn.Module]:
    """The class that loads the vision tower alone, also out of a two-tower checkpoint."""
    import transformers

    own = getattr(config, "vision_config", None)
    model_type = config.model_type if own is None else own.model_type
    names = {"clip_vision_model": "CLIPVisionModel", "siglip_vision_model": "SiglipVisionModel"}
    return getattr(transformers, names[model_type]) if model_type in names else transformers.AutoModel
