"""Guards the digits: real pictures, parted by picture, the same pixels everywhere."""

from __future__ import annotations

import hashlib
import json
from collections import Counter

import pytest

import hyperpelt.tasks
from hyperpelt import check_task
from hyperpelt.commands.train import _example_row
from hyperpelt.config import build_run
from hyperpelt_tasks import digits

NAMES = ("digits/which", "digits/parity", "digits/compare")
SPLITS = ("train", "validation", "test")


@pytest.fixture(autouse=True)
def _registered() -> None:
    hyperpelt.tasks.load_plugins()


def shown(name: str, split: str) -> set[int]:
    return {
        row[column] for row in hyperpelt.tasks.get(name).rows(split) for column in row if column.startswith("image")
    }


def test_no_picture_is_in_two_splits_of_any_tasks() -> None:
    used = {split: set().union(*(shown(name, split) for name in NAMES)) for split in SPLITS}
    assert sum(map(len, used.values())) == len(set().union(*used.values())) == digits.NUM_IMAGES
    assert [len(used[split]) for split in SPLITS] == [1197, 300, 300]


def test_pixels_are_the_same_everywhere() -> None:
    pixels = b"".join(digits.picture(number).tobytes() for number in range(50))
    assert hashlib.sha256(pixels).hexdigest() == PIXELS
    rows = [list(row.values()) for name in NAMES for row in hyperpelt.tasks.get(name).rows("test")[:20]]
    assert hashlib.sha256(repr(rows).encode()).hexdigest() == ROWS


def test_a_picture_is_the_digit_enlarged() -> None:
    picture = digits.picture(0)
    assert (picture.mode, picture.size) == ("RGB", (64, 64))
    values = digits.digits()[0][0]
    for cell in range(64):
        x, y = cell % 8 * 8, cell // 8 * 8
        corners = {picture.getpixel((x + dx, y + dy)) for dx in (0, 7) for dy in (0, 7)}
        assert corners == {(255 - values[cell] * 255 // 16,) * 3}


def test_answers_follow_from_the_pictures() -> None:
    _, targets = digits.digits()
    for example, row in zip(
        hyperpelt.tasks.get("digits/compare").examples("test"),
        hyperpelt.tasks.get("digits/compare").rows("test"),
        strict=True,
    ):
        one, two = targets[row["image1"]], targets[row["image2"]]
        assert example.target == ("first" if one > two else "second" if two > one else "neither")
        assert len(example.images) == 2
    for example, row in zip(
        hyperpelt.tasks.get("digits/parity").examples("test"),
        hyperpelt.tasks.get("digits/which").rows("test"),
        strict=True,
    ):
        assert example.target == ("even", "odd")[row["digit"] % 2]


def test_comparisons_are_balanced_and_every_digit_occurs() -> None:
    for split in SPLITS:
        counts = Counter(row["label"] for row in hyperpelt.tasks.get("digits/compare").rows(split))
        assert max(counts.values()) - min(counts.values()) <= 1
        assert len({row["digit"] for row in hyperpelt.tasks.get("digits/which").rows(split)}) == 10


@pytest.mark.parametrize("name", NAMES)
def test_check_finds_no_error(name: str) -> None:
    report = check_task(name, limit=100)
    assert report.ok, [str(finding) for finding in report.findings]


PIXELS = "d88351e75a557480c9a0d9b3729b7e81bb0f787aeb899d907494e875e2736d86"
ROWS = "499c418e2f807d1ba2d788733ee0dae6a67b3ab0e0984f52fe63e49c2099add3"


def test_the_row_that_a_run_shows_for_predict_is_one() -> None:
    row = json.loads(_example_row("digits/which", build_run({"tasks": ["digits/which"], "output_dir": "runs/x"})))
    assert set(row) == {"image", "question"}
    assert hyperpelt.tasks.get("digits/which").example(row, answered=False).images
