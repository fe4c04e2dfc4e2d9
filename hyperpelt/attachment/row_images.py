"""Which images belong to which rows of a batch, and the tensors that were made of each image.

A row may have no image, one, or several in their order. Nothing is padded: at an operation the images' tuners run on
the rows that have images, so a row without any is computed by the same calls as if no row had one.

Legend: B rows, N images, b rows of a choice, I images a row.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from jaxtyping import Int
from torch import Tensor

from hyperpelt.data.host import sent
from hyperpelt.tuners.base import Site


@dataclass(frozen=True)
class Choice:
    """Some rows of a batch with equally many images.

    - **rows** [b]: their numbers, None if they are all rows in order; no row stands twice
    - **images**: for each of the I places the image of each row there, [b]; None if that is every image in order
    """

    rows: Int[Tensor, " b"] | None
    images: tuple[Int[Tensor, " b"] | None, ...]

    @property
    def num_images(self) -> int:
        """How many each of its rows has."""
        return len(self.images)

    def of(self, values: Tensor, num_rows: int) -> Tensor:
        """The rows of a [B, ...] tensor; what all rows share ([1, ...]) as it is."""
        if self.rows is None or values.shape[0] != num_rows:
            return values
        return values.index_select(0, self.rows)

    def of_any(self, values: Tensor | None, num_rows: int) -> Tensor | None:
        """`of`, where there may be none."""
        return None if values is None else self.of(values, num_rows)

    def add(self, values: Tensor, delta: Tensor) -> Tensor:
        """`values` [B, ...] with `delta` [b, ...] added to these rows, no bit of the others touched."""
        delta = delta.to(values.dtype)
        if self.rows is None:
            return values + delta
        return values.index_add(0, self.rows, delta.expand(len(self.rows), *values.shape[1:]))


class RowImages:
    """The images of a batch.

    - **owned**: for each row the numbers of its images, in order
    - **made**: for each group key of the visual sources the tensors of its n operations, each [N, *shape]
    - **num_images** N, of which rows may have all or some
    - **by_order**: the first image of each row that has one, then the second ones, and so on
    - **by_count**: all rows, parted by how many images they have; those without come first
    - **back** [B]: where each row stands among those of `by_count`, one part after the other; None if there is one part
    """

    def __init__(
        self,
        owned: Sequence[Sequence[int]],
        made: Mapping[str, Sequence[Tensor]],
        *,
        num_images: int,
        device: torch.device,
    ) -> None:
        self.owned, self.made, self.device = owned, made, device
        self.num_rows, self.num_images = len(owned), num_images
        counts = [len(images) for images in owned]
        by_order = [[row for row, count in enumerate(counts) if count > order] for order in range(max(counts))]
        alike = [[row for row, count in enumerate(counts) if count == each] for each in sorted(set(counts))]
        self.by_order = [
            self._choice(rows, [[owned[row][order]] for row in rows]) for order, rows in enumerate(by_order)
        ]
        self.by_count = [self._choice(rows, [owned[row] for row in rows]) for rows in alike]
        places = {row: place for place, row in enumerate(row for rows in alike for row in rows)}
        self.back = None if len(alike) == 1 else sent([places[row] for row in range(len(owned))], device)
        self._copies: dict[int, RowImages] = {}

    def of_rows(self, rows: Sequence[int]) -> RowImages:
        """The same images for a batch of which each row is a copy of row `rows[i]` of this one."""
        owned = [self.owned[row] for row in rows]
        return RowImages(owned, self.made, num_images=self.num_images, device=self.device)

    def __getitem__(self, rows: Int[Tensor, " M"]) -> RowImages:
        """`of_rows` of a tensor of row numbers, as the other values of a batch are indexed."""
        return self.of_rows(rows.tolist())

    def expanded(self, num_rows: int) -> RowImages:
        """For a batch in which each row stands several times in a row, as beams do."""
        if num_rows == self.num_rows:
            return self
        if num_rows not in self._copies:
            copies = num_rows // self.num_rows
            self._copies[num_rows] = self.of_rows([row for row in range(self.num_rows) for _ in range(copies)])
        return self._copies[num_rows]

    def _choice(self, rows: Sequence[int], images: Sequence[Sequence[int]]) -> Choice:
        """The images of each of these rows; what would pick everything in order is None, and picks nothing."""

        def index(wanted: Sequence[int], total: int) -> Tensor | None:
            everything = list(wanted) == list(range(total))
            return None if everything else sent(wanted, self.device)

        places = zip(*images, strict=True)
        return Choice(index(rows, self.num_rows), tuple(index(place, self.num_images) for place in places))


def chosen(site: Site, choice: Choice) -> Site:
    """The site as the chosen rows see it."""
    num_rows, ids = site.input.shape[0], site.frozen.get("ids")
    return replace(
        site,
        input=choice.of(site.input, num_rows),
        output=choice.of_any(site.output, num_rows),
        residual=choice.of_any(site.residual, num_rows),
        mask=choice.of_any(site.mask, num_rows),
        special=choice.of_any(site.special, num_rows),
        first=choice.of_any(site.first, num_rows),
        frozen=site.frozen if ids is None else {**site.frozen, "ids": choice.of(ids, num_rows)},
    )
