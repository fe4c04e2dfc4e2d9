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

Legend: T tasks, U asked for, n operations, N rows, t embedding width, h trunk width, e hyper-embedding width.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from math import prod

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from hyperpelt.errors import UserError
from hyperpelt.operations import Operation
from hyperpelt.tuners.base import Init
from hyperpelt.weights.base import Group, Samples, WeightSource, draw, safe, standardise
from hyperpelt.weights.description import DescriptionMap
from hyperpelt.weights.hyper_config import SHARING, Head, HyperNetworkConfig


class Trunk(nn.Module):
    """h_I: embeddings of task, layer and block to hyper-embeddings I for a fixed list of operations.

    W1 is kept in one piece a source, which is the same product as with the concatenated vector, without building
    [U, n, N, 3t].
    """

    def __init__(
        self, config: HyperNetworkConfig, operations: Sequence[Operation], rows: int, generator: torch.Generator | None
    ) -> None:
        super().__init__()
        t, h, e = config.embedding_dim, config.hidden_dim, config.hyper_dim
        kinds = sorted({f"{op.stack}_{op.site}" for op in operations})
        layers = sorted({op.layer for op in operations})
        self.register_buffer("layers", torch.tensor([layers.index(op.layer) for op in operations]), persistent=False)
        blocks = [kinds.index(f"{op.stack}_{op.site}") for op in operations]
        self.register_buffer("blocks", torch.tensor(blocks), persistent=False)
        sizes = {"layer": len(layers), "block": len(kinds)}
        self.embeddings = nn.ParameterDict(
            {
                name: nn.Parameter(draw((size, rows, t), Init("normal", 1.0), generator))
                for name, size in sizes.items()
                if name in config.reads
            }
        )
        fan_in = t * len(config.reads)
        self.inner = nn.ParameterDict(
            {name: nn.Parameter(draw((t, h), Init("uniform", (6 / fan_in) ** 0.5), generator)) for name in config.reads}
        )
        self.inner_bias = nn.Parameter(draw((h,), Init("zeros"), generator))
        self.outer = nn.Parameter(draw((h, e), Init("uniform", (3 / h) ** 0.5), generator))
        self.outer_bias = nn.Parameter(draw((e,), Init("zeros"), generator))
        self.norm = nn.LayerNorm(e, eps=1e-6) if config.normalise else None

    def matrices(self) -> dict[str, int]:
        """The width that each matrix reads."""
        inner = {f"inner.{name}": matrix.shape[0] for name, matrix in self.inner.items()}
        return {**inner, "outer": self.outer.shape[0]}

    def forward(self, task: Float[Tensor, "U N t"]) -> Float[Tensor, "U n N e"]:
        hidden = self.inner_bias
        if "task" in self.inner:
            hidden = hidden + (task @ self.inner["task"]).unsqueeze(1)
        for name, index in (("layer", self.layers), ("block", self.blocks)):
            if name in self.inner:
                hidden = hidden + (self.embeddings[name] @ self.inner[name]).index_select(0, index)
        made = torch.relu(hidden) @ self.outer + self.outer_bias
        made = made.expand(task.shape[0], len(self.layers), -1, -1)
        return made if self.norm is None else self.norm(made)


class HeadSet(nn.Module):
    """The heads of one group: each serves the operations that share it. Weights are kept per head [g, e, out].

    `spread` is the deviation of what the heads read at the start.
    """

    def __init__(
        self,
        group: Group,
        head: Head,
        row_wise: bool,
        e: int,
        init: str,
        generator: torch.Generator | None,
        *,
        spread: float = 1.0,
    ) -> None:
        super().__init__()
        labels = [SHARING[head.shared](op) for op in group.operations]
        names = sorted(set(labels))
        self.members = [[i for i, label in enumerate(labels) if label == name] for name in names]
        order = torch.tensor([i for members in self.members for i in members])
        self.sorted = bool((order == torch.arange(len(labels))).all()) if not order.is_meta else True
        self.register_buffer("order", order, persistent=False)
        self.register_buffer("back", torch.argsort(order), persistent=False)
        self.row_wise, self.shape = row_wise, group.spec.shape
        out = prod(self.shape[1:]) if row_wise else prod(self.shape)
        count = len(names)
        self.hidden: nn.Parameter | None = None
        if head.hidden:
            # tanh of a unit normal keeps about 0.63 of the deviation.
            self.hidden = nn.Parameter(draw((count, e, head.hidden), Init("normal", e**-0.5 / spread), generator))
            self.hidden_bias = nn.Parameter(draw((count, 1, head.hidden), Init("zeros"), generator))
        width, gain = head.hidden or e, 0.63 if head.hidden else spread
        weight, bias = _start(group, row_wise, (count, width, out), init, gain, generator)
        self.weight, self.bias = nn.Parameter(weight), nn.Parameter(bias)

    def matrices(self) -> dict[str, int]:
        """The width that each matrix reads."""
        hidden = {} if self.hidden is None else {"hidden": self.hidden.shape[-2]}
        return {**hidden, "weight": self.weight.shape[-2]}

    def forward(self, made: Float[Tensor, "U n N e"]) -> Float[Tensor, "U n *shape"]:
        values = self._apply_heads(made if self.sorted else made.index_select(1, self.order))
        if not self.sorted:
            values = values.index_select(1, self.back)
        return values.unflatten(-1, self.shape[1:]) if self.row_wise else values.squeeze(2).unflatten(-1, self.shape)

    def _apply_heads(self, made: Float[Tensor, "U n N e"]) -> Float[Tensor, "U n N out"]:
        if len(self.members) == made.shape[1]:
            return self._layers(made, slice(None))
        pieces = made.split([len(members) for members in self.members], dim=1)
        done = [self._layers(piece, slice(i, i + 1)) for i, piece in enumerate(pieces)]
        return done[0] if len(done) == 1 else torch.cat(done, dim=1)

    def _layers(self, x: Tensor, which: slice) -> Tensor:
        if self.hidden is not None:
            x = torch.tanh(_product(x, self.hidden[which], self.hidden_bias[which]))
        return _product(x, self.weight[which], self.bias[which])


def _product(
    x: Float[Tensor, "U n N e"], weight: Float[Tensor, "g e out"], bias: Float[Tensor, "g 1 out"]
) -> Float[Tensor, "U n N out"]:
    """x W + b, one matrix for all n operations (g = 1) or one an operation (g = n).

    Broadcasting would do, but its backward makes a gradient of W for each (task, operation) before it sums them:
    gigabytes for the widest heads.
    """
    if weight.shape[0] == 1:
        return torch.addmm(bias[0], x.flatten(0, 2), weight[0]).unflatten(0, x.shape[:3])
    each = x.transpose(0, 1).flatten(1, 2)
    return torch.baddbmm(bias, each, weight).unflatten(1, (x.shape[0], x.shape[2])).transpose(0, 1)


def _start(
    group: Group,
    row_wise: bool,
    shape: tuple[int, int, int],
    init: str,
    gain: float,
    generator: torch.Generator | None,
) -> tuple[Tensor, Tensor]:
    """Initial weight [count, width, out] and bias [count, 1, out] of the heads; see the module's text."""
    own, (count, width, out) = group.spec.init, shape
    zero = draw((count, 1, out), Init("zeros"), generator)
    if init == "normal":
        return draw((count, width, out), Init("normal", 0.01), generator), zero
    constant = own.constant
    if constant is not None:
        return draw((count, width, out), Init("zeros"), generator), zero + constant
    if init == "plain" and not row_wise:
        # The same draw for every head: all operations start from it, as all tasks do in `PerTask`.
        bias = draw((1, 1, out), own, generator).repeat_interleave(count, dim=0)
        return draw((count, width, out), Init("zeros"), generator), bias
    return draw((count, width, out), Init("uniform", own.std / gain * (3 / width) ** 0.5), generator), zero


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
        self.task_embeddings = nn.Parameter(draw((num_tasks, self.num_rows, t), Init("normal", 1.0), generator))
        self.description: DescriptionMap | None = None
        self.dropped = config.description_dropout
        operations = list({op.name: op for group in groups for op in group.operations}.values())
        label = SHARING[config.trunk]
        self.order = {op.name: i for i, op in enumerate(sorted(operations, key=label))}
        stacks = sorted({label(op) for op in operations})
        self.trunks = nn.ModuleDict(
            {
                name: Trunk(config, [op for op in operations if label(op) == name], self.num_rows, generator)
                for name in stacks
            }
        )
        self.heads = nn.ModuleDict()
        self.everything: set[str] = set()
        for group in groups:
            row_wise = group.spec.row_wise and config.expand_rows
            self.heads[safe(group.key)] = HeadSet(
                group,
                config.head(group.part),
                row_wise,
                config.hyper_dim,
                config.init,
                generator,
                spread=self._spread(row_wise),
            )
            index = [self.order[op.name] for op in group.operations]
            if index == list(range(len(operations))):
                self.everything.add(group.key)
            self.register_buffer(f"{safe(group.key)}__index", torch.tensor(index), persistent=False)
            real = standardise(group, samples)
            if real is not None:
                self.register_buffer(f"{safe(group.key)}__mean", real[0])
                self.register_buffer(f"{safe(group.key)}__std", real[1])
        if config.description_dropout:  # drawn last, so that all else starts as it does without
            assert width is not None, "the width of the backbone's states decides the size of the map"
            self.description = DescriptionMap(num_tasks, self.num_rows, t, width, hidden=t, generator=generator)

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
    def _spread(self, row_wise: bool) -> float:
        """Deviation of I (a layer norm makes it 1) or of its mean over the N rows, as the embeddings were drawn."""
        one_row = row_wise or self.num_rows == 1
        if self.task_embeddings.is_meta or (one_row and self.config.normalise):
            return 1.0
        made = self.hyper_embeddings(torch.arange(self.num_tasks))
        return float((made if one_row else made.mean(dim=2)).square().mean().sqrt().clamp(min=1e-6))

    def hyper_embeddings(self, tasks: Int[Tensor, " U"]) -> Float[Tensor, "U n N e"]:
        """I for the given tasks and all operations, in the order of `self.order`."""
        return self._hyper_embeddings(self._embeddings(tasks))

    def _hyper_embeddings(self, task: Float[Tensor, "U N t"]) -> Float[Tensor, "U n N e"]:
        made = [trunk(task) for trunk in self.trunks.values()]
        return made[0] if len(made) == 1 else torch.cat(made, dim=1)

    def _embeddings(self, tasks: Int[Tensor, " U"]) -> Float[Tensor, "U N t"]:
        """The tasks' own embeddings; in training now and then what their words make of them."""
        own = self.task_embeddings.index_select(0, tasks)
        if self.description is None or not self.training or not self.dropped:
            return own
        if not torch.compiler.is_compiling() and not self.description.is_told:
            raise UserError(
                "This method has description_dropout, but its tasks' words were not given: call model.tell(read_tasks("
                "...)) of hyperpelt.model.descriptions before training (`hyperpelt train` does)."
            )
        by_words = torch.rand(tasks.shape[0], device=tasks.device) < self.dropped
        return torch.where(by_words[:, None, None], self.description(tasks), own)

    @property
    def words(self) -> DescriptionMap:
        """The map from a task's words to its embedding, of a network that has one (`description` is not None)."""
        assert self.description is not None
        return self.description

    def task_parameters(self) -> Iterator[tuple[nn.Module, str]]:
        yield self, "task_embeddings"

    def add_task(self, mix: Float[Tensor, " T"]) -> None:
        super().add_task(mix)
        if self.description is not None:
            self.description.add_task()

    def forward(self, tasks: Int[Tensor, " U"]) -> dict[str, Float[Tensor, "u n *shape"]]:
        return self.tensors_of(self._embeddings(tasks))

    def tensors_of(self, task: Float[Tensor, "U N t"]) -> dict[str, Float[Tensor, "u n *shape"]]:
        """The tensors made of given embeddings, of tasks or of what stands in their place."""
        rows = self._hyper_embeddings(task)
        mean = rows.mean(dim=2, keepdim=True) if self.num_rows > 1 else rows
        result = {}
        for key in self.groups:
            head = self.heads[safe(key)]
            made = rows if head.row_wise else mean
            if key not in self.everything:
                made = made.index_select(1, getattr(self, f"{safe(key)}__index"))
            values = head(made)
            centre = getattr(self, f"{safe(key)}__mean", None)
            result[key] = values if centre is None else centre + getattr(self, f"{safe(key)}__std") * values
        return result
