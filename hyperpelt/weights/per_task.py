"""One set of tensors per task, one set for all tasks, and the MLP reparametrisation that baking folds away.

`PerTask` keeps [T, n, *shape] for each group. `Shared` is the same with T = 1 whatever the task: VL-Adapter's
"single adapter". With `hidden=m` the tensors of a task are made by an MLP over row embeddings (Li & Liang 2021,
section 4.3; `adapters` groups by attention kind the same way):

    P = tanh(E W1 + c1) W2 + c2,    E [N, d_e], W1 [d_e, m], W2 [m, all widths of the layers and tensors]

one (E, W1, W2) for each (stack, site) of a part, for the row-wise tensors (prefixes, prompts); others stay flat.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from math import prod
from typing import Any

import torch
from jaxtyping import Float, Int, Num
from torch import Tensor, nn

from hyperpelt.tuners.base import Init
from hyperpelt.weights.base import Group, Samples, WeightSource, draw, draw_group, safe, standardise


class PerTask(WeightSource):
    """Flat tensors, one set a task."""

    type_name = "per_task"

    def __init__(
        self,
        groups: Sequence[Group],
        num_tasks: int,
        *,
        samples: Samples | None = None,
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__(groups, num_tasks)
        # Every task starts from the same values: what sets tasks apart is learned, not drawn.
        self.tensors = nn.ParameterDict(
            {
                safe(group.key): nn.Parameter(
                    draw_group(group, 1, samples, generator).repeat_interleave(num_tasks, dim=0)
                )
                for group in groups
            }
        )

    def forward(self, tasks: Int[Tensor, " U"]) -> dict[str, Float[Tensor, "u n *shape"]]:
        stored = {key: self.tensors[safe(key)] for key in self.groups}
        if self.num_tasks == 1 or not stored:
            return stored
        return {key: tensor.index_select(0, tasks) for key, tensor in stored.items()}

    @torch.no_grad()
    def keep(self, values: Mapping[str, Num[Tensor, "u n *shape"]]) -> None:
        for key in self.groups:
            self.tensors[safe(key)].copy_(values[key])

    def task_parameters(self) -> Iterator[tuple[nn.Module, str]]:
        yield from ((self.tensors, name) for name in self.tensors)


class Shared(PerTask):
    """One set of tensors for all tasks."""

    type_name = "shared"

    def __init__(self, groups: Sequence[Group], num_tasks: int, **options: Any) -> None:
        super().__init__(groups, 1, **options)

    def task_parameters(self) -> Iterator[tuple[nn.Module, str]]:
        return iter(())

    def add_task(self, mix: Float[Tensor, " T"]) -> None:
        """Nothing to make room for: every task uses the same tensors."""


class Bundle(nn.Module):
    """The MLP of one (part, stack, site): makes all its tensors, for all its operations, row by row.

    For T tasks the weights are batched: E [T N d_e], W1 [T d_e m], W2 [T m w].
    """

    def __init__(
        self,
        pieces: Sequence[tuple[Group, list[int]]],
        num_tasks: int,
        width: int,
        hidden: int,
        generator: torch.Generator | None,
    ) -> None:
        super().__init__()
        self.pieces = [(group, indices) for group, indices in pieces]
        self.num_rows = pieces[0][0].spec.shape[0]
        self.sizes = [len(indices) * prod(group.spec.shape) // self.num_rows for group, indices in pieces]

        def parameter(*shape: int, std: float) -> nn.Parameter:
            return nn.Parameter(draw(shape, Init("normal", std), generator).repeat_interleave(num_tasks, dim=0))

        self.embedding = parameter(1, self.num_rows, width, std=1.0)
        self.inner = parameter(1, width, hidden, std=width**-0.5)
        self.inner_bias = nn.Parameter(draw((num_tasks, 1, hidden), Init("zeros"), generator))
        self.outer = parameter(1, hidden, sum(self.sizes), std=hidden**-0.5)
        self.outer_bias = nn.Parameter(draw((num_tasks, 1, sum(self.sizes)), Init("zeros"), generator))
        self.start_like(generator)

    def start_like(self, generator: torch.Generator | None) -> None:
        """Scale the output layer piece by piece so that constants start exact and drawn tensors at their deviation."""
        if self.outer.is_meta:
            return
        with torch.no_grad():
            for weight, bias, (group, _) in zip(
                self.outer.split(self.sizes, -1), self.outer_bias.split(self.sizes, -1), self.pieces, strict=True
            ):
                # tanh of a unit normal has a standard deviation of about 0.63.
                weight.mul_(group.spec.init.std / 0.63)
                bias.fill_(group.spec.init.constant or 0.0)

    def forward(self, tasks: Int[Tensor, " U"]) -> list[Float[Tensor, "U n *shape"]]:
        embedding, inner, inner_bias, outer, outer_bias = (
            t.index_select(0, tasks) for t in (self.embedding, self.inner, self.inner_bias, self.outer, self.outer_bias)
        )
        hidden = torch.tanh(torch.baddbmm(inner_bias, embedding, inner))
        flat = torch.baddbmm(outer_bias, hidden, outer)
        made = []
        for piece, (group, indices) in zip(flat.split(self.sizes, dim=-1), self.pieces, strict=True):
            made.append(piece.unflatten(-1, (len(indices), *group.spec.shape[1:])).movedim(2, 1))
        return made


class Reparametrised(WeightSource):
    """Per-task tensors made by an MLP over row embeddings; see the module's text."""

    type_name = "per_task"

    def __init__(
        self,
        groups: Sequence[Group],
        num_tasks: int,
        *,
        hidden: int,
        samples: Samples | None = None,
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__(groups, num_tasks)
        by_bundle: dict[str, list[tuple[Group, list[int]]]] = defaultdict(list)
        row_wise = [group for group in groups if group.spec.row_wise]
        for group in row_wise:
            indices: dict[str, list[int]] = defaultdict(list)
            for index, (op, *_) in enumerate(group.places):
                indices[f"{group.part}__{op.stack}_{op.site}__{group.spec.shape[0]}"].append(index)
            for name, chosen in indices.items():
                by_bundle[name].append((group, chosen))
        self.bundles = nn.ModuleDict(
            {
                name: Bundle(pieces, num_tasks, pieces[0][0].operations[0].d_in, hidden, generator)
                for name, pieces in by_bundle.items()
            }
        )
        rest = [group for group in groups if not group.spec.row_wise]
        self.flat = PerTask(rest, num_tasks, samples=samples, generator=generator)
        for group in row_wise:
            real = standardise(group, samples)
            if real is not None:
                self.register_buffer(f"{safe(group.key)}__mean", real[0])
                self.register_buffer(f"{safe(group.key)}__std", real[1])

    def forward(self, tasks: Int[Tensor, " U"]) -> dict[str, Float[Tensor, "u n *shape"]]:
        pieces: dict[str, list[Tensor]] = defaultdict(list)
        order: dict[str, list[int]] = defaultdict(list)
        for bundle in self.bundles.values():
            assert isinstance(bundle, Bundle)
            for (group, indices), made in zip(bundle.pieces, bundle(tasks), strict=True):
                pieces[group.key].append(made)
                order[group.key] += indices
        result = self.flat(tasks)
        for key, made in pieces.items():
            values = torch.cat(made, dim=1)
            if order[key] != sorted(order[key]):
                back = sorted(range(len(order[key])), key=order[key].__getitem__)
                values = torch.stack([values[:, i] for i in back], dim=1)
            mean = getattr(self, f"{safe(key)}__mean", None)
            result[key] = values if mean is None else mean + getattr(self, f"{safe(key)}__std") * values
        return result

    def task_parameters(self) -> Iterator[tuple[nn.Module, str]]:
        for bundle in self.bundles.values():
            yield from ((bundle, name) for name, _ in bundle.named_parameters(recurse=False))
        yield from self.flat.task_parameters()

    def add_task(self, mix: Float[Tensor, " T"]) -> None:
        super().add_task(mix)
        self.flat.num_tasks = self.num_tasks
