"""Which images belong to which rows of a batch, and the tensors that were made of each image.

A row may have no image, one, or several in their order. Nothing is padded: at an operation the images' tuners run on
the rows that have images, so a row without any is computed by the same calls as if no row had one.

Legend: B rows, N images, b rows of a choice, I images a row.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property

import torch
from jaxtyping import Int
from torch import Tensor


@dataclass(frozen=True)
class Choice:
    """Some rows of a batch with equally many images.

    - **rows** [b]: their numbers, None if they are all rows in order; no row stands twice
    - **images** [b, I]: the images of each in order
    """

    rows: Int[Tensor, " b"] | None
    images: Int[Tensor, "b I"]

    @property
    def num_images(self) -> int:
        return self.images.shape[1]

    def of(self, values: Tensor | None, num_rows: int) -> Tensor | None:
        """The rows of a [B, ...] tensor; what all rows share ([1, ...]) as it is."""
        if values is None or self.rows is None or values.shape[0] != num_rows:
            return values
        return values.index_select(0, self.rows)

    def add(self, values: Tensor, delta: Tensor) -> Tensor:
        """`values` [B, ...] with `delta` [b, ...] added to these rows, no bit of the others touched."""
        delta = delta.to(values.dtype)
        if self.rows is None:
            return values + delta
        return values.index_add(0, self.rows, delta.expand(len(self.rows), *values.shape[1:]))


@dataclass(frozen=True)
class RowImages:
    """The images of a batch.

    - **owned**: for each row the numbers of its images, in order
    - **made**: for each group key of the visual sources the tensors of its n operations, each [N, *shape]
    """

    owned: tuple[tuple[int, ...], ...]
    made: Mapping[str, Sequence[Tensor]]
    device: torch.device
    _copies: dict[int, RowImages] = field(default_factory=dict)

    @property
    def num_rows(self) -> int:
        return len(self.owned)

    def of_rows(self, rows: Sequence[int]) -> RowImages:
        """The same images for a batch of which each row is a copy of row `rows[i]` of this one."""
        return RowImages(tuple(self.owned[row] for row in rows), self.made, self.device)

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
        everyone = list(rows) == list(range(self.num_rows))
        return Choice(
            rows=None if everyone else torch.tensor(rows, dtype=torch.long, device=self.device),
            images=torch.tensor(images, dtype=torch.long, device=self.device).reshape(len(rows), -1),
        )

    @cached_property
    def by_order(self) -> tuple[Choice, ...]:
        """The first image of each row that has one, then the second ones, and so on."""
        most = max(map(len, self.owned))
        having = [[row for row, images in enumerate(self.owned) if len(images) > order] for order in range(most)]
        return tuple(
            self._choice(rows, [[self.owned[row][order]] for row in rows]) for order, rows in enumerate(having)
        )

    @cached_property
    def by_count(self) -> tuple[Choice, ...]:
        """All rows, parted by how many images they have; those without come first."""
        counts = sorted({len(images) for images in self.owned})
        alike = [[row for row, images in enumerate(self.owned) if len(images) == count] for count in counts]
        return tuple(self._choice(rows, [self.owned[row] for row in rows]) for rows in alike)

    @cached_property
    def back(self) -> Int[Tensor, " B"] | None:
        """Where each row stands among the rows of `by_count`, one part after the other; None if there is one part."""
        if len(self.by_count) == 1:
            return None
        return torch.argsort(torch.cat([choice.rows for choice in self.by_count]))
