"""Images: frozen encoders, and the store that keeps their features on disk.

    encoder = load_image_encoder("openai/clip-vit-base-patch32", grid=7)    or "mini-vision", which needs no download
    encoder.encode(pictures)                                                [N, G, Dv]: G grid cells a picture
    FeatureStore(folder, encoder).features(pictures)                        the same, computed once a picture

What a model does with features is told in docs/vision.md. Nothing heavy is imported before a name is used.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

_HOME = {
    "FeatureStore": "store",
    "ImageEncoder": "base",
    "VisualSpec": "spec",
    "content_hash": "images",
    "load_image": "images",
    "load_image_encoder": "encoders",
}

__all__ = sorted(_HOME)

if TYPE_CHECKING:
    from hyperpelt.vision.base import ImageEncoder  # noqa: F401
    from hyperpelt.vision.encoders import load_image_encoder  # noqa: F401
    from hyperpelt.vision.images import content_hash, load_image  # noqa: F401
    from hyperpelt.vision.spec import VisualSpec  # noqa: F401
    from hyperpelt.vision.store import FeatureStore  # noqa: F401


def __getattr__(name: str) -> object:
    if name not in _HOME:
        raise AttributeError(f"module 'hyperpelt.vision' has no attribute {name!r}")
    return getattr(import_module(f"hyperpelt.vision.{_HOME[name]}"), name)


def __dir__() -> list[str]:
    return __all__
