"""What one pass makes of its single rows: of the encoder's states, or of what each operation reads.

Legend: B rows, S positions, d width of hidden states.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from hyperpelt.attachment.positions import Positions
from hyperpelt.tuners.base import Site, masked_mean


def expanded(rows: Tensor, num_rows: int) -> Tensor:
    """Per-row data for a batch in which each row stands several times in a row, as beams do."""
    return rows if rows.shape[0] == num_rows else rows.repeat_interleave(num_rows // rows.shape[0], dim=0)


class Instances:
    """The tensors of single rows in one pass.

    - **of_states**: from the encoder's states and mask to tensors of all operations, by group key
    - **of_input**: from an operation's name and the mean of what it reads to its tensors, by group key
    """

    def __init__(
        self,
        of_states: Callable[[Tensor, Tensor | None], Mapping[str, Sequence[Tensor]]] | None,
        of_input: Callable[[str, Tensor], Mapping[str, Tensor]] | None,
    ) -> None:
        self.of_states, self.of_input = of_states, of_input
        self.made: Mapping[str, Sequence[Tensor]] | None = None
        self.kept: dict[tuple[str, int], Mapping[str, Tensor]] = {}

    def see_states(self, states: Float[Tensor, "B S d"], mask: Tensor | None) -> None:
        """Make what is made of the encoder's states, once a pass: beams of a row have the same."""
        if self.of_states is not None and self.made is None:
            self.made = self.of_states(states, mask)

    def at(self, site: Site, mask: Bool[Tensor, "B S"] | None, positions: Positions) -> Mapping[str, Tensor]:
        """What is made of what the operation reads; in cached decoding that is what it read first, so it is kept.

        - **mask**: real positions of the encoder's input
        """
        assert self.of_input is not None, "a part draws from what is read, so a source makes tensors of it"
        label = (site.operation.name, site.input.shape[0])
        if label in self.kept:
            return self.kept[label]
        if site.operation.reads_encoder:
            mean = masked_mean(site.input, None if mask is None else expanded(mask, label[1]))
        else:
            mean = positions.first(site) if site.causal else masked_mean(site.input, site.mask)
        made = self.of_input(site.operation.name, mean)
        if site.causal and not torch.is_grad_enabled() and not torch.compiler.is_compiling():
            self.kept[label] = made
        return made
