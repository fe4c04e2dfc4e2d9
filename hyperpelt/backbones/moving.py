"""A model moved to a device or a dtype."""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    import torch
    from torch import nn

Model = TypeVar("Model", bound="nn.Module")


def moved(model: Model, to: torch.device | torch.dtype | str | None) -> Model:
    """`model.to(to)`, typed: transformers wraps the method so that checkers take its argument for the model."""
    return model.to(to)
