"""Tensors that were made of the weight sources without gradient, kept until what they were made of changes."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from torch import Tensor

MOST = 64  # sets of tasks


class Made:
    """Made tensors by what was asked for, all of them of the same values of the same sources.

    Who changes values in place is told by PyTorch's version counters; who puts others in their place
    (`parameter.data = ...`, `vector_to_parameters`, `load_state_dict(assign=True)`, `functional_call`) by the storage,
    which is held, so that no other one comes to stand where it stood. Changes in place of `parameter.data` are told by
    neither: after these call `eval()` or `train()`.
    """

    def __init__(self) -> None:
        self._sets: dict[Any, dict[str, Tensor]] = {}
        self._of: list[tuple[Any, Any, int]] = []

    def of(self, tensors: Iterable[Tensor]) -> dict[Any, dict[str, Tensor]] | None:
        """What was made of these and is still right, for the caller to add to; None where nobody would tell."""
        every = list(tensors)
        if any(tensor.is_inference() for tensor in every):  # without version counters
            return None
        now = [(tensor.untyped_storage(), tensor.storage_offset(), tensor._version) for tensor in every]
        same = len(now) == len(self._of) and all(
            a is b and rest == others for (a, *rest), (b, *others) in zip(now, self._of, strict=True)
        )
        self._sets = dict(list(self._sets.items())[-MOST:]) if same else {}
        self._of = now
        return self._sets
