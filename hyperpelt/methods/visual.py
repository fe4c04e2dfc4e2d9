"""Images beside any method of text: a frozen T5 or BART reads what a projector makes of their features.

    visual-tokens = another method, and tokens after the embedded input x projector     VL-Adapter (arXiv 2112.06825)
    memvp         = another method or none, and memory @ feed_forward x projector       MemVP (2405.05615)

See docs/vision.md, and `vl_hyperpelt` and `vl_adapter` for methods that are about images as a whole.

T5-base, 8 tasks, CLIP-ResNet's 49 cells of 2048: see docs/methods.md. Identity: without images (`visual=None`) exactly
the other method, and so with scale 0 (memvp). Reference: float64 transcriptions.
"""

from __future__ import annotations

from typing import Any

from hyperpelt.errors import UserError
from hyperpelt.methods.base import Method, Part, Source
from hyperpelt.methods.registry import get, method
from hyperpelt.tuners import Memory, Prompt
from hyperpelt.weights.visual_config import ProjectorConfig


def _beside(
    name: str | dict[str, Any], part: Part, config: ProjectorConfig
) -> tuple[tuple[Part, ...], dict[str, Source]]:
    """The parts and sources of a text method (a name, or a name with settings) with a visual part more."""
    text = get(name) if name else Method(name="", parts=())
    if text.unfreeze or any(text.source(name).visual is not None for other in text.parts for name in other.sources):
        raise UserError(f"`beside` must name a text-only method that keeps the backbone frozen, got {name!r}.")
    return (*text.parts, part), {**text.sources, "projector": Source(type="visual_projector", visual=config)}


@method(
    "visual-tokens",
    paper="VL-Adapter, arXiv 2112.06825",
    family="images",
    equations="its code",
    reference="transcription",
)
def visual_tokens(
    *,
    beside: str | dict[str, Any] = "hyperpelt",
    hidden: int = 0,
    feature_dim: int = 2048,
    cells: int = 49,
    max_images: int = 2,
) -> Method:
    """Visual tokens; **beside**: the text's method; **feature_dim**, **cells**: of an image; **hidden**: 0: linear."""
    config = ProjectorConfig(feature_dim=feature_dim, cells=cells, max_images=max_images, hidden=hidden, normalise=True)
    part = Part(name="visual_tokens", tuner=Prompt(length=cells), at=("encoder.embedding",), source="projector")
    parts, sources = _beside(beside, part, config)
    return Method(name="visual-tokens", parts=parts, sources=sources)


@method("memvp", paper="MemVP, arXiv 2405.05615", family="images", equations="its code", reference="transcription")
def memvp(
    *,
    beside: str | dict[str, Any] = "",
    hidden: int = 128,
    activation: str = "relu",
    scale: float = 0.1,
    projector_scale: float = 0.01,
    feature_dim: int = 1024,
    cells: int = 256,
    max_images: int = 2,
) -> Method:
    """MemVP; **beside**: the text's method, if any; **scale**: of what memory adds; rest as in `visual_tokens`."""
    config = ProjectorConfig(
        feature_dim=feature_dim, cells=cells, max_images=max_images, hidden=hidden, scale=projector_scale
    )
    memory = Memory(length=cells, activation=activation, scale=scale)
    part = Part(name="visual_memory", tuner=memory, at=("feed_forward",), source="projector")
    parts, sources = _beside(beside, part, config)
    return Method(name="memvp", parts=parts, sources=sources)
