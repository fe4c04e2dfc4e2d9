"""A weight source conditioned on the instance: tensors made of what each row holds, by the hidden states of it.

    m = LN(mean over the real positions)
    z = relu(m W1 + c1) W2 + c2                     in place of a task's embedding
    tensors = the heads of a hypernetwork of (z, layer, block)

The mean is, by the setting `made_of`,

- `encoder`: of the encoder's states, as Hyperdecoders have it (Ivison & Peters 2022, arXiv 2203.08304). All tensors are
  made in one batch as soon as the encoder is through; so they serve the decoder alone.
- `input`: of what each operation reads itself, made when it reads it. In a decoder a mean would see what comes later,
  and would change in cached decoding; there it is the first position alone.

Every row has tensors of its own, made for all rows of a batch at once; they belong to no task, and are never kept or
baked.

Legend: B rows, S positions, d width of hidden states, t embedding width, n operations.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from hyperpelt.errors import UserError
from hyperpelt.tuners.base import Init, masked_mean
from hyperpelt.weights.base import Group, Samples, TensorSource, draw
from hyperpelt.weights.hyper_config import InstanceConfig
from hyperpelt.weights.hypernetwork import HyperNetwork

# Stand-ins for rows while the spread of fresh hyper-embeddings is measured.
STAND_INS = 16


class InstanceHyperNetwork(TensorSource):
    """`instance_hypernetwork`; see the module's text."""

    type_name = "instance_hypernetwork"

    def __init__(
        self,
        groups: Sequence[Group],
        *,
        config: InstanceConfig,
        width: int,
        samples: Samples | None = None,
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__(groups)
        self.config, self.reads_input = config, config.made_of == "input"
        for group in groups:
            if self.reads_input:
                _check_input(group, width)
            else:
                _check_decoder(group)
        h, t = config.hidden_dim, config.embedding_dim
        self.inner = nn.Parameter(draw((width, h), Init("uniform", (6 / width) ** 0.5), generator))
        self.inner_bias = nn.Parameter(draw((h,), Init("zeros"), generator))
        self.outer = nn.Parameter(draw((h, t), Init("uniform", (3 / h) ** 0.5), generator))
        self.outer_bias = nn.Parameter(draw((t,), Init("zeros"), generator))
        whole = replace(config, expand_rows=False, description_dropout=0.0, description_form="map")
        self.network = HyperNetwork(groups, STAND_INS, config=whole, samples=samples, generator=generator)
        self.network.register_parameter("task_embeddings", None)

    def matrices(self) -> dict[str, int]:
        """Names of the matrices of this module and the width of what each reads."""
        return {"inner": self.inner.shape[0], "outer": self.outer.shape[0]}

    def task_parameters(self) -> Iterator[tuple[nn.Module, str]]:
        """None: nothing here belongs to a task."""
        return iter(())

    def add_task(self, mix: Float[Tensor, " T"]) -> None:
        """Nothing to make room for: rows are of every task."""

    def embedded(self, mean: Float[Tensor, "B 1 d"]) -> Float[Tensor, "B 1 t"]:
        """z of each row."""
        mean = torch.nn.functional.layer_norm(mean.to(self.inner.dtype), mean.shape[-1:])
        return torch.relu(mean @ self.inner + self.inner_bias) @ self.outer + self.outer_bias

    def forward(
        self, states: Float[Tensor, "B S d"], mask: Bool[Tensor, "B S"] | None
    ) -> dict[str, Float[Tensor, "B n *shape"]]:
        """For each group key the tensors of each row, from the encoder's states."""
        return self.network.tensors_of(self.embedded(masked_mean(states.to(self.inner.dtype), mask)))

    def at(self, name: str, mean: Float[Tensor, "B 1 d"]) -> dict[str, Float[Tensor, "B ..."]]:
        """For each group key the tensors of each row at the operation `name`, from the mean of what it reads."""
        return self.network.tensors_at(name, self.embedded(mean))


def _check_decoder(group: Group) -> None:
    for operation in group.operations:
        if operation.stack != "decoder":
            raise UserError(
                f"Part {group.part!r} wants tensors made from the encoder's states at {operation.name!r}, which runs "
                "before these exist: give it operations of the decoder ('decoder.*'), or make them from what each "
                "operation reads (`made_of: input`)."
            )


def _check_input(group: Group, width: int) -> None:
    if group.spec.owner == "part":
        raise UserError(
            f"Tensor {group.tensor!r} of part {group.part!r} is one for all its operations, so it cannot be made of "
            f"what each of them reads: give it another source, as in `source: {{{group.tensor}: shared}}`."
        )
    for operation in group.operations:
        if operation.d_in != width:
            raise UserError(
                f"Part {group.part!r} wants tensors made of what {operation.name!r} reads, which is {operation.d_in} "
                f"wide and no hidden state ({width}): leave that operation out of `at`."
            )
