"""Methods that see: image features enter a text-only frozen T5 or BART. See docs/vision.md.

    vl-hyperpelt  = hyperpelt, and for each image of a row: prefix @ attention, parallel adapter @ feed_forward
                    x visual hypernetwork                               HyperPELT (arXiv 2203.03878)
    visual-tokens = another method, and tokens after the embedded input x projector     VL-Adapter (2112.06825)
    memvp         = another method or none, and memory @ feed_forward x projector       MemVP (2405.05615)
    vl-adapter    = sequential adapter @ attention, feed_forward x shared by all tasks  VL-Adapter's best setting
                    (sharing "all"), half shared ("up", "down") or per task ("none"); norms; visual tokens

The paper of HyperPELT fixes: a 7 x 7 grid of a frozen encoder's features, a trained linear map, and a second, separate
set of hypernetworks for prefixes (one row a cell) and parallel adapters, joined to the task's own. Shapes that it
leaves open are those of `hyperpelt`. Without images (`visual=None`) each is exactly its text part.

T5-base, 8 tasks, CLIP-ResNet's 49 cells of 2048: see docs/methods.md. Identity: visual prefix off and fresh adapters
(vl-hyperpelt), scale 0 (memvp): bit-equal to the text part. Reference: float64 transcriptions.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from hyperpelt.errors import UserError, unknown
from hyperpelt.methods.base import Method, Part, Source
from hyperpelt.methods.baselines import trained_norms
from hyperpelt.methods.hyperpelt import hyperpelt
from hyperpelt.methods.registry import get, method
from hyperpelt.tuners import Adapter, Memory, Prefix, Prompt
from hyperpelt.weights.hyper_config import Head
from hyperpelt.weights.visual_config import ProjectorConfig, VisualHyperConfig

SHARED_TENSORS = {
    "all": "shared",
    "up": {"up": "shared", "default": "per_task"},
    "down": {"down": "shared", "default": "per_task"},
    "none": "per_task",
}


@method(
    "vl-hyperpelt",
    paper="HyperPELT, arXiv 2203.03878",
    family="images",
    reference="transcription",
    extends=hyperpelt,
)
def vl_hyperpelt(
    *,
    visual_bottleneck: int = 16,
    visual_prefix: bool = True,
    visual_prefix_hidden: int = 512,
    feature_dim: int = 2048,
    cells: int = 49,
    max_images: int = 2,
    **settings: Any,
) -> Method:
    text = hyperpelt(**settings)
    prefix_head = {"visual_prefix": Head(shared="kind", hidden=visual_prefix_hidden)} if visual_prefix else {}
    network = replace(
        text.source("hypernetwork").hypernetwork,
        heads={**prefix_head, "default": Head(shared="all")},
        description_dropout=0.0,  # images have no words
    )
    config = VisualHyperConfig(feature_dim=feature_dim, cells=cells, max_images=max_images, network=network)
    adapter = next(part.tuner for part in text.parts if isinstance(part.tuner, Adapter))
    beside = Part(
        name="visual_adapter",
        tuner=replace(adapter, bottleneck=visual_bottleneck),
        at=("feed_forward",),
        source="visual",
    )
    prefix = Part(name="visual_prefix", tuner=Prefix(length=cells), at=("attention",), source="visual")
    parts = (*text.parts, *([prefix] if visual_prefix else []), beside)
    sources = {**text.sources, "visual": Source(type="visual_hypernetwork", visual=config)}
    return Method(name="vl-hyperpelt", parts=parts, sources=sources)


def _beside(
    name: str | dict[str, Any], part: Part, config: ProjectorConfig
) -> tuple[tuple[Part, ...], dict[str, Source]]:
    """The parts and sources of a text method (a name, or a name with settings) with a visual part more."""
    text = get(name) if name else Method(name="", parts=())
    if text.unfreeze or any(text.source(name).visual is not None for other in text.parts for name in other.sources):
        raise UserError(f"`beside` names a method of text alone that keeps the backbone frozen, not {name!r}.")
    return (*text.parts, part), {**text.sources, "projector": Source(type="visual_projector", visual=config)}


@method("visual-tokens", paper="VL-Adapter, arXiv 2112.06825", family="images", reference="transcription")
def visual_tokens(
    *,
    beside: str | dict[str, Any] = "hyperpelt",
    hidden: int = 0,
    feature_dim: int = 2048,
    cells: int = 49,
    max_images: int = 2,
) -> Method:
    config = ProjectorConfig(feature_dim=feature_dim, cells=cells, max_images=max_images, hidden=hidden, normalise=True)
    part = Part(name="visual_tokens", tuner=Prompt(length=cells), at=("encoder.embedding",), source="projector")
    parts, sources = _beside(beside, part, config)
    return Method(name="visual-tokens", parts=parts, sources=sources)


@method("memvp", paper="MemVP, arXiv 2405.05615", family="images", reference="transcription")
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
    config = ProjectorConfig(
        feature_dim=feature_dim, cells=cells, max_images=max_images, hidden=hidden, scale=projector_scale
    )
    memory = Memory(length=cells, activation=activation, scale=scale)
    part = Part(name="visual_memory", tuner=memory, at=("feed_forward",), source="projector")
    parts, sources = _beside(beside, part, config)
    return Method(name="memvp", parts=parts, sources=sources)


@method("vl-adapter", paper="VL-Adapter, arXiv 2112.06825", family="images", reference="transcription")
def vl_adapter(
    *,
    sharing: str = "all",
    bottleneck: int = 96,
    activation: str = "gelu_new",
    train_norms: bool = True,
    feature_dim: int = 2048,
    cells: int = 36,
    max_images: int = 2,
) -> Method:
    if sharing not in SHARED_TENSORS:
        raise unknown("sharing of vl-adapter", sharing, SHARED_TENSORS)
    adapter = Adapter(bottleneck=bottleneck, reads="output", activation=activation)
    config = ProjectorConfig(feature_dim=feature_dim, cells=cells, max_images=max_images, normalise=True)
    parts = (
        Part(tuner=adapter, at=("attention", "feed_forward"), source=SHARED_TENSORS[sharing]),
        Part(name="visual_tokens", tuner=Prompt(length=cells), at=("encoder.embedding",), source="projector"),
        *trained_norms(train_norms),
    )
    return Method(name="vl-adapter", parts=parts, sources={"projector": Source(type="visual_projector", visual=config)})
