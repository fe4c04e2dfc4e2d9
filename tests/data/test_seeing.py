"""Eye: each image is read and encoded once, in windows of any size; bad ones are named, or skipped and counted."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from hyperpelt import Example, UserError
from hyperpelt.data import seeing
from hyperpelt.data.seeing import Eye, Remembered
from hyperpelt.vision import FeatureStore, load_image_encoder

ENCODER = load_image_encoder("mini-vision", grid=2)


def encoded(number: int) -> bytes:
    stream = io.BytesIO()
    Image.new("RGB", (8, 8), (20 * number, 255 - 20 * number, 90)).save(stream, "PNG")
    return stream.getvalue()


def rows(*images: tuple[Any, ...]) -> list[tuple[int, Example]]:
    """Rows 10, 11, ... with these images."""
    return [(10 + n, Example(input=f"row {n}", images=some)) for n, some in enumerate(images)]


def never() -> Any:
    raise AssertionError("no encoder is needed")


def test_images_become_keys_in_order_and_each_is_encoded_once(tmp_path: Path) -> None:
    store = FeatureStore(tmp_path, ENCODER.spec)
    eye = Eye(store, lambda: ENCODER)
    given = rows((encoded(1), encoded(2)), (), (encoded(2),), (encoded(1), encoded(3)))
    seen = list(eye.see(given, where="a train"))
    assert [number for number, _ in seen] == [10, 11, 12, 13]
    assert [len(example.images) for _, example in seen] == [2, 0, 1, 2]
    one, two, three = seen[0][1].images[0], seen[0][1].images[1], seen[3][1].images[1]
    assert (seen[2][1].images, seen[3][1].images) == ((two,), (one, three))
    assert (len(store), store.misses) == (3, 3)
    pictures = [Image.open(io.BytesIO(encoded(n))) for n in (1, 2, 3)]
    assert torch.equal(eye.features([one, two, three]), ENCODER.encode(pictures))
    # What another process has kept is not encoded again, and nothing is even decoded.
    assert list(Eye(FeatureStore(tmp_path, ENCODER.spec), never).see(given, where="a train")) == seen


@pytest.mark.parametrize(("images", "pixels", "num_rows"), [(1, 10**9, 9), (256, 1, 9), (256, 100, 2), (2, 10**9, 3)])
def test_windows_of_any_size_see_the_same(
    images: int, pixels: int, num_rows: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    given = rows(*[(encoded(n % 4), encoded(n % 3)) for n in range(7)], ())
    whole = list(Eye(FeatureStore(tmp_path / "a", ENCODER.spec), lambda: ENCODER).see(given, where="a train"))
    for name, value in {"IMAGES": images, "PIXELS": pixels, "ROWS": num_rows}.items():
        monkeypatch.setattr(seeing, f"WINDOW_{name}", value)
    eye = Eye(FeatureStore(tmp_path / "b", ENCODER.spec), lambda: ENCODER)
    assert list(eye.see(given, where="a train")) == whole
    assert len(eye.store) == 4


def test_a_bad_image_ends_it_with_its_row_or_is_skipped_and_counted(tmp_path: Path) -> None:
    broken = encoded(5)[:40]
    given = rows((encoded(1),), (broken, encoded(2)), ("gone.png",), (broken,))
    with pytest.raises(UserError, match=r"a train row 11: .*on_bad_image: skip"):
        list(Eye(Remembered(), lambda: ENCODER).see(given[:2], where="a train"))
    eye = Eye(Remembered(), lambda: ENCODER, on_bad_image="skip")
    kept = list(eye.see(given, where="a train"))
    assert [len(example.images) for _, example in kept] == [1, 1, 0, 0]
    assert eye.num_bad == 3
    dropped = Eye(FeatureStore(tmp_path, ENCODER.spec), lambda: ENCODER, on_bad_image="skip")
    assert [number for number, _ in dropped.see(given, where="a train", drop_bad=True)] == [10]
    # What was bad is never kept: it is bad again when it is seen again.
    assert [number for number, _ in dropped.see(given, where="a train", drop_bad=True)] == [10]
    assert dropped.num_bad == 6


def test_an_address_is_no_bad_image_to_be_skipped() -> None:
    eye = Eye(Remembered(), lambda: ENCODER, on_bad_image="skip")
    with pytest.raises(UserError, match="a train row 10: the image is a URL"):
        list(eye.see(rows(("https://example.org/a.png",)), where="a train"))


def test_an_unknown_policy_names_the_known_ones() -> None:
    with pytest.raises(UserError, match="on_bad_image"):
        Eye(Remembered(), never, on_bad_image="skpi")
