"""The shared hypernetwork: from embeddings of task, layer and block to the tensors of every operation.

HyperPELT (arXiv 2203.03878) and HyperFormer++ (2106.04489) are two settings of the same few equations:

    I[tau, l, j] = relu([z_tau ; l_l ; b_j] W1 + c1) W2 + c2      the hyper-embedding, optionally layer-normed
    tensor       = head(I)                                        one head a tensor kind, linear or with a tanh layer

For row-wise tensors (prefixes, prompts) each embedding has N rows, so that I is [N, e] and the head makes one row
from each; other tensors are made from the mean of the rows. The trunk and the heads may be shared by all operations
or kept per stack, per kind of block, or per operation. All operations and all distinct tasks of a batch go through
each head in one matmul.

Start (`init`):
- `plain`: the tensors start as the same tuner would without a hypernetwork. Constant ones exactly (head weight 0,
  bias the constant): a fresh adapter adds nothing, bit for bit. Drawn ones: the head's bias is one draw of the tuner's
  own distribution (weight 0), or for row-wise ones the head's weight is scaled so that entries have its deviation.
  The embeddings get no gradient in the very first step where all weights are 0; they do from the second on.
- `fan_in`: hyperfan-in (as Hyperdecoders use it, 2203.08304): weights uniform of bound sqrt(3 / (e var(I))) times the
  deviation of the tuner's own distribution, var(I) measured; constants stay exact.
- `normal`: N(0, 0.01^2) and zero biases, as HyperFormer's code. Collapses on T5-v1.1 (see docs/methods.md).

Legend: T tasks, U asked for, n operations, N rows, t embedding width, e hyper-embedding width.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from hyperpelt.errors import UserError
from hyperpelt.tuners.base import Init
from hyperpelt.weights.base import Group, Samples, WeightSource, draw, safe, standardise
from hyperpelt.weights.description import DescriptionMap, Descriptions, Neighbours
from hyperpelt.weights.heads import HeadSet
from hyperpelt.weights.hyper_config import SHARING, HyperNetworkConfig
from hyperpelt.weights.trunk import Trunk


class HyperNetwork(WeightSource):
    """One shared network that makes the tensors of all groups; see the module's text."""

    type_name = "hypernetwork"

    def __init__(
        self,
        groups: Sequence[Group],
        num_tasks: int,
        *,
        config: HyperNetworkConfig | None = None,
        samples: Samples | None = None,
        generator: torch.Generator | None = None,
        width: int | None = None,
        num_rows: int | None = None,
    ) -> None:
        super().__init__(groups, num_tasks)
        self.config = config = config or HyperNetworkConfig()
        self.num_rows = num_rows or self._rows(groups, config)
        t = config.embedding_dim
        self.task_embeddings: nn.Parameter | None = None
        self.description: Descriptions | None = None
        if config.described:
            self.description = self._reader(num_tasks, width, generator, alone=True)
        else:
            drawn = draw((num_tasks, self.num_rows, t), Init("normal", config.embedding_std), generator)
            self.task_embeddings = nn.Parameter(drawn)
        self.dropped = config.description_dropout
        operations = list({op.name: op for group in groups for op in group.operations}.values())
        label = SHARING[config.trunk]
        self.order = {op.name: i for i, op in enumerate(sorted(operations, key=label))}
        stacks = sorted({label(op) for op in operations})
        counted: Counter[str] = Counter()
        self.trunk_of: dict[str, tuple[str, int]] = {}  # operation name -> its trunk and its place there
        for op in operations:
            self.trunk_of[op.name] = (label(op), counted[label(op)])
            counted[label(op)] += 1
        self.trunks = nn.ModuleDict(
            {
                name: Trunk(config, [op for op in operations if label(op) == name], self.num_rows, generator)
                for name in stacks
            }
        )
        self.heads = nn.ModuleDict()
        self.order_of: dict[str, tuple[int, ...]] = {}  # group key -> which hyper-embeddings its heads read
        for group in groups:
            self._add_head(group, samples, generator)
        if config.description_dropout:  # drawn last, so that all else starts as it does without
            self.description = self._reader(num_tasks, width, generator)

    def _add_head(self, group: Group, samples: Samples | None, generator: torch.Generator | None) -> None:
        """The heads of a group, what they read, and the activations that its tensors are in units of."""
        config = self.config
        row_wise = group.spec.row_wise and config.expand_rows
        head = HeadSet(
            group,
            config.head(group.part),
            row_wise,
            config.hyper_dim,
            config.init,
            generator,
            spread=self._spread(row_wise, group.spec.owner == "part"),
        )
        self.heads[safe(group.key)] = head
        index = [self.order[op.name] for op in group.operations]
        index = index if group.spec.owner == "part" else [index[place] for place in head.order]
        self.order_of[group.key] = tuple(index)
        self.register_buffer(f"{safe(group.key)}__index", torch.tensor(index), persistent=False)
        real = standardise(group, samples)
        if real is not None:
            self.register_buffer(f"{safe(group.key)}__mean", real[0])
            self.register_buffer(f"{safe(group.key)}__std", real[1])

    def _reader(
        self, num_tasks: int, width: int | None, generator: torch.Generator | None, *, alone: bool = False
    ) -> Descriptions:
        assert width is not None, "the width of the backbone's states decides the size of the map"
        t, std = self.config.embedding_dim, self.config.embedding_std
        if self.config.description_form == "neighbours":
            return Neighbours(num_tasks, width)
        return DescriptionMap(num_tasks, self.num_rows, t, width, t, generator, alone=alone, std=std)

    @staticmethod
    def _rows(groups: Sequence[Group], config: HyperNetworkConfig) -> int:
        counts = {group.spec.shape[0] for group in groups if group.spec.row_wise and config.expand_rows}
        if len(counts) > 1:
            raise UserError(
                f"The prefixes and prompts made by one hypernetwork must have equally many rows, got {sorted(counts)}. "
                "Give them one length, or set expand_rows=false, or give the parts different sources."
            )
        return counts.pop() if counts else 1

    @torch.no_grad()
    def _spread(self, row_wise: bool, whole: bool) -> float:
        """Deviation of I (a layer norm makes it 1) or of its mean over the N rows and, for a `whole` part, operations,
        as the embeddings were drawn.
        """
        one_row = row_wise or self.num_rows == 1
        meta = any(parameter.is_meta for parameter in self.trunks.parameters())
        if meta or (one_row and self.config.normalise and not whole):
            return 1.0
        made = self._hyper_embeddings(self.embeddings(torch.arange(self.num_tasks)))
        made = made if one_row else made.mean(dim=2)
        return float((made.mean(dim=1) if whole else made).square().mean().sqrt().clamp(min=1e-6))

    def hyper_embeddings(self, tasks: Int[Tensor, " U"]) -> Float[Tensor, "U n N e"]:
        """I for the given tasks and all operations, in the order of `self.order`."""
        return self._hyper_embeddings(self._embeddings(tasks))

    def _hyper_embeddings(self, task: Float[Tensor, "U N t"]) -> Float[Tensor, "U n N e"]:
        made = [trunk(task) for trunk in self.trunks.values()]
        return made[0] if len(made) == 1 else torch.cat(made, dim=1)

    def _embeddings(self, tasks: Int[Tensor, " U"]) -> Float[Tensor, "U N t"]:
        """The tasks' own embeddings; in training now and then what their words make of them."""
        always = self.task_embeddings is None
        if self.description is None or not self.training or not (self.dropped or always):
            return self.embeddings(tasks)
        if not torch.compiler.is_compiling() and not self.description.is_told:
            raise UserError(
                "This method reads its tasks' descriptions, but they were not given: call tell_tasks(model, tasks) of "
                "hyperpelt.model.descriptions before training (`hyperpelt train` does)."
            )
        if always:
            return self.embeddings(tasks)
        by_words = torch.rand(tasks.shape[0], device=tasks.device) < self.dropped
        return torch.where(by_words[:, None, None], self.by_words(tasks), self.embeddings(tasks))

    def embeddings(self, tasks: Int[Tensor, " U"]) -> Float[Tensor, "U N t"]:
        """The tasks' embeddings: their own, or what their descriptions give where they have none."""
        return self.by_words(tasks) if self.task_embeddings is None else self.task_embeddings.index_select(0, tasks)

    def by_words(self, tasks: Int[Tensor, " U"]) -> Float[Tensor, "U N t"]:
        """What the tasks' descriptions give as their embeddings."""
        if isinstance(self.words, DescriptionMap):
            return self.words(tasks)
        assert self.task_embeddings is not None, "neighbours have embeddings of their own"
        return self.words(tasks, self.task_embeddings)

    @property
    def words(self) -> Descriptions:
        """What is read of tasks and made of it, of a network that does so (`description` is not None)."""
        assert self.description is not None
        return self.description

    def task_parameters(self) -> Iterator[tuple[nn.Module, str]]:
        if self.task_embeddings is not None:
            yield self, "task_embeddings"

    def add_task(self, mix: Float[Tensor, " T"]) -> None:
        super().add_task(mix)
        if self.description is not None:
            known = self.words.vectors
            mixture = torch.tensordot(mix.to(known), known, dims=1) if self.config.described else None
            self.description.add_task(mixture)

    def forward(self, tasks: Int[Tensor, " U"]) -> dict[str, Float[Tensor, "u n *shape"]]:
        return self.tensors_of(self._embeddings(tasks))

    def tensors_of(self, task: Float[Tensor, "U N t"]) -> dict[str, Float[Tensor, "u n *shape"]]:
        """The tensors made of given embeddings, of tasks or of what stands in their place."""
        rows = self._hyper_embeddings(task)
        mean = rows.mean(dim=2, keepdim=True) if self.num_rows > 1 else rows
        everything = tuple(range(rows.shape[1]))
        chosen = {(True, everything): rows, (False, everything): mean}
        result = {}
        for key, group in self.groups.items():
            head = self.heads[safe(key)]
            assert isinstance(head, HeadSet)
            label = head.row_wise, self.order_of[key]
            if label not in chosen:
                index = getattr(self, f"{safe(key)}__index")
                chosen[label] = chosen[head.row_wise, everything].index_select(1, index)
            made = chosen[label]
            if group.spec.owner == "part":  # what its operations have in common
                made = made.mean(dim=1, keepdim=True)
            values = head(made)
            centre = getattr(self, f"{safe(key)}__mean", None)
            result[key] = (
                values if centre is None else torch.addcmul(centre, getattr(self, f"{safe(key)}__std"), values)
            )
        return result

    def tensors_at(self, name: str, task: Float[Tensor, "U N t"]) -> dict[str, Float[Tensor, "U ..."]]:
        """The tensors of the operation `name` alone."""
        trunk, number = self.trunk_of[name]
        rows = self.trunks[trunk](task, slice(number, number + 1))
        mean = rows.mean(dim=2, keepdim=True) if self.num_rows > 1 else rows
        result = {}
        for key, group in self.groups.items():
            place = next((i for i, op in enumerate(group.operations) if op.name == name), None)
            if place is None:
                continue
            head = self.heads[safe(key)]
            assert isinstance(head, HeadSet)
            values = head.at(rows if head.row_wise else mean, place)
            if (centre := getattr(self, f"{safe(key)}__mean", None)) is not None:
                values = centre[place] + getattr(self, f"{safe(key)}__std")[place] * values
            result[key] = values
        return result
