"""Images of every kind that PIL can write: handled as promised, or refused by name."""

from __future__ import annotations

import hashlib
import http.server
import io
import os
import threading
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from hyperpelt.errors import UserError
from hyperpelt.vision.images import BadImage, content_hash, file_of, load_image

RED, BLUE = (200, 30, 40), (20, 40, 220)


def encoded(picture: Image.Image, kind: str = "PNG", **options: object) -> bytes:
    stream = io.BytesIO()
    picture.save(stream, kind, **options)
    return stream.getvalue()


def halves() -> Image.Image:
    """8 x 4, red on the left and blue on the right."""
    picture = Image.new("RGB", (8, 4), RED)
    picture.paste(BLUE, (4, 0, 8, 4))
    return picture


def close(picture: Image.Image, colours: dict[tuple[int, int], tuple[int, int, int]], by: int = 12) -> bool:
    """Whether the picture has these colours at these places, give or take `by`."""
    found = [(picture.getpixel(place), colour) for place, colour in colours.items()]
    return all(abs(a - b) <= by for pair in found for a, b in zip(*pair, strict=True))


@pytest.mark.parametrize("kind", ["PNG", "BMP", "TIFF", "WEBP", "GIF", "PPM", "JPEG"])
def test_every_common_format_is_read(kind: str) -> None:
    options = {"lossless": True} if kind == "WEBP" else {"quality": 98, "subsampling": 0} if kind == "JPEG" else {}
    picture = load_image(encoded(halves(), kind, **options))
    assert (picture.mode, picture.size) == ("RGB", (8, 4))
    assert close(picture, {(1, 1): RED, (6, 2): BLUE}, by=40)


def test_bytes_paths_pil_images_and_undecoded_columns_give_the_same_picture(tmp_path: Path) -> None:
    content = encoded(halves())
    path = tmp_path / "picture.png"
    path.write_bytes(content)
    forms = [content, memoryview(content), path, str(path), {"bytes": content, "path": None}]
    forms += [{"bytes": None, "path": str(path)}, Image.open(path), halves()]
    assert {load_image(form).tobytes() for form in forms} == {halves().tobytes()}


@pytest.mark.parametrize("kind", ["PNG", "WEBP", "JPEG"])
def test_damaged_exif_data_harm_no_pixel(kind: str) -> None:
    content = encoded(halves(), kind, exif=b"Exif\0\0no such thing at all")
    assert load_image(content).size == load_image(Image.open(io.BytesIO(content))).size == (8, 4)
    assert len(content_hash(Image.open(io.BytesIO(content)))) == 64


def test_an_image_knows_the_file_that_it_is_read_from(tmp_path: Path) -> None:
    path = tmp_path / "picture.png"
    halves().save(path)
    named = (path, str(path), {"bytes": None, "path": str(path)}, Image.open(path))
    assert {file_of(image) for image in named} == {path}
    content = path.read_bytes()
    none = (
        content,
        {"bytes": content, "path": "x.png"},
        halves(),
        Image.open(io.BytesIO(content)),
        "",
        None,
        "HTTP://x/y",
    )
    assert {file_of(image) for image in none} == {None}


def test_the_hash_names_the_content_not_the_place(tmp_path: Path) -> None:
    content = encoded(halves())
    for name in ("a.png", "b.png"):
        (tmp_path / name).write_bytes(content)
    hashes = {content_hash(form) for form in (content, tmp_path / "a.png", str(tmp_path / "b.png"), {"bytes": content})}
    assert len(hashes) == 1
    assert hashes == {hashlib.sha256(content).hexdigest()}
    assert content_hash(halves()) == content_hash(halves().copy())
    mirrored = halves().transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    assert content_hash(halves()) != content_hash(mirrored)
    # The same bytes in another shape are another picture.
    assert content_hash(Image.new("RGB", (2, 8))) != content_hash(Image.new("RGB", (8, 2)))


def test_a_rotated_photograph_stands_upright() -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned by 90 degrees clockwise
    picture = load_image(encoded(halves(), "JPEG", exif=exif, quality=98, subsampling=0))
    assert picture.size == (4, 8)
    assert close(picture, {(2, 1): RED, (2, 6): BLUE}, by=40)


def test_of_an_animation_the_first_frame_is_taken() -> None:
    frames = [Image.new("RGB", (6, 5), colour) for colour in (RED, BLUE, (0, 255, 0))]
    for kind in ("GIF", "WEBP", "PNG"):
        content = encoded(frames[0], kind, save_all=True, append_images=frames[1:], duration=50)
        picture = load_image(content)
        assert picture.size == (6, 5)
        assert close(picture, {(3, 3): RED}), kind
        moved_on = Image.open(io.BytesIO(content))
        moved_on.seek(1)
        assert close(load_image(moved_on), {(3, 3): BLUE}), kind  # an image object is the frame that it stands at
        assert moved_on.tell() == 1
        assert content_hash(moved_on) != content_hash(Image.open(io.BytesIO(content)))


def test_transparency_is_laid_over_white() -> None:
    clear = Image.new("RGBA", (4, 4), (0, 0, 0, 0))
    clear.paste((*RED, 255), (0, 0, 2, 4))
    half = Image.new("LA", (4, 4), (0, 128))
    palette = Image.new("P", (4, 4), 0)
    palette.putpalette([*BLUE, *RED])
    palette.paste(1, (0, 0, 2, 4))
    for content in (encoded(clear), encoded(clear, "WEBP", lossless=True), encoded(palette, transparency=0)):
        picture = load_image(content)
        assert close(picture, {(0, 0): RED, (3, 3): (255, 255, 255)}, by=1)
    assert close(load_image(encoded(half)), {(1, 1): (127, 127, 127)}, by=1)
    key = Image.new("RGB", (2, 2), BLUE)
    assert load_image(encoded(key, transparency=BLUE)).getpixel((0, 0)) == (255, 255, 255)


def test_a_palette_with_a_clear_colour_is_another_content() -> None:
    palette = Image.new("P", (4, 4), 0)
    palette.putpalette([*BLUE, *RED])
    shown = content_hash(palette)
    palette.info["transparency"] = 0
    assert content_hash(palette) != shown


def test_a_strip_that_an_encoder_would_enlarge_without_end_is_refused() -> None:
    with pytest.raises(BadImage, match="one side is over 200 times the other"):
        load_image(Image.new("RGB", (4001, 20)))
    assert load_image(Image.new("RGB", (20, 4000))).size == (20, 4000)


def test_grey_bilevel_palette_and_cmyk_become_rgb() -> None:
    assert load_image(encoded(Image.new("L", (3, 3), 77))).getpixel((1, 1)) == (77, 77, 77)
    assert load_image(encoded(Image.new("1", (3, 3), 1))).getpixel((1, 1)) == (255, 255, 255)
    assert close(load_image(encoded(halves().quantize(16))), {(1, 1): RED}, by=30)
    cmyk = Image.new("CMYK", (8, 8), (0, 255, 255, 0))  # magenta and yellow: red
    for kind in ("JPEG", "TIFF"):
        assert close(load_image(encoded(cmyk, kind)), {(4, 4): (255, 0, 0)}, by=16), kind


def test_sixteen_bits_are_scaled_by_their_range_and_not_by_their_maximum() -> None:
    shades = np.array([[0, 257, 128 * 257, 65535]], dtype=np.uint16)
    for picture in (Image.fromarray(shades), Image.fromarray(shades.astype(np.int32))):
        for kind in ("PNG", "TIFF"):
            if picture.mode != "I" or kind == "TIFF":
                found = load_image(encoded(picture, kind))
                assert [found.getpixel((x, 0))[0] for x in range(4)] == [0, 1, 128, 255], (picture.mode, kind)
    dark = Image.fromarray(np.full((2, 2), 200, dtype=np.uint16))
    assert load_image(encoded(dark)).getpixel((0, 0)) == (1, 1, 1)


def test_thirty_two_bit_pixels_are_refused() -> None:
    deep = Image.fromarray(np.array([[0, 1 << 20]], dtype=np.int32))
    floating = Image.fromarray(np.array([[0.0, 0.5]], dtype=np.float32))
    for picture in (deep, floating):
        with pytest.raises(BadImage, match="32-bit pixels"):
            load_image(encoded(picture, "TIFF"))


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "GIF", "WEBP", "BMP", "TIFF"])
def test_a_truncated_file_is_refused(kind: str) -> None:
    noise = np.random.default_rng(0).integers(0, 255, (64, 64, 3), dtype=np.uint8)
    whole = encoded(Image.fromarray(noise), kind)
    assert load_image(whole).size == (64, 64)
    for share in (0.9, 0.5, 0.1):
        with pytest.raises(BadImage):
            load_image(whole[: int(len(whole) * share)])


def test_damaged_bytes_are_refused_or_read_but_never_crash() -> None:
    """Flipped bytes anywhere in a file end in a picture or in BadImage."""
    random = np.random.default_rng(1)
    for kind in ("PNG", "JPEG", "GIF", "WEBP", "TIFF", "BMP", "PPM", "ICO"):
        whole = np.frombuffer(encoded(Image.fromarray(random.integers(0, 255, (32, 32, 3), np.uint8)), kind), np.uint8)
        outcomes = set()
        for _ in range(40):
            damaged = whole.copy()
            damaged[random.integers(0, len(whole), 5)] = random.integers(0, 255, 5)
            try:
                outcomes.add(load_image(damaged.tobytes()).mode)
            except BadImage:
                outcomes.add("bad")
        assert outcomes <= {"RGB", "bad"}, kind


@pytest.mark.parametrize(
    ("image", "message"),
    [
        (b"", "empty"),
        (b"hello, I am text", "no image that can be read"),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", "no image that can be read"),
        ("no/such/picture.png", "cannot read the image no/such/picture.png: No such file"),
        ("bad\0name.png", "cannot read the image"),
        (".", "cannot read the image"),
        ("", "got an empty path"),
        (None, "got nothing"),
        (3, "got int"),
        ({"bytes": None, "path": None}, "got nothing"),
        ({"url": "x"}, "got dict"),
    ],
)
def test_what_is_no_image_is_named(image: object, message: str) -> None:
    for function in (load_image,) if isinstance(image, bytes) else (load_image, content_hash):
        with pytest.raises(BadImage, match=message):
            function(image)


def test_a_picture_without_pixels_is_refused() -> None:
    with pytest.raises(BadImage, match=r"no pixels \(0 x 5\)"):
        load_image(Image.new("RGB", (0, 5)))


def bomb(side: int) -> bytes:
    """A PNG of side x side black pixels: small in the file, huge in memory."""

    def chunk(kind: bytes, content: bytes) -> bytes:
        return len(content).to_bytes(4) + kind + content + zlib.crc32(kind + content).to_bytes(4)

    header = side.to_bytes(4) * 2 + bytes([1, 0, 0, 0, 0])
    squeeze = zlib.compressobj(9)
    lines = b"".join(squeeze.compress(bytes(1 + side // 8)) for _ in range(side)) + squeeze.flush()
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", lines) + chunk(b"IEND", b"")


@pytest.mark.parametrize("side", [8_008, 10_000, 20_000])
def test_a_decompression_bomb_is_refused_before_it_is_decoded(side: int) -> None:
    content = bomb(side)
    assert len(content) < 200_000
    with pytest.raises(BadImage, match="decoded at most"):
        load_image(content)


def test_the_limit_is_ours_and_can_be_set() -> None:
    assert load_image(encoded(Image.new("RGB", (100, 100))), max_pixels=10_000).size == (100, 100)
    with pytest.raises(BadImage, match="100 x 101 pixels, more than the 10,000"):
        load_image(encoded(Image.new("RGB", (100, 101))), max_pixels=10_000)
    with pytest.raises(BadImage, match="more than the 10,000"):
        load_image(Image.new("RGB", (100, 101)), max_pixels=10_000)


def test_an_address_is_fetched_only_where_the_user_says_so(tmp_path: Path) -> None:
    (tmp_path / "picture.png").write_bytes(encoded(halves()))
    (tmp_path / "text.html").write_text("<html>", encoding="utf8")
    asked: list[str] = []

    class Handler(http.server.SimpleHTTPRequestHandler):
        def __init__(self, *arguments: object) -> None:
            super().__init__(*arguments, directory=os.fspath(tmp_path))

        def log_message(self, *arguments: object) -> None:
            asked.append(self.path)

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        address = f"http://127.0.0.1:{server.server_port}"
        for function in (load_image, content_hash):
            with pytest.raises(UserError, match="URLs are only fetched if allowed") as caught:
                function(f"{address}/picture.png")
            assert not isinstance(caught.value, BadImage)
        assert asked == []
        assert load_image(f"{address}/picture.png", allow_urls=True).tobytes() == halves().tobytes()
        assert content_hash(f"{address}/picture.png", allow_urls=True) == content_hash(tmp_path / "picture.png")
        for name, message in {
            "absent.png": "cannot fetch the image .*absent.png: File not found",
            "text.html": "no image that can be read",
        }.items():
            with pytest.raises(BadImage, match=message):
                load_image(f"{address}/{name}", allow_urls=True)
        server.shutdown()


def test_the_input_stays_as_it_was() -> None:
    given = halves()
    load_image(given).paste((0, 0, 0), (0, 0, 8, 4))
    assert given.tobytes() == halves().tobytes()
