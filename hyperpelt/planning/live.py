"""How many bytes are alive at once while something runs, real or fake: of every storage from its making to its end."""

from __future__ import annotations

import weakref
from collections.abc import Iterable
from typing import Any

from torch import Tensor, UntypedStorage
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves


class Live(TorchDispatchMode):
    """Counts bytes of tensors made within it. `now` are alive, `peak` were alive at once; `known` count for nothing."""

    def __init__(self, known: Iterable[Tensor] = ()) -> None:
        super().__init__()
        self.now = self.peak = 0
        self._seen: set[int] = set()
        self._kept = [tensor.untyped_storage() for tensor in known]  # held, so that no other takes their place
        self._seen |= {storage._cdata for storage in self._kept}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        for leaf in tree_leaves(out):
            if isinstance(leaf, Tensor):
                self._note(leaf.untyped_storage())
        return out

    def _note(self, storage: UntypedStorage) -> None:
        place, size = storage._cdata, storage.nbytes()
        if place in self._seen or not size:
            return
        self._seen.add(place)
        self.now += size
        weakref.finalize(storage, self._gone, place, size)
        self.peak = max(self.peak, self.now)

    def _gone(self, place: int, size: int) -> None:
        self._seen.discard(place)
        self.now -= size
