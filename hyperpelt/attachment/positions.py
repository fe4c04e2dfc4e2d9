"""What a tuner may need of positions that a call does not show: what a row begins with, and what came just before.

In cached decoding a decoder's layers see one token at a time. The first position's hidden state is the same in every
call and beam of a row (it depends on the encoder alone), so it is kept as it was first seen. The positions before are
another beam's as soon as beams change places; so they live in the cache that generation reorders.

Legend: B rows, S positions, d width, p positions looked back.
"""

from __future__ import annotations

from collections.abc import MutableMapping
from dataclasses import replace
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from transformers import DynamicCache, EncoderDecoderCache

from hyperpelt.attachment.roomy_cache import roomy_cache
from hyperpelt.attachment.row_images import Choice
from hyperpelt.tuners.base import Site, Tuner

# By what: operation, tuner there and image, number of images of the rows that it is asked for, tensor.
Label = tuple[str, tuple[int, int], int, str]
# What stood before, of all rows, by where it is asked for.
Before = MutableMapping[Label, Tensor]


def first_position(read: Float[Tensor, "B S d"], mask: Bool[Tensor, "B S"] | None) -> Float[Tensor, "B 1 d"]:
    """The first real position of each row."""
    if mask is None:
        return read[:, :1]
    index = mask.to(torch.int8).argmax(dim=1)
    return read.gather(1, index[:, None, None].expand(-1, 1, read.shape[-1]))


def positions_before(
    kept: Before | None, label: Label, x: Float[Tensor, "B S d"], count: int
) -> Float[Tensor, "B p d"]:
    """The `count` positions before x, zeros where nothing came before; kept for the next call if anything is."""
    earlier = None if kept is None else kept.get(label)
    if earlier is None:
        earlier = x.new_zeros(x.shape[0], count, x.shape[2])
    if kept is not None:
        kept[label] = torch.cat([earlier, x], dim=1)[:, -count:]
    return earlier


class Positions:
    """What one pass remembers of positions. **before**: what cached decoding looks back at, None without a cache."""

    def __init__(self, before: Before | None = None) -> None:
        self.firsts: dict[str, Tensor] = {}
        self.before = before

    def first(self, site: Site) -> Float[Tensor, "B 1 d"]:
        """What the operation read at each row's first position, in this call or in the first one of cached decoding."""
        first = self.firsts.get(site.operation.name)
        if first is None:
            first = first_position(site.input, site.mask)
            if site.causal and not torch.is_grad_enabled():
                self.firsts[site.operation.name] = first
        num_rows = site.input.shape[0]
        # Beams of the same rows read the same there.
        return first if first.shape[0] == num_rows else first.repeat_interleave(num_rows // first.shape[0], dim=0)

    def told(self, site: Site, tuner: Tuner, place: tuple[int, int], choice: Choice | None) -> Site:
        """The site, of all rows, with what the tuner needs of positions that it may not show.

        - **place**: the tuner's number among those there, and the image's; **choice**: the rows that will ask
        """
        name, num_rows, images = site.operation.name, len(site.input), 0 if choice is None else choice.num_images

        def before(what: str, x: Float[Tensor, "b S d"], count: int) -> Float[Tensor, "b p d"]:
            label = name, place, images, what
            if choice is None or choice.rows is None:
                return positions_before(self.before, label, x, count)
            whole = choice.add(x.new_zeros(num_rows, *x.shape[1:]), x)  # beams change places among all rows
            return choice.of(positions_before(self.before, label, whole, count), num_rows)

        if tuner.needs_first:
            site = replace(site, first=self.first(site))
        return replace(site, before=before) if tuner.looks_back and site.causal else site


class RememberingCache(EncoderDecoderCache):
    """A dynamic cache of keys and values that also holds what tuners look back at and a side network's own keys and
    values, in the order of the beams."""

    def __init__(self, config: Any) -> None:
        super().__init__(roomy_cache(config), DynamicCache(config=config))
        self.before: Before = {}
        self.beside: EncoderDecoderCache | None = None  # of a side network, see `hyperpelt.attachment.beside`

    def _each(self, change: Any) -> None:
        for label, values in self.before.items():
            self.before[label] = change(values)

    def reorder_cache(self, beam_idx: Any) -> None:
        super().reorder_cache(beam_idx)
        if self.beside is not None:
            self.beside.reorder_cache(beam_idx)
        self._each(lambda values: values.index_select(0, beam_idx.to(values.device)))

    def batch_repeat_interleave(self, repeats: int) -> None:
        super().batch_repeat_interleave(repeats)
        if self.beside is not None:
            self.beside.batch_repeat_interleave(repeats)
        self._each(lambda values: values.repeat_interleave(repeats, dim=0))

    def batch_select_indices(self, indices: Tensor) -> None:
        super().batch_select_indices(indices)
        if self.beside is not None:
            self.beside.batch_select_indices(indices)
        self._each(lambda values: values[indices])
