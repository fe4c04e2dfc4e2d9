"""The trunk of a hypernetwork: from embeddings of task, layer and block to hyper-embeddings.

See `hyperpelt.weights.hypernetwork` for the equations.

Legend: U tasks asked for, n operations, N rows, t embedding width, h trunk width, e hyper-embedding width.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor, nn

from hyperpelt.operations import Operation
from hyperpelt.tuners.base import Init
from hyperpelt.tuners.remade import autocast
from hyperpelt.weights.base import draw
from hyperpelt.weights.hyper_config import HyperNetworkConfig, block_of
from hyperpelt.weights.layers import Mixed, mixed

EVERY = slice(None)


class Residual(nn.Module):
    """I + silu(LN(I) U1 + d1) U2 + d2."""

    def __init__(self, e: int, h: int, generator: torch.Generator | None) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(e, eps=1e-6)
        self.inner = nn.Parameter(draw((e, h), Init("uniform", (6 / e) ** 0.5), generator))
        self.inner_bias = nn.Parameter(draw((h,), Init("zeros"), generator))
        self.outer = nn.Parameter(draw((h, e), Init("uniform", (3 / h) ** 0.5), generator))
        self.outer_bias = nn.Parameter(draw((e,), Init("zeros"), generator))

    def matrices(self) -> dict[str, int]:
        """The width that each matrix reads."""
        return {"inner": self.inner.shape[0], "outer": self.outer.shape[0]}

    def forward(self, made: Float[Tensor, "U n N e"]) -> Float[Tensor, "U n N e"]:
        hidden = torch.nn.functional.silu(self.norm(made) @ self.inner + self.inner_bias)
        return made + hidden @ self.outer + self.outer_bias


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
        kinds = sorted({block_of(op) for op in operations})
        layers = sorted({op.layer for op in operations})
        self.register_buffer("layers", torch.tensor([layers.index(op.layer) for op in operations]), persistent=False)
        blocks = [kinds.index(block_of(op)) for op in operations]
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
        self.blocks_after = nn.ModuleList(Residual(e, h, generator) for _ in range(config.residual_blocks))
        self.norm = nn.LayerNorm(e, eps=1e-6) if config.normalise else None

    def matrices(self) -> dict[str, int]:
        """The width that each matrix reads."""
        inner = {f"inner.{name}": matrix.shape[0] for name, matrix in self.inner.items()}
        return {**inner, "outer": self.outer.shape[0]}

    def forward(self, task: Float[Tensor, "U N t"], which: slice = EVERY) -> Float[Tensor, "U n N e"]:
        """I of all its operations, or of those in `which`."""
        parts = [self.inner_bias]
        if "task" in self.inner:
            parts.append((task @ self.inner["task"]).unsqueeze(1))
        for name, index in (("layer", self.layers), ("block", self.blocks)):
            if name in self.inner:
                parts.append((self.embeddings[name] @ self.inner[name]).index_select(0, index[which]))
        compute = mixed if torch.compiler.is_compiling() or autocast(task) else Mixed.apply
        made = compute(self.outer, self.outer_bias, *parts)
        for block in self.blocks_after:
            made = block(made)
        made = made.expand(task.shape[0], len(self.layers[which]), -1, -1)
        return made if self.norm is None else self.norm(made)
