"""VL-Adapter's best setting (Sung, Cho & Bansal 2022, arXiv 2112.06825). See docs/vision.md.

    vl-adapter = sequential adapter @ attention, feed_forward x shared by all tasks (sharing "all"), half shared ("up",
                 "down") or per task ("none"); norms; tokens after the embedded input x projector

T5-base, 8 tasks, 36 cells of 2048: see docs/methods.md. Identity: without images its text part. Reference: float64
transcription.
"""

from __future__ import annotations

from hyperpelt.errors import unknown
from hyperpelt.methods.base import Method, Part, Source
from hyperpelt.methods.baselines import trained_norms
from hyperpelt.methods.registry import method
from hyperpelt.tuners import Adapter, Prompt
from hyperpelt.weights.visual_config import ProjectorConfig

SHARED_TENSORS = {
    "all": "shared",
    "up": {"up": "shared", "default": "per_task"},
    "down": {"down": "shared", "default": "per_task"},
    "none": "per_task",
}


@method(
    "vl-adapter",
    paper="VL-Adapter, arXiv 2112.06825",
    family="images",
    equations="its code",
    reference="transcription",
)
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
    """VL-Adapter; **sharing**: by all tasks, of `all` tensors, the `up` or `down` projections, or `none`.

    - **feature_dim**, **cells**: of an image; **max_images**: of a row

    Raises UserError for another sharing.
    """
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
