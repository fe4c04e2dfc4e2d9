"""A cache of keys and values with room: a token is written behind those before it, and a prefix stands in front.

transformers' dynamic cache copies all keys whenever a token comes, and a prefix that joins them would copy them once
more. Here the keys that a layer hands out are a window into a wider buffer: what comes is written behind it, and the
prefix rows of the pass are written once in front of it, where the window need only begin earlier.

Whoever changes keys by another way (beams that change places, a crop) makes another tensor of them, which has no
buffer; the next token then gets one. So does a window that is no longer the newest of its buffer.

Legend: B rows, H heads, K positions held, N prefix rows, k width of a head.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from jaxtyping import Float
from torch import Tensor
from transformers import DynamicCache
from transformers.cache_utils import DynamicLayer

_ROOM = "_hyperpelt_room"
LEAST = 32  # positions that a buffer has at least


@dataclass
class Room:
    """**buffer** [B H C k], in which `length` positions are held from `front` on.

    - **written**: the prefix that stands before them, with its version when it was written
    """

    buffer: Tensor
    front: int
    length: int
    written: tuple[Tensor, int] | None = None

    def window(self, before: int = 0) -> Tensor:
        """What is held, and `before` positions in front of it."""
        return self.buffer[:, :, self.front - before : self.front + self.length]

    def enlarge(self, front: int, behind: int) -> None:
        """Another buffer, with room for so many positions in front and behind; what is held moves there."""
        held, (rows, heads, _, width) = self.window(), self.buffer.shape
        space = max(LEAST, 3 * (self.length + behind) // 2)
        self.buffer = held.new_empty(rows, heads, front + space, width)
        self.front, self.written = front, None
        self.window().copy_(held)


class RoomyLayer(DynamicLayer):
    """One layer's keys and values, as windows into buffers. **rooms**: those that both are windows of."""

    rooms: tuple[Room, Room] | None = None

    def update(
        self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any
    ) -> tuple[Float[Tensor, "B H K k"], Float[Tensor, "B H K k"]]:
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
        assert self.keys is not None
        assert self.values is not None
        fronts = (0, 0) if self.rooms is None else (self.rooms[0].front, self.rooms[1].front)
        rooms = _room_of(self.keys, key_states, fronts[0]), _room_of(self.values, value_states, fronts[1])
        self.rooms, self.keys, self.values = rooms, _grown(rooms[0], key_states), _grown(rooms[1], value_states)
        return self.keys, self.values


def _room_of(held: Tensor, new: Float[Tensor, "B H S k"], front: int) -> Room:
    """The buffer of what is held, with room for what comes; another one with `front` positions before if need be."""
    if held.numel() == 0:  # an empty tensor without dimensions
        held = new[:, :, :0]
    room: Room | None = getattr(held, _ROOM, None)
    if room is None or room.length != held.shape[2]:
        room = Room(held, 0, held.shape[2])
        room.enlarge(front, new.shape[2])
    elif room.front + room.length + new.shape[2] > room.buffer.shape[2]:
        room.enlarge(room.front, new.shape[2])
    return room


def _grown(room: Room, new: Float[Tensor, "B H S k"]) -> Float[Tensor, "B H K k"]:
    room.length += new.shape[2]
    grown = room.window()
    grown[:, :, -new.shape[2] :] = new
    setattr(grown, _ROOM, room)
    return grown


def joined_in_place(rows: Float[Tensor, "B H N k"], held: Float[Tensor, "B H K k"]) -> Float[Tensor, "B H NK k"] | None:
    """Prefix rows and what a roomy layer holds, without a copy of the latter; None for keys of another kind."""
    room: Room | None = getattr(held, _ROOM, None)
    if room is None or room.length != held.shape[2]:
        return None
    count = rows.shape[2]
    if room.front < count:
        room.enlarge(count, 0)
    version = None if rows.is_inference() else rows._version
    if version is None or room.written is None or not _same(*room.written, rows):
        room.window(count)[:, :, :count] = rows
        # Held on to, so that no other tensor comes to lie at its place.
        room.written = None if version is None else (rows, version)
    return room.window(count)


def _same(known: Tensor, version: int, rows: Tensor) -> bool:
    """Whether these are the very numbers that were written: the same memory, unchanged since."""
    place = rows.data_ptr(), rows.shape, rows.stride(), rows._version
    return place == (known.data_ptr(), known.shape, known.stride(), version)


def roomy_cache(config: Any) -> DynamicCache:
    """A dynamic cache for a backbone of this configuration; layers of another kind than the usual stay as they are."""
    cache = DynamicCache(config=config)
    cache.layers = [RoomyLayer() if type(layer) is DynamicLayer else layer for layer in cache.layers]
    return cache
