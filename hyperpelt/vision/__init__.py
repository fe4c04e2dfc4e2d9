"""Images: frozen encoders, and the store that keeps their features on disk.

    encoder = load_image_encoder("openai/clip-vit-base-patch32", grid=7)    or "mini-vision", which needs no download
    encoder.encode(pictures)                                                [N, G, Dv]: G grid cells a picture
    FeatureStore(folder, encoder).features(pictures)                        the same, computed once a picture

What a model does with features is told in docs/vision.md.
"""

from __future__ import annotations

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
