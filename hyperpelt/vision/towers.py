"""Hugging Face vision towers as image encoders.

A tower's last hidden states are its cells: patch tokens (CLIP, SigLIP, DINOv2, ViT; class and register tokens are left
out), or the last feature map (ConvNeXt, ResNet). They are pooled to the wanted grid by adaptive averaging. Pictures
are prepared by the tower's own image processor, as its `preprocessor_config.json` says, with Pillow.

Legend: N images, G cells, Dv width of a feature, h x w the tower's own grid.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import Float
from safetensors import SafetensorError
from torch import Tensor

from hyperpelt.backbones.moving import moved
from hyperpelt.errors import UserError
from hyperpelt.files.damage import find_damage
from hyperpelt.vision.base import ImageEncoder, fingerprint, pair, to_grid, wanted_grid

if TYPE_CHECKING:
    from PIL.Image import Image
    from transformers import PretrainedConfig, PreTrainedModel

    from hyperpelt.vision.base import Grid

# Settings that say where a model came from or how it is run, not what it computes.
_PASSING = ("_name_or_path", "transformers_version", "dtype", "torch_dtype", "architectures", "_attn_implementation")
# Families whose pooled output is trained with the tower; that of others (ViT, ResNet) is a mean or a fresh layer.
_TRAINED_POOL = ("clip_vision_model", "siglip_vision_model")


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
        self.tower = moved(tower.eval().requires_grad_(False), device or "cpu")
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
        patch = pair(self.tower.config.patch_size)
        rows, columns = pixels.shape[2] // patch[0], pixels.shape[3] // patch[1]
        special = states.shape[1] - rows * columns
        if special < 0:
            raise UserError(
                f"Image encoder {self.name!r} gives {states.shape[1]} tokens for {rows} x {columns} patches: "
                "this family of towers is not supported. CLIP, SigLIP, DINOv2, ViT, ConvNeXt and ResNet are."
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


def _plain(settings: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in settings.items() if key not in ("transformers_version", "_processor_class")}


def load_tower(name: str) -> tuple[PreTrainedModel, Any]:
    """The vision tower of a folder or hub id, and its image processor.

    Raises:
        UserError: it cannot be loaded, lacks weights, or has no image processor.
    """
    from transformers import AutoConfig, AutoImageProcessor

    what = f"Image encoder {name!r}"
    try:
        config = AutoConfig.from_pretrained(name, trust_remote_code=False)
        tower, report = _tower_class(config).from_pretrained(name, output_loading_info=True, trust_remote_code=False)
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RuntimeError, SafetensorError) as error:
        raise UserError(
            f"{what} cannot be loaded: expected 'mini-vision', 'efficientnet-lite0', a folder, or a hub id that can be "
            f"reached ({find_damage(name) or error})."
        ) from None
    missing = [key for key in report["missing_keys"] if "pooler" not in key]
    if missing:
        raise UserError(f"{what} lacks {len(missing)} weights, such as {sorted(missing)[0]!r}: its files are damaged.")
    try:
        return tower, AutoImageProcessor.from_pretrained(name, backend="pil", trust_remote_code=False)
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise UserError(
            f"{what} has no image processor: expected a preprocessor_config.json beside its config.json "
            f"({find_damage(name) or error})."
        ) from None


def _tower_class(config: PretrainedConfig) -> Any:
    """The class that loads the vision tower alone, also out of a two-tower checkpoint."""
    import transformers

    own = getattr(config, "vision_config", None)
    model_type = config.model_type if own is None else own.model_type
    names = {"clip_vision_model": "CLIPVisionModel", "siglip_vision_model": "SiglipVisionModel"}
    return getattr(transformers, names[model_type]) if model_type in names else transformers.AutoModel
