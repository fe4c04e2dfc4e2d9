"""Pictures of tables and of digits. Whole-number arithmetic, no anti-aliasing, no fonts: the same pixels everywhere.

A shape is a mask that is computed here pixel by pixel and pasted by Pillow with coverage 0 or 255; Pillow's own
circles and polygons have changed between its versions. What the scene leaves open (the wood of the table, the exact
place of a thing in its cell, its shade) is drawn from the scene's text, so that a scene has one picture.
"""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING

from hyperpelt_tasks.tabletop.dice import Dice
from hyperpelt_tasks.tabletop.table import GRID, Item, Table

if TYPE_CHECKING:
    from PIL.Image import Image

CELL = 32
SIDE = GRID * CELL
RADIUS = {"small": 5, "medium": 9, "large": 14}
RGB = {
    "red": (214, 36, 36),
    "blue": (40, 70, 214),
    "green": (30, 150, 50),
    "yellow": (244, 220, 50),
    "purple": (132, 50, 160),
    "orange": (244, 134, 20),
    "black": (24, 24, 24),
    "white": (244, 244, 244),
    "pink": (250, 150, 190),
}
WOODS = ((196, 170, 132), (176, 150, 118), (206, 186, 154), (160, 164, 150), (184, 172, 160))
TIPS = ((0, -1000), (951, -309), (588, 809), (-588, 809), (-951, -309))  # of a five-pointed star, radius 1000


def inside(shape: str, x: int, y: int, r: int) -> bool:
    """Whether the pixel (x, y), counted from the centre, belongs to the shape of radius r."""
    match shape:
        case "ball":
            return x * x + y * y <= r * r
        case "cube":
            return 8 * max(abs(x), abs(y)) <= 7 * r
        case "cone":
            return 2 * abs(x) <= y + r
        case "ring":
            return 3 * r * r <= 10 * (x * x + y * y) <= 10 * r * r
        case "star":
            return sum(-(a * x + b * y) <= 309 * r for a, b in TIPS) >= 4
        case "cross":
            return min(abs(x), abs(y)) * 3 <= r
        case "rod":
            return 4 * abs(x) <= r
        case "moon":
            return x * x + y * y <= r * r and 5 * ((2 * x - r) ** 2 + 4 * y * y) > 16 * r * r
    raise AssertionError(shape)


@cache
def mask(shape: str, r: int) -> Image:
    """The shape as a mask of side 2 r + 1."""
    from PIL import Image

    span = range(-r, r + 1)
    pixels = bytes(255 if inside(shape, x, y, r) else 0 for y in span for x in span)
    return Image.frombytes("L", (2 * r + 1, 2 * r + 1), pixels)


def shaded(colour: tuple[int, int, int], dice: Dice, spread: int) -> tuple[int, int, int]:
    """The colour, each channel moved by up to `spread`."""
    red, green, blue = (min(255, max(0, channel + dice.between(-spread, spread))) for channel in colour)
    return red, green, blue


def draw(scene: str) -> Image:
    """The picture of a table from its canonical text: RGB, 128 x 128."""
    from PIL import Image

    table, dice = Table.read(scene), Dice("picture", scene)
    wood = shaded(dice.choice(WOODS), dice, 10)
    picture = Image.new("RGB", (SIDE, SIDE), wood)
    for _ in range(12):
        left, top = dice.below(SIDE), dice.below(SIDE)
        plank = (left, top, min(SIDE, left + 60), min(SIDE, top + dice.between(1, 3)))
        picture.paste(shaded(wood, dice, 8), plank)
    for item in table.items:
        place(picture, item, dice)
    if table.cloth >= 0:
        cover(picture, table.cloth, dice)
    return picture


def place(picture: Image, item: Item, dice: Dice) -> None:
    """Put one thing into its cell, with a dark edge."""
    r = RADIUS[item.size]
    give = min(5, CELL // 2 - r - 2)
    x = item.column * CELL + CELL // 2 + dice.between(-give, give)
    y = item.row * CELL + CELL // 2 + dice.between(-give, give)
    picture.paste((60, 50, 40), (x - r - 1, y - r - 1), mask(item.shape, r + 1))
    picture.paste(shaded(RGB[item.colour], dice, 10), (x - r, y - r), mask(item.shape, r))


def cover(picture: Image, quarter: int, dice: Dice) -> None:
    """Lay a striped cloth over a quarter of the table."""
    left, top, half = quarter % 2 * SIDE // 2, quarter // 2 * SIDE // 2, SIDE // 2
    light, dark = shaded((150, 160, 170), dice, 12), shaded((110, 120, 135), dice, 12)
    for stripe in range(0, half, 8):
        box = (left, top + stripe, left + half, top + stripe + 8)
        picture.paste(dark if stripe % 16 else light, box)
