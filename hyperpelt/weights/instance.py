"""A weight source conditioned on the instance: tensors made of what the encoder wrote for each row.

    m = LN(mean over the real positions of the encoder's states)
    z = relu(m W1 + c1) W2 + c2                     in place of a task's embedding
    tensors = the heads of a hypernetwork of (z, layer, block)

as Hyperdecoders do (Ivison & Peters 2022, arXiv 2203.08304). Every row has tensors of its own, made in one batch as
soon as the encoder is through; so they serve the decoder alone, belong to no task, and are never kept or baked.

Legend: B rows, S positions, d width of the encoder's states, t embedding width, n operations.
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
from hyperpelt.weights.hyper_config import HyperNetworkConfig
from hyperpelt.weights.hypernetwork import HyperNetwork

# Stand-ins for rows while the spread of fresh hyper-embeddings is measured.
STAND_INS = 16


class InstanceHyperNetwork(TensorSource):
    """`instance_hypernetwork`; see the module's text. Its settings are a hypernetwork's."""

    type_name = "instance_hypernetwork"

    def __init__(
        self,
        groups: Sequence[Group],
        *,
        config: HyperNetworkConfig,
        width: int,
        samples: Samples | None = None,
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__(groups)
        self.config = config
        for group in groups:
            for operation in group.operations:
                if operation.stack != "decoder":
                    raise UserError(
                        f"Part {group.part!r} wants tensors made of the encoder's states at {operation.name!r}, which "
                        "runs before they are there: give it operations of the decoder ('decoder.*')."
                    )
        h, t = config.hidden_dim, config.embedding_dim
        self.inner = nn.Parameter(draw((width, h), Init("uniform", (6 / width) ** 0.5), generator))
        self.inner_bias = nn.Parameter(draw((h,), Init("zeros"), generator))
        self.outer = nn.Parameter(draw((h, t), Init("uniform", (3 / h) ** 0.5), generator))
        self.outer_bias = nn.Parameter(draw((t,), Init("zeros"), generator))
        whole = replace(config, expand_rows=False, description_dropout=0.0)
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

    def forward(
        self, states: Float[Tensor, "B S d"], mask: Bool[Tensor, "B S"] | None
    ) -> dict[str, Float[Tensor, "B n *shape"]]:
        """For each group key the tensors of each row."""
        mean = masked_mean(states.to(self.inner.dtype), mask)
        mean = torch.nn.functional.layer_norm(mean, mean.shape[-1:])
        z = torch.relu(mean @ self.inner + self.inner_bias) @ self.outer + self.outer_bias
        return self.network.tensors_of(z)
