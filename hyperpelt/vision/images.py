"""Images as users hand them over, made safe: any of them in, an RGB picture or one sentence out.

    load_image("photo.jpg").size, content_hash(b"...")

An `Example.images` entry is a PIL image, encoded bytes, a path, or what `datasets` gives for an undecoded image
column (`{"bytes": ..., "path": ...}`). An address (http, https) is refused unless `allow_urls` is given: data that a
task reads must not decide which machines are asked.

What becomes of the kinds that trip others up: rotation by EXIF is applied; of an animation the first frame is taken, of
a PIL image the frame that it stands at; transparency is laid over white; grey, palette, CMYK and the like are
converted; 16 bits a channel are scaled to 8 (never by the picture's own maximum, so dark stays dark). Refused, by name:
what is no picture, an unreadable or truncated file, an empty one, a picture without pixels, one of more than
`MAX_PIXELS` or with a side of more than `MAX_RATIO` times the other, and 32-bit pixels, whose range nobody states.
"""

from __future__ import annotations

import io
import warnings
from collections.abc import Mapping
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hyperpelt.errors import UserError
from hyperpelt.files.reading import read_bytes as read_bytes_of

if TYPE_CHECKING:
    from PIL.Image import Image

MAX_PIXELS = 64_000_000  # a 64-megapixel photograph; 192 MB once decoded
MAX_RATIO = 200  # of the sides: encoders enlarge the shorter one to theirs, and the longer one with it
MAX_BYTES = 128 << 20  # of a file
# Raster formats that decode in this process. PIL would also start Ghostscript for an EPS file.
FORMATS = ("PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF", "PPM", "ICO", "JPEG2000", "AVIF")
URLS = ("http://", "https://")
ORIENTATION = 0x0112  # the EXIF tag
TIMEOUT = 30.0  # seconds to wait for an address


class BadImage(UserError):
    """An image that cannot be used; `on_bad_image: skip` goes on without it."""


def load_image(image: Any, *, allow_urls: bool = False, max_pixels: int = MAX_PIXELS) -> Image:
    """The picture in RGB, upright, 8 bits a channel; a new object, the input is not changed.

    Raises:
        BadImage: it cannot be decoded, is empty or too large; the message says which, not where.
        UserError: an address, and `allow_urls` is off.
    """
    from PIL import Image as pil

    content = source_of(image, allow_urls=allow_urls)
    if isinstance(content, pil.Image):
        return _decoded(lambda: content, max_pixels)
    if not content:
        raise BadImage("the image is empty (0 bytes)")
    return _decoded(lambda: pil.open(io.BytesIO(content), formats=_formats()), max_pixels)


def content_hash(image: Any, *, allow_urls: bool = False) -> str:
    """64 hexadecimal digits that name an image by its content: the SHA-256 of its encoded bytes.

    A file, its bytes and its column entry have one hash, and nothing is decoded for it. Of a PIL image its mode, size,
    palette, transparency, rotation and pixels count. Raises as `load_image` does.
    """
    source = source_of(image, allow_urls=allow_urls)
    return sha256(source).hexdigest() if isinstance(source, bytes) else _hash_of_pixels(source)


def source_of(image: Any, *, allow_urls: bool = False) -> bytes | Image:
    """The image as encoded bytes, or the PIL image that it is. Raises as `load_image`."""
    from PIL import Image as pil

    return image if isinstance(image, pil.Image) else read_bytes(image, allow_urls=allow_urls)


def _hash_of_pixels(picture: Image) -> str:
    try:
        pixels = picture.tobytes()  # of a damaged file, this is where it shows
        head = (picture.mode, picture.size, picture.getpalette(), _orientation(picture))
        if "transparency" in picture.info:
            head += (picture.info["transparency"],)
    except Exception as problem:
        raise BadImage(f"the image is corrupt or truncated ({problem})") from None
    return sha256(repr(head).encode() + pixels).hexdigest()


def _orientation(picture: Image) -> Any:
    """As EXIF has it; 1, upright, where that is damaged, which harms no pixel."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            return picture.getexif().get(ORIENTATION, 1)
        except Exception:  # PIL has types of its own for each way to be damaged
            return 1


def read_bytes(image: Any, *, allow_urls: bool = False) -> bytes:
    """The encoded image: bytes themselves, or those of a file or an address."""
    if isinstance(image, Mapping) and {"bytes", "path"} >= set(image):
        image = image.get("bytes") if image.get("bytes") is not None else image.get("path")
    if isinstance(image, bytes | bytearray | memoryview):
        return bytes(image)
    if isinstance(image, str) and image.lower().startswith(URLS):
        return _fetch(image, allow_urls)
    if isinstance(image, str | Path) and str(image):
        return _read(Path(image).expanduser())
    raise BadImage(f"expected a PIL image, bytes or a path, got {_named(image)}")


def file_of(image: Any) -> Path | None:
    """The file that an image is read from; None for one that brings its content, or is an address."""
    if isinstance(image, Mapping):
        image = image.get("path") if image.get("bytes") is None else None
    elif hasattr(image, "getpalette"):
        image = getattr(image, "filename", None)
    if not isinstance(image, str | Path) or not str(image) or str(image).lower().startswith(URLS):
        return None
    return Path(image).expanduser().absolute()


def _formats() -> list[str]:
    """Those of `FORMATS` that this build of PIL knows."""
    from PIL import Image as pil

    pil.init()
    return [name for name in FORMATS if name in pil.OPEN]


def _named(image: Any) -> str:
    return "nothing (None)" if image is None else "an empty path" if image == "" else type(image).__name__


def _read(path: Path) -> bytes:
    try:
        return read_bytes_of(path, largest=MAX_BYTES)
    except (OSError, UserError) as problem:
        raise BadImage(f"cannot read the image {path}: {getattr(problem, 'strerror', None) or problem}") from None


def _fetch(url: str, allowed: bool) -> bytes:
    from urllib.error import URLError
    from urllib.request import Request, urlopen

    if not allowed:
        raise UserError(
            f"the image is a URL ({url[:100]}), and URLs are only fetched if allowed (--allow-urls, "
            "allow_urls=True): allow it, or download it and give its path"
        )
    try:
        with urlopen(Request(url, headers={"User-Agent": "hyperpelt"}), timeout=TIMEOUT) as answer:
            content = answer.read(MAX_BYTES + 1)
    except (URLError, OSError, ValueError) as problem:
        raise BadImage(f"cannot fetch the image {url[:100]}: {getattr(problem, 'reason', problem)}") from None
    if len(content) > MAX_BYTES:
        raise BadImage(f"the image {url[:100]} has more than {MAX_BYTES >> 20} MiB")
    return content


def _decoded(opened: Any, max_pixels: int) -> Image:
    """Decode whatever `opened()` gives. PIL raises some ten types for a damaged file, so all of them are caught."""
    from PIL import Image as pil
    from PIL import ImageOps

    try:
        with warnings.catch_warnings():
            # PIL warns between its limit and twice that, and about odd but readable files; ours is the limit below.
            warnings.simplefilter("ignore")
            picture = opened()
            _check_size(picture, max_pixels)
            picture.load()
            return _rgb(picture if _orientation(picture) == 1 else ImageOps.exif_transpose(picture))
    except BadImage:
        raise
    except pil.DecompressionBombError:
        raise BadImage(f"the image has more pixels than the {max_pixels:,} decoded at most") from None
    except pil.UnidentifiedImageError:
        raise BadImage("these bytes are no image that can be read (PNG, JPEG, WebP, GIF, BMP, TIFF, ...)") from None
    except Exception as problem:
        first = (str(problem).strip().splitlines() or [type(problem).__name__])[0]
        raise BadImage(f"the image is corrupt or truncated ({first})") from None


def _check_size(picture: Image, max_pixels: int) -> None:
    width, height = picture.size
    if width * height == 0:
        raise BadImage(f"the image has no pixels ({width} x {height})")
    if width * height > max_pixels:
        raise BadImage(f"the image has {width} x {height} pixels, more than the {max_pixels:,} decoded at most")
    if max(width, height) > MAX_RATIO * min(width, height):
        raise BadImage(f"the image has {width} x {height} pixels: one side is over {MAX_RATIO} times the other")


def _rgb(picture: Image) -> Image:
    if picture.mode.startswith("I") or picture.mode == "F":
        return _from_deep(picture)
    if picture.mode in ("RGBA", "LA", "PA", "La", "RGBa") or "transparency" in picture.info:
        return _over_white(picture.convert("RGBA"))
    return picture.convert("RGB") if picture.mode != "RGB" else picture.copy()


def _over_white(picture: Image) -> Image:
    from PIL import Image as pil

    return pil.alpha_composite(pil.new("RGBA", picture.size, "white"), picture).convert("RGB")


def _from_deep(picture: Image) -> Image:
    """Pixels of 16 bits as 8: 65535 is white. Mode I holds 16-bit files too, and 32-bit ones, which are refused."""
    import numpy as np
    from PIL import Image as pil

    values = np.asarray(picture)
    if picture.mode == "F" or values.min() < 0 or values.max() > 65535:
        raise BadImage(f"the image has 32-bit pixels (mode {picture.mode}) of unknown range: save it with 8 or 16 bits")
    grey = (values.astype(np.int64) * 255 + 32767) // 65535
    return pil.fromarray(grey.astype(np.uint8)).convert("RGB")
