"""The eye of a model: what sees images for it, with its own image encoder."""

from __future__ import annotations

from pathlib import Path

from hyperpelt.data.seeing import Eye, Remembered
from hyperpelt.model.tuned import TunedModel
from hyperpelt.vision.base import ImageEncoder
from hyperpelt.vision.store import FeatureStore


def eye_of(
    model: TunedModel,
    *,
    features_dir: str | Path | None = None,
    max_bytes: int | None = None,
    keep: bool = True,
    on_bad_image: str = "error",
    allow_urls: bool = False,
) -> Eye | None:
    """An eye for a model, with its own image encoder; None if its method reads no images.

    features_dir: of the feature store (default: its own). max_bytes: its upper size from now on (None: as it was told
    last; 0: none); nothing that this eye has seen makes room. keep: False keeps features in memory alone.
    """
    if model.visual is None:
        return None

    def encoder() -> ImageEncoder:
        return model.image_encoder(device=model.device)

    if not model.visual.encoder:
        encoder()  # says what is missing
    store = FeatureStore(features_dir, model.visual, max_bytes=max_bytes, hold=True) if keep else Remembered()
    return Eye(store, encoder, on_bad_image=on_bad_image, allow_urls=allow_urls)
