"""What the tuners of one pass add to the loss, beside what they add to the hidden states.

A penalty is a value for each row (or one for all rows, where it depends on tensors that they share); at several
operations it is their mean. So a global batch's penalty is the mean over its rows, and micro-batches and processes add
up to it whatever their sizes.

Legend: B rows of a batch, Q of a pass, b of a choice (or 1), S positions, T target length.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from hyperpelt.tuners.base import Site, Tensors, Tuner

if TYPE_CHECKING:
    from hyperpelt.attachment.row_images import Choice


class Penalties:
    """The penalties of one batch in training; `over` is for a pass in which its rows stand once, several times or not.

    - **num_rows** B of the batch
    """

    def __init__(self, num_rows: int) -> None:
        self.num_rows = num_rows
        self.targets: Bool[Tensor, "Q T"] | None = None
        self.which: Int[Tensor, " Q"] | None = None
        # name -> operation -> call -> value. By place, so that a layer that is computed again counts once.
        self._found: dict[str, dict[str, dict[tuple[int, ...], Tensor]]] = defaultdict(lambda: defaultdict(dict))

    def over(self, targets: Bool[Tensor, "Q T"], which: Int[Tensor, " Q"] | None = None) -> Penalties:
        """The same, noted from a pass with a decoder.

        - **targets**: which of the decoder's positions are real; **which**: row of the batch, for each row of the pass
        """
        other = Penalties(self.num_rows)
        other.targets, other.which, other._found = targets, which, self._found
        return other

    def note(
        self, tuner: Tuner, site: Site, tensors: Tensors, made: Any, call: tuple[int, ...], choice: Choice | None = None
    ) -> None:
        """Ask a tuner that declares penalties for those of one call. **choice**: the rows that it was called for."""
        num_rows = self.num_rows if self.which is None else len(self.which)
        if site.causal and not site.operation.reads_encoder and self.targets is not None:
            site = replace(site, mask=self.targets if choice is None else choice.of(self.targets, num_rows))
        for name, value in tuner.penalty(site, tensors, made).items():
            value = value.float()
            if choice is not None:
                value = choice.add(value.new_zeros(num_rows), value)
            self._found[name][site.operation.name][call] = self._of_batch(value)

    def _of_batch(self, value: Float[Tensor, " b"]) -> Float[Tensor, " B"]:
        """The value of each row of the batch: the mean over where it stands in the pass."""
        if len(value) == 1 or self.which is None:
            return value.expand(self.num_rows)
        sums = value.new_zeros(2, self.num_rows)
        sums = sums.index_add(1, self.which, torch.stack([value, torch.ones_like(value)]))
        return sums[0] / sums[1].clamp(min=1)

    def rows(self) -> dict[str, Float[Tensor, " B"]]:
        """Each penalty's share of every row: the mean over operations."""
        found: dict[str, Tensor] = {}
        for name, there in self._found.items():
            each = [value for calls in there.values() for value in calls.values()]
            found[name] = torch.stack(each).sum(dim=0) / len(there)
        return found
