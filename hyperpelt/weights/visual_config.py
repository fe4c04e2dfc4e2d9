"""Settings of the visual weight sources. See `visual`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any, ClassVar

from hyperpelt.config.setting_types import check_at_least, check_settings
from hyperpelt.errors import unknown
from hyperpelt.weights.hyper_config import HyperNetworkConfig, check_undescribed


@dataclass(frozen=True, kw_only=True)
class VisualConfig:
    """What both visual sources read.

    - **feature_dim** Dv and **cells** G of the features (the last map of CLIP-ResNet, 7 x 7 cells of 2048, is what
      HyperPELT read); `TunedModel.build(image_encoder=...)` fits them to an encoder
    - **max_images** a row: each place in their order has an embedding of its own
    """

    type_name: ClassVar[str]
    feature_dim: int = 2048
    cells: int = 49
    max_images: int = 2

    def __post_init__(self) -> None:
        widths = {name: getattr(self, name) for name in ("feature_dim", "cells", "max_images")}
        check_at_least(1, f"weight source {self.type_name!r}", **widths)

    def to_dict(self) -> dict[str, Any]:
        return {f.name: getattr(self, f.name) for f in fields(self)}

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> VisualConfig:
        """From plain data; a misspelt key is a UserError that names the nearest."""
        return cls(**check_settings(f"weight source {cls.type_name!r}", data, cls))


@dataclass(frozen=True, kw_only=True)
class VisualHyperConfig(VisualConfig):
    """Settings of `visual_hypernetwork`. **network**: as those of a hypernetwork; its `task` is the image here."""

    type_name: ClassVar[str] = "visual_hypernetwork"
    network: HyperNetworkConfig = field(default_factory=HyperNetworkConfig)

    def __post_init__(self) -> None:
        super().__post_init__()
        check_undescribed(self.type_name, self.network)
        if "task" not in self.network.reads:
            raise unknown("set of embeddings a visual hypernetwork reads", str(self.network.reads), ["task", "layer"])

    def to_dict(self) -> dict[str, Any]:
        return {**super().to_dict(), "network": self.network.to_dict()}

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> VisualHyperConfig:
        values = dict(data)
        network = values.pop("network", {})
        network = network if isinstance(network, HyperNetworkConfig) else HyperNetworkConfig.from_dict(network)
        return cls(**check_settings(f"weight source {cls.type_name!r}", values, cls), network=network)


@dataclass(frozen=True, kw_only=True)
class ProjectorConfig(VisualConfig):
    """Settings of `visual_projector`.

    - **hidden**: width of a silu layer between two linear maps; 0: one linear map
    - **normalise**: a layer norm after the map (VL-Adapter)
    - **scale** of what the map gives (MemVP: 0.01)
    """

    type_name: ClassVar[str] = "visual_projector"
    hidden: int = 0
    normalise: bool = False
    scale: float = 1.0

    def __post_init__(self) -> None:
        super().__post_init__()
        check_at_least(0, f"weight source {self.type_name!r}", hidden=self.hidden)


VISUAL_SOURCES: dict[str, type[VisualConfig]] = {c.type_name: c for c in (VisualHyperConfig, ProjectorConfig)}
