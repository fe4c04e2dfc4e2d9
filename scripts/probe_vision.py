"""What a linear map reads out of an image encoder's features: digits, and colour, shape and size on the suite's tables.

    python scripts/probe_vision.py [--encoder mini-vision] [--grid 7] [--tables 500] [--data-root DATA]

Digits: all cells of a picture together, the split of the tasks digits/*. Tables: the one cell that holds the middle of
a thing, for all things of the tables; tables are parted, none is in both halves. The linear map is a ridge regression
on one-hot answers, its penalty chosen on a fifth of the training half.

With --data-root, photographs too: which of Flickr8k's pictures have a word in two or more of their five captions, read
from the mean of a picture's cells; 800 to train on, 200 to test, the mean over WORDS of the area under the curve.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Sequence

import torch
from jaxtyping import Float, Int
from torch import Tensor

from hyperpelt.vision import ImageEncoder, load_image_encoder
from hyperpelt_tasks.digits import digits, images_of, picture
from hyperpelt_tasks.tabletop.dice import Dice
from hyperpelt_tasks.tabletop.render import draw
from hyperpelt_tasks.tabletop.table import GRID, Item, a_table

PENALTIES = (1e-3, 1e-2, 1e-1, 1.0)
WORDS = (
    "ball", "beach", "bike", "boy", "child", "dog", "girl", "grass", "man", "people", "player", "snow", "water",
    "woman",
)  # fmt: skip


def _fit(x: Float[Tensor, "n d"], y: Int[Tensor, " n"], classes: int, penalty: float) -> Float[Tensor, "d c"]:
    targets = torch.nn.functional.one_hot(y, classes).double()
    n, d = x.shape
    if n < d:  # the dual form is the smaller system
        gram = x @ x.T
        return x.T @ torch.linalg.solve(gram + penalty * d * torch.eye(n, dtype=x.dtype), targets)
    return torch.linalg.solve(x.T @ x + penalty * n * torch.eye(d, dtype=x.dtype), x.T @ targets)


def accuracy(train: tuple[Tensor, Tensor], test: tuple[Tensor, Tensor]) -> float:
    """Percent right of the best linear map."""
    mean, std = train[0].double().mean(0), train[0].double().std(0)

    def ready(features: Tensor) -> Tensor:
        measured = (features.double() - mean) / torch.where(std > 1e-9, std, 1.0)
        return torch.cat([measured, torch.ones(len(measured), 1, dtype=torch.float64)], dim=1)

    x, y, cut = ready(train[0]), train[1], len(train[1]) * 4 // 5
    classes = int(max(y.max(), test[1].max())) + 1

    def score(weights: Tensor, features: Tensor, gold: Tensor) -> float:
        return float(((features @ weights).argmax(1) == gold).double().mean()) * 100

    best = max(PENALTIES, key=lambda p: score(_fit(x[:cut], y[:cut], classes, p), x[cut:], y[cut:]))
    return score(_fit(x, y, classes, best), ready(test[0]), test[1])


def probe_digits(encoder: ImageEncoder) -> float:
    """Accuracy in percent on the test pictures of digits/*."""
    _, shown = digits()
    sets = []
    for split in ("train", "test"):
        numbers = images_of(split)
        features = encoder.encode([picture(number) for number in numbers])
        sets.append((features.flatten(1), torch.tensor([shown[number] for number in numbers])))
    return accuracy(*sets)


def probe_tables(encoder: ImageEncoder, count: int) -> dict[str, float]:
    """Accuracy in percent of each property of a thing, from the cell that holds its middle."""
    dice = Dice("probe", count)
    tables = [a_table(dice, dice.between(3, 8)) for _ in range(count)]
    features = encoder.encode([draw(table.scene()) for table in tables])
    rows, columns = encoder.grid
    cells: list[torch.Tensor] = []
    items: list[Item] = []
    owner: list[int] = []
    for number, table in enumerate(tables):
        for item in table.items:
            row, column = _cell(item.row, rows), _cell(item.column, columns)
            cells.append(features[number, row * columns + column])
            items.append(item)
            owner.append(number)
    x, first = torch.stack(cells), torch.tensor(owner) < count // 2
    found = {}
    for name in ("colour", "shape", "size"):
        values = [getattr(item, name) for item in items]
        gold = _numbered(values)
        found[name] = accuracy((x[first], gold[first]), (x[~first], gold[~first]))
    return found


def probe_photographs(encoder: ImageEncoder, data_root: str) -> float:
    """Mean area under the curve, in percent, of finding the pictures that a word is said of."""
    from hyperpelt import tasks
    from hyperpelt.vision import load_image

    task = tasks.get("vl/flickr8k")
    train, *rest = (list(task.rows(split, data_root=data_root)) for split in ("train", "validation", "test"))
    sets = [train, [row for part in rest for row in part]]
    x, y = (encoder.encode([load_image(row["image"]) for row in rows]).mean(1).double() for rows in sets)
    mean, std = x.mean(0), x.std(0).clamp(min=1e-9)
    x, y = (x - mean) / std, (y - mean) / std
    cut = len(x) * 4 // 5
    areas = []
    for word in WORDS:
        said, there = (torch.tensor([_says(row["captions"], word) for row in rows]) for rows in sets)
        best = max(PENALTIES, key=lambda p: _area(x[cut:] @ _fit(x[:cut], said[:cut], 2, p), said[cut:]))
        areas.append(_area(y @ _fit(x, said, 2, best), there))
    return 100 * sum(areas) / len(areas)


def _says(captions: Sequence[str], word: str) -> int:
    """1 if at least two captions have the word, in singular or plural."""
    return int(sum(not {word, f"{word}s"}.isdisjoint(caption.lower().split()) for caption in captions) >= 2)


def _area(scores: Float[Tensor, "n 2"], gold: Int[Tensor, " n"]) -> float:
    """Share of (with, without) pairs in which the one with scores higher."""
    higher = scores[:, 1] - scores[:, 0]
    return float((higher[gold == 1][:, None] > higher[gold == 0]).double().mean())


def _cell(place: int, size: int) -> int:
    """The grid row (or column) that holds the middle of a row (or column) of the table."""
    return (2 * place + 1) * size // (2 * GRID)


def _numbered(values: Sequence[str]) -> Int[Tensor, " n"]:
    names = sorted(set(values))
    return torch.tensor([names.index(value) for value in values])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--encoder", default="mini-vision")
    parser.add_argument("--grid", type=int, default=7)
    parser.add_argument("--tables", type=int, default=500)
    parser.add_argument("--data-root", help="A local mirror with Flickr8k's photographs.")
    options = parser.parse_args()
    encoder = load_image_encoder(options.encoder, grid=options.grid)
    begun = time.perf_counter()
    found = {"digits": probe_digits(encoder), **probe_tables(encoder, options.tables)}
    if options.data_root:
        found["words"] = probe_photographs(encoder, options.data_root)
    print(f"{encoder.name}, grid {encoder.grid}, {encoder.dim} features a cell, {time.perf_counter() - begun:.0f} s")
    for name, percent in found.items():
        print(f"  {name:8} {percent:5.1f} %")


if __name__ == "__main__":
    main()
