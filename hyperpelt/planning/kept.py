"""What a step keeps for backward, in bytes: the distinct storages that autograd saves, real or fake."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor


def bytes_of(tensors: Iterable[Tensor]) -> int:
    """Bytes of the distinct storages behind tensors."""
    storages = (tensor.untyped_storage() for tensor in tensors)
    return sum({storage._cdata: storage.nbytes() for storage in storages}.values())


@contextmanager
def watched(own: Iterable[Tensor]) -> Iterator[Callable[[], int]]:
    """Within, note what autograd saves; the value tells the bytes so far, tensors of `own` (the model's) left out."""
    ours = {tensor.untyped_storage()._cdata for tensor in own}
    saved: dict[int, Tensor] = {}  # held, so that no storage's place is taken by another one's

    def pack(tensor: Tensor) -> Tensor:
        place = tensor.untyped_storage()._cdata
        if place not in ours:
            saved.setdefault(place, tensor.detach())
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        yield lambda: bytes_of(saved.values())
    saved.clear()  # whoever goes on would else be held to what backward has let go
