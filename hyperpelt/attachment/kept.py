"""What the attentions of one pass ask for more than once: a stack's joined mask, and joined keys and values."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any
from weakref import ref

import torch
from torch import Tensor

from hyperpelt.operations import Operation


class Kept:
    """Joined masks by stack and kind of attention, and by cross-attention the keys and values it asked with last."""

    def __init__(self) -> None:
        self._masks: dict[str, tuple[Any, Any, Any]] = {}
        self._rows: dict[str, tuple[ref[Tensor], Any]] = {}

    def mask(
        self,
        operation: Operation,
        tensors: tuple[Any, ...],
        sizes: tuple[int, ...],
        make: Callable[[], Any],
        *,
        part: int | None = None,
    ) -> Any:
        """The joined mask of an attention: made once for all layers of a stack that ask with the same ingredients.

        T5's layers share one position bias, so its sum with the mask need not be built (and saved) in every layer.
        **part**: the rows' number of images, where the batch is parted by it.
        """
        label = f"{operation.stack}.{operation.kind}.{part}"
        if label in self._masks:
            known_tensors, known_sizes, mask = self._masks[label]
            if known_sizes == sizes and all(a is b for a, b in zip(known_tensors, tensors, strict=True)):
                return mask
        mask = make()
        if mask is None or not mask.requires_grad:
            self._masks[label] = (tensors, sizes, mask)
        return mask

    def rows(
        self, operation: Operation, key: Tensor, make: Callable[[], tuple[Tensor, Tensor]]
    ) -> tuple[Tensor, Tensor]:
        """Keys and values with their prefix; kept where an attention asks for the same ones again.

        Cross-attention does, token by token, as long as its cache gives the same `key`. The first time nothing is
        kept, so that a pass which asks once holds no second copy.
        """
        if operation.kind != "cross_attention" or torch.is_grad_enabled() or torch.compiler.is_compiling():
            return make()
        known, kept = self._rows.get(operation.name, (None, None))
        again = known is not None and known() is key
        if again and kept is not None:
            return kept
        made = make()
        self._rows[operation.name] = (ref(key), made if again else None)
        return made
