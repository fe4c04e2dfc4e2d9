"""Tensors that no gradient trains: frozen ones, which a seed gives back, and the state that a method's course sets.

`Frozen` draws each tensor from the model's seed and its own key, so that it depends on nothing else, and saves nothing:
random projections as VeRA's (Kopiczko et al. 2023, arXiv 2310.11454) cost no byte in a checkpoint. `State` holds one
entry a task (or one for all, where the part's other tensors are shared), which a `Course` may change.

Legend: T tasks, U asked for, n places of a group.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence

import torch
from jaxtyping import Float, Int, Num
from torch import Tensor

from hyperpelt.weights.base import Group, WeightSource, draw_group, safe


class Frozen(WeightSource):
    """Tensors drawn once from a seed, the same for all tasks."""

    type_name = "frozen"

    def __init__(self, groups: Sequence[Group], num_tasks: int, *, seed: int) -> None:
        super().__init__(groups, num_tasks)
        for group in groups:
            label = hashlib.sha256(f"{seed} {group.key} {group.spec.shape}".encode()).digest()
            generator = torch.Generator().manual_seed(int.from_bytes(label[:8], "little") >> 1)
            self.register_buffer(safe(group.key), draw_group(group, 1, None, generator), persistent=False)

    def forward(self, tasks: Int[Tensor, " U"]) -> dict[str, Float[Tensor, "1 n *shape"]]:
        return {key: self.get_buffer(safe(key)) for key in self.groups}

    def fingerprint(self) -> str:
        """A hash that tells whether a seed gave the same tensors here as elsewhere."""
        digest = hashlib.sha256()
        for key in sorted(self.groups):
            digest.update(self.get_buffer(safe(key)).detach().cpu().float().numpy().tobytes())
        return digest.hexdigest()[:16]


class State(WeightSource):
    """Tensors that a course sets; they start as their specs say."""

    type_name = "state"

    def __init__(self, groups: Sequence[Group], num_tasks: int, *, shared: frozenset[str] = frozenset()) -> None:
        super().__init__(groups, num_tasks)
        self.shared = shared  # keys of the groups with one entry for all tasks
        for group in groups:
            copies = 1 if group.key in shared else num_tasks
            values = draw_group(group, 1, None, None).repeat_interleave(copies, dim=0)
            self.register_buffer(safe(group.key), values)

    def forward(self, tasks: Int[Tensor, " U"]) -> dict[str, Num[Tensor, "u n *shape"]]:
        stored = {key: self.get_buffer(safe(key)) for key in self.groups}
        alike = self.shared if self.num_tasks > 1 else stored.keys()
        return {key: value if key in alike else value.index_select(0, tasks) for key, value in stored.items()}

    @torch.no_grad()
    def keep(self, values: Mapping[str, Num[Tensor, "u n *shape"]]) -> None:
        for key in self.groups:
            self.get_buffer(safe(key)).copy_(values[key])

    @torch.no_grad()
    def add_task(self, mix: Float[Tensor, " T"]) -> None:
        """A further task starts with the state of the one that it is most of: states (masks, choices) do not mix."""
        for key in self.groups:
            old = self.get_buffer(safe(key))
            if key not in self.shared:
                self.register_buffer(safe(key), torch.cat([old, old[mix.argmax()][None]]))
        self.num_tasks += 1

    @torch.no_grad()
    def start_task(self, index: int, mix: Float[Tensor, " T"]) -> None:
        """Task number `index` starts (again) with the state of the one that it is most of."""
        for key in self.groups:
            if key not in self.shared:
                values = self.get_buffer(safe(key))
                values[index] = values[mix.argmax()]
