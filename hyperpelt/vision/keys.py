"""The content key of an image: SHA-256 of its encoded bytes, or of its pixels where it is decoded already."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from PIL.Image import Image

    ImageSource = bytes | str | Path | Image

ORIENTATION = 0x0112  # the EXIF tag


def content_key(source: ImageSource) -> str:
    """64 hexadecimal digits; files and bytes are not decoded.

    - **source**: encoded bytes, the path of a file, or a Pillow image (its mode, size, palette, EXIF orientation and
      pixels count)
    """
    if isinstance(source, bytes | bytearray | memoryview):
        return hashlib.sha256(source).hexdigest()
    if isinstance(source, str | Path):
        with Path(source).open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    head = (source.mode, source.size, source.getpalette(), source.getexif().get(ORIENTATION, 1))
    digest = hashlib.sha256(repr(head).encode())
    digest.update(source.tobytes())
    return digest.hexdigest()
