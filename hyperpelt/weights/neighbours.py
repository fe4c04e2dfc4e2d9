"""Embeddings made of other tasks' embeddings, by how near those are.

    a_ts    = softmax over s != t of e^b cos(x_t, x_s)
    z_other = sum_s a_ts z_s

b, the sharpness, is learnt. x is what is read of the tasks' words (`hyperpelt.weights.description`), or the embeddings
themselves: a task that now and then is trained as its neighbours would have it (`neighbour_dropout`) comes to lie near
those whose weights serve it, and theirs to serve it.

Legend: T tasks, U asked for, N rows, t embedding width, d width of what is compared.
"""

from __future__ import annotations

import math

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from hyperpelt.tuners.base import Init
from hyperpelt.weights.base import draw

SHARPNESS = 8.0  # e^b at the start


class Sharpness(nn.Module):
    """b, and the shares that it gives."""

    def __init__(self) -> None:
        super().__init__()
        self.sharpness = nn.Parameter(draw((), Init("constant", math.log(SHARPNESS)), None))

    def shares(
        self,
        tasks: Int[Tensor, " U"],
        own: Float[Tensor, "U d"],
        every: Float[Tensor, "T d"],
        trained: Bool[Tensor, " T"] | None = None,
    ) -> Float[Tensor, "U T"]:
        """a. A task's share of itself is 0, unless there is no other `trained` task (None: all are)."""
        same = tasks[:, None] == torch.arange(len(every), device=tasks.device)
        possible = ~same if trained is None else trained & ~same
        possible = possible | (same & ~possible.any(dim=1, keepdim=True))
        cosine = torch.cosine_similarity(own[:, None], every[None], dim=-1)
        return (self.sharpness.exp() * cosine).masked_fill(~possible, -torch.inf).softmax(dim=1)


class Neighbourhood(Sharpness):
    """z_other by the embeddings themselves."""

    def forward(self, tasks: Int[Tensor, " U"], embeddings: Float[Tensor, "T N t"]) -> Float[Tensor, "U N t"]:
        """z_other of tasks, from the embeddings of all."""
        every = embeddings.flatten(1)
        return torch.tensordot(self.shares(tasks, every.index_select(0, tasks), every), embeddings, dims=1)
