"""HyperPELT with images (Zhang et al. 2022, arXiv 2203.03878). See docs/vision.md.

    vl-hyperpelt = hyperpelt, and for each image of a row: prefix @ attention, parallel adapter @ feed_forward
                   x visual hypernetwork

The paper fixes: a 7 x 7 grid of a frozen encoder's features, a trained linear map, and a second, separate set of
hypernetworks for prefixes (one row a cell) and parallel adapters, joined to the task's own. Shapes that it leaves open
are those of `hyperpelt`.

T5-base, 8 tasks, CLIP-ResNet's 49 cells of 2048: see docs/methods.md. Identity: without images (`visual=None`) its text
part; visual prefix off and fresh adapters: bit-equal to it. Reference: float64 transcription.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from hyperpelt.methods.base import Method, Part, Source
from hyperpelt.methods.hyperpelt import hyperpelt
from hyperpelt.methods.registry import method
from hyperpelt.tuners import Adapter, Prefix
from hyperpelt.weights.hyper_config import Head
from hyperpelt.weights.visual_config import VisualHyperConfig


@method(
    "vl-hyperpelt",
    paper="HyperPELT, arXiv 2203.03878",
    family="images",
    equations="figure 1; docs/vision.md",
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
    """HyperPELT with images; **feature_dim**, **cells**: of an image; **max_images**: of a row; text as in `hyperpelt`.

    - **visual_bottleneck**, **visual_prefix_hidden**: widths of the visual adapter and of its prefix's heads
    - **visual_prefix**: whether images bring prefix rows
    """
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
