"""Tensors of which most entries are zero, as they are kept in files: positions and values.

A method that changes a share of a model's weights keeps a share of their bytes. Packing loses no bit: what counts as
zero has no bit set, so that -0.0 is a value.
"""

from __future__ import annotations

import json
from collections.abc import Mapping

import torch
from torch import Tensor

SMALLEST = 1 << 16  # entries of a tensor that is worth it
POSITIONS, VALUES = "|positions", "|values"
_BITS = {1: torch.int8, 2: torch.int16, 4: torch.int32, 8: torch.int64}


def pack(tensors: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], str]:
    """The same tensors, large ones with less than a quarter of their entries set as two, and what `unpack` must know
    (empty if nothing was packed)."""
    found: dict[str, Tensor] = {}
    shapes: dict[str, list[int]] = {}
    for name, tensor in tensors.items():
        flat = tensor.detach().cpu().contiguous().flatten()
        is_set = flat.view(_BITS[flat.element_size()]) != 0 if flat.numel() >= SMALLEST else None
        if is_set is None or 4 * int(is_set.sum()) >= flat.numel():
            found[name] = tensor
            continue
        positions = is_set.nonzero()[:, 0]
        found[name + VALUES] = flat[positions]
        found[name + POSITIONS] = positions.int() if flat.numel() < 1 << 31 else positions
        shapes[name] = list(tensor.shape)
    return found, json.dumps(shapes, sort_keys=True) if shapes else ""


def unpack(tensors: Mapping[str, Tensor], about: str) -> dict[str, Tensor]:
    """The reverse of `pack`.

    Raises:
        KeyError, RuntimeError, ValueError: the tensors are not those that were packed.
    """
    shapes: Mapping[str, list[int]] = json.loads(about) if about else {}
    found = dict(tensors)
    for name, shape in shapes.items():
        positions, values = found.pop(name + POSITIONS), found.pop(name + VALUES)
        found[name] = values.new_zeros(shape).flatten().scatter_(0, positions.long(), values).view(shape)
    return found
