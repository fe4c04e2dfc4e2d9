"""What lies on the table in a picture: things in the cells of a 4 x 4 grid, at times a cloth over a quarter of it.

A table has a canonical text, `scene()`, which is all that a row carries: `Table.read` gets the table back, and
`render.draw` makes the picture from it alone.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

from hyperpelt_tasks.tabletop.dice import Dice
from hyperpelt_tasks.tabletop.language import article, word
from hyperpelt_tasks.tabletop.world import SHAPES, split_of

GRID = 4
SEEN_SHAPES = tuple(SHAPES)
SEEN_SIZES = ("small", "medium", "large")
SEEN_COLOURS = ("red", "blue", "green", "yellow", "purple", "orange", "black", "white", "pink")


class Item(NamedTuple):
    """One thing: column 0 is left, row 0 is at the top."""

    size: str
    colour: str
    shape: str
    column: int
    row: int

    @property
    def quarter(self) -> int:
        """Of the table: 0 to 3, left to right, top to bottom."""
        return self.column * 2 // GRID + self.row * 2 // GRID * 2


class Sort(NamedTuple):
    """A sort of things; what is empty may be anything."""

    size: str = ""
    colour: str = ""
    shape: str = ""

    def fits(self, item: Item) -> bool:
        return self.shape in ("", item.shape) and self.colour in ("", item.colour) and self.size in ("", item.size)

    def said(self, dice: Dice, *, plain: int, many: bool = False) -> str:
        """A noun phrase without article: "big red balls"."""
        *front, noun = (
            word(name, dice, plain=plain) for name in (self.size, self.colour, self.shape or "thing") if name
        )
        return " ".join([*front, plural(noun) if many else noun])


class Table(NamedTuple):
    """Things, and the quarter under the cloth (as `Item.quarter`), or -1 without a cloth."""

    items: tuple[Item, ...]
    cloth: int = -1

    def scene(self) -> str:
        things = sorted(":".join(map(str, item)) for item in self.items)
        return "+".join([f"cloth:{self.cloth}", *things])

    @classmethod
    def read(cls, scene: str) -> Table:
        """The table of a canonical text."""
        cloth, *things = scene.split("+")
        parts = (thing.split(":") for thing in things)
        items = tuple(Item(size, colour, shape, int(column), int(row)) for size, colour, shape, column, row in parts)
        return cls(items, int(cloth.removeprefix("cloth:")))

    def of(self, sort: Sort) -> list[Item]:
        """The things of this sort that can be seen."""
        return [item for item in self.items if sort.fits(item)]


def plural(noun: str) -> str:
    """balls, crosses."""
    return noun + ("es" if noun.endswith("s") else "s")


def counted(number: int, noun: str, nouns: str) -> str:
    """ "a ball", "three balls"."""
    return article(noun) if number == 1 else f"{NUMBERS[number]} {nouns}"


NUMBERS = ("no", "one", "two", "three", "four", "five", "six")


def a_sort(dice: Dice, *, told: Sequence[str] = ("colour", "shape")) -> Sort:
    """A sort with these properties."""
    pools = {"size": ("small", "large"), "colour": SEEN_COLOURS, "shape": SEEN_SHAPES}
    return Sort(**{name: dice.choice(pools[name]) for name in told})


def an_item(dice: Dice, sort: Sort, cell: int) -> Item:
    """A thing of this sort in a cell (0 to 15)."""
    size = sort.size or dice.choice(SEEN_SIZES)
    return Item(
        size,
        sort.colour or dice.choice(SEEN_COLOURS),
        sort.shape or dice.choice(SEEN_SHAPES),
        cell % GRID,
        cell // GRID,
    )


def near_miss(dice: Dice, sort: Sort) -> Sort:
    """A sort that differs from this one in one property that it tells."""
    told = [name for name, value in zip(sort._fields, sort, strict=True) if value]
    name = dice.choice(told)
    pool = {"size": ("small", "large"), "colour": SEEN_COLOURS, "shape": SEEN_SHAPES}[name]
    return sort._replace(**{name: dice.choice([value for value in pool if value != getattr(sort, name)])})


def a_table(dice: Dice, count: int, planted: Sequence[Sort] = (), *, cloth: int = -1) -> Table:
    """A table with a thing of every planted sort and others, `count` in all; none under the cloth."""
    hidden = {(cloth % 2, cloth // 2)} if cloth >= 0 else set()
    free = [cell for cell in range(GRID * GRID) if (cell % GRID // 2, cell // GRID // 2) not in hidden]
    sorts = [*planted, *[Sort()] * max(0, count - len(planted))]
    cells = dice.sample(free, len(sorts))
    return Table(tuple(an_item(dice, sort, cell) for sort, cell in zip(sorts, cells, strict=True)), cloth)


def search(
    dice: Dice,
    holds: Callable[[Table], bool],
    sorts: Sequence[Sort],
    *,
    split: str,
    count: int,
    cloth: int = -1,
    tries: int = 4000,
) -> Table | None:
    """A table of the split for which `holds` is true; None if none was met.

    Each of `sorts` is on it at random, as it is or with one property changed: so what a statement talks about is there
    as often as not, whether the statement holds or not.
    """
    for _ in range(tries):
        planted = [sort if dice.chance(60) else near_miss(dice, sort) for sort in sorts if dice.chance(85)]
        table = a_table(dice, count + dice.below(2), planted, cloth=cloth)
        if holds(table) and split_of(table.scene()) == split:
            return table
    return None
