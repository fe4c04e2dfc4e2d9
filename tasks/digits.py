"""Real pictures with no download: scikit-learn's handwritten digits as visual questions.

    digits/which      which digit is it?                  ten choices
    digits/parity     is it odd or even?                  two choices
    digits/compare    which of two pictures is larger?    first, second or neither

The 1,797 pictures (8 x 8, from the NIST forms of UCI's Optical Recognition of Handwritten Digits) travel inside
scikit-learn. They are parted once, by picture, for all three tasks: no picture is in two splits of any of them. A row
names its pictures by number; rendering enlarges them to 64 x 64.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from hyperpelt import Example, Generator, Mixture, Task
from hyperpelt import register as add
from hyperpelt_tasks.rendering import write
from hyperpelt_tasks.tabletop.dice import Dice

if TYPE_CHECKING:
    from PIL.Image import Image

NUM_IMAGES = 1797
HELD_OUT = 300  # images of validation, and of test
PAIR_ROWS = {"train": 4000, "validation": 500, "test": 500}
SCALE = 8
NAMES = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
WHICH = ("which digit is this?", "what number is written here?", "what digit does the picture show?", "read the digit.")
PARITY = ("is the digit odd or even?", "is the number even or odd?", "an odd or an even number?")
COMPARE = ("which number is larger?", "which picture shows the larger digit?", "where is the greater number?")


@lru_cache(maxsize=1)
def digits() -> tuple[tuple[bytes, ...], tuple[int, ...]]:
    """All pictures (64 values from 0 to 16, row by row) and what they show."""
    from sklearn.datasets import load_digits

    data: Any = load_digits()
    return tuple(bytes(map(int, image)) for image in data.data), tuple(map(int, data.target))


def images_of(split: str, *, seed: int = 0) -> list[int]:
    """The numbers of the pictures of a split."""
    order = Dice("digits/split", seed).shuffled(range(NUM_IMAGES))
    validation, test, train = order[:HELD_OUT], order[HELD_OUT : 2 * HELD_OUT], order[2 * HELD_OUT :]
    return {"train": train, "validation": validation, "test": test}[split]


def one_each(split: str, *, seed: int = 0, questions: tuple[str, ...] = WHICH) -> Iterator[dict[str, Any]]:
    """image, question, digit: every picture of the split once."""
    _, shown = digits()
    dice = Dice("digits/questions", seed, split)
    for image in images_of(split, seed=seed):
        yield {"image": image, "question": dice.choice(questions), "digit": shown[image], "parity": shown[image] % 2}


def two_each(split: str, *, seed: int = 0, rows: int | None = None) -> Iterator[dict[str, Any]]:
    """image1, image2, question, label: 0 = the first is larger, 1 = the second, 2 = neither; in equal numbers."""
    _, shown = digits()
    dice, images = Dice("digits/pairs", seed, split), images_of(split, seed=seed)
    seen: set[tuple[int, int]] = set()
    for number in range(rows or PAIR_ROWS[split]):
        while True:
            one, two = dice.choice(images), dice.choice(images)
            label = (shown[one] < shown[two]) + 2 * (shown[one] == shown[two])
            if label == number % 3 and one != two and (one, two) not in seen:
                break
        seen.add((one, two))
        yield {"image1": one, "image2": two, "question": dice.choice(COMPARE), "label": label}


def picture(number: int) -> Image:
    """A digit as an RGB picture of 64 x 64 pixels, dark on light."""
    from PIL import Image

    values = digits()[0][number]
    shades = [255 - value * 255 // 16 for value in values]
    lines = [bytes(shade for shade in shades[start : start + 8] for _ in range(3 * SCALE)) for start in range(0, 64, 8)]
    return Image.frombytes("RGB", (8 * SCALE, 8 * SCALE), b"".join(line * SCALE for line in lines))


@dataclass(frozen=True)
class Shown:
    """A render function: the question, the pictures with the numbers in `pictures`, the label in column `label`."""

    pictures: tuple[str, ...]
    label: str

    def __call__(self, row: Mapping[str, Any]) -> Example:
        images = tuple(picture(row[name]) for name in self.pictures)
        return Example(input=write({"question": row["question"]}), label=row[self.label], images=images)


def register() -> None:
    """Register the three tasks and the mixture of them."""
    _add(
        "which",
        Generator(one_each),
        Shown(("image",), "digit"),
        choices=NAMES,
        description="Which digit from zero to nine does the picture show?",
    )
    _add(
        "parity",
        Generator(one_each, options={"questions": PARITY}),
        Shown(("image",), "parity"),
        choices=("even", "odd"),
        description="Is the digit in the picture odd or even?",
    )
    _add(
        "compare",
        Generator(two_each),
        Shown(("image1", "image2"), "label"),
        choices=("first", "second", "neither"),
        description="Is the larger digit in the first picture, in the second or in neither?",
    )
    names = [f"digits/{name}" for name in ("which", "parity", "compare")]
    add(Mixture(name="digits", rates=names, description="Handwritten digits as visual questions."))


def _add(name: str, source: Generator, render: Shown, *, choices: tuple[str, ...], description: str) -> None:
    add(
        Task(
            name=f"digits/{name}",
            source=source,
            render=render,
            choices=choices,
            description=description,
            modalities=("text", "image"),
            answer=(render.label,),
        )
    )
