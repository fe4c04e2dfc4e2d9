"""From words to a task embedding: what a hypernetwork reads of a task whose id it does not know.

    v       = [state of the instruction ; mean state of a few rendered inputs]      the frozen encoder's reading
    x       = (v - mean over the trained tasks) / their root mean square
    map:        z_words = rows + tanh(x W1 + c1) W2                                  [N, t], W2 the same for all rows
    neighbours: z_words = sum_s a_s z_s,  a = softmax over s != t of e^b cos(x, x_s)

Either is trained jointly with everything else: with probability `description_dropout` a task of a training batch is
known by its words alone, and z_words takes the place of its own embedding. Afterwards a task that nobody trained gets
an embedding, and through the hypernetwork all its weights, from its words. There are few tasks to learn this from, so
the map is kept small: only t numbers of an embedding come from the words, about half of the rendered inputs are read
at a time in training, and a tenth of x is dropped.

Neighbours have one number to learn, the sharpness b. A trained task that is known by its words alone is made of the
*other* trained tasks' embeddings, as a task will be that nobody trained: so these come to serve for each other as far
as their words are alike.

A network whose tasks are `described` has no other embeddings. There the map reads the instruction alone, v is its
state, and nothing of it is dropped, so that a step does not depend on how its batch is divided.

The vectors of the known tasks are part of the saved model.

Legend: T tasks, U asked for, K vectors of a task (the instruction, then inputs), d model width, N rows, t embedding
width, h hidden width; t, s: the task that is read, a trained task.
"""

from __future__ import annotations

import math

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn.functional import dropout

from hyperpelt.tuners.base import Init
from hyperpelt.weights.base import draw

NUM_INPUTS = 8  # rendered inputs that are read of each task
DROPPED = 0.1  # of what the map reads, in training
SHARPNESS = 8.0  # e^b at the start
FORMS = ("map", "neighbours")


class Descriptions(nn.Module):
    """The description vectors of a model's tasks, and x; see the module's text.

    - **alone**: the instruction is all that is read
    """

    def __init__(self, num_tasks: int, width: int, *, alone: bool = False) -> None:
        super().__init__()
        self._told, self.alone = False, alone
        self.register_buffer("vectors", torch.zeros(num_tasks, 1 + NUM_INPUTS, width))
        self.register_buffer("centre", torch.zeros(width if alone else 2 * width))
        self.register_buffer("scale", torch.ones(()))

    @property
    def is_told(self) -> bool:
        """Whether the tasks' vectors were given (or loaded); they are never all zero then."""
        self._told = self._told or (not self.vectors.is_meta and bool(self.vectors.any()))
        return self._told

    @torch.no_grad()
    def tell(self, vectors: Float[Tensor, "T K d"]) -> None:
        """Take the description vectors of the tasks that are trained; they fix what x is measured against."""
        self._told = True
        self.vectors.copy_(vectors)
        both = self._whole(self.vectors)
        # One task alone has no neighbours to be told from.
        self.centre.copy_(both.mean(dim=0) if len(both) > 1 else torch.zeros_like(both[0]))
        self.scale.copy_((both - self.centre).square().mean().sqrt().clamp(min=1e-6))

    @torch.no_grad()
    def add_task(self, vectors: Float[Tensor, "K d"] | None = None) -> None:
        """Room for one more task; what x is measured against stays."""
        entry = torch.zeros_like(self.vectors[0]) if vectors is None else vectors.to(self.vectors)
        self.vectors = torch.cat([self.vectors, entry[None]])

    def _x(self, both: Float[Tensor, "U d2"]) -> Float[Tensor, "U d2"]:
        return (both - self.centre) / self.scale

    def _whole(self, vectors: Float[Tensor, "U K d"]) -> Float[Tensor, "U d2"]:
        """v, with nothing left out."""
        return vectors[:, 0] if self.alone else torch.cat([vectors[:, 0], vectors[:, 1:].mean(dim=1)], dim=1)

    def _both(self, vectors: Float[Tensor, "U K d"]) -> Float[Tensor, "U d2"]:
        """v; in training of half of the inputs."""
        inputs = vectors[:, 1:]
        if not self.training or self.alone:
            return self._whole(vectors)
        chosen = torch.rand(inputs.shape[:2], device=inputs.device)
        half = chosen >= chosen.median(dim=1, keepdim=True).values
        mean = (inputs * half.unsqueeze(-1)).sum(dim=1) / half.sum(dim=1, keepdim=True)
        return torch.cat([vectors[:, 0], mean], dim=1)


class DescriptionMap(Descriptions):
    """z_words by a map that is learnt: `map` in the module's text."""

    def __init__(
        self,
        num_tasks: int,
        rows: int,
        t: int,
        width: int,
        hidden: int,
        generator: torch.Generator | None,
        *,
        alone: bool = False,
        std: float = 1.0,
    ) -> None:
        super().__init__(num_tasks, width, alone=alone)
        read = len(self.centre)
        # Both halves of z_words start with half of the variance that embeddings have.
        self.rows = nn.Parameter(draw((rows, t), Init("normal", std * 0.5**0.5), generator))
        self.inner = nn.Parameter(draw((read, hidden), Init("uniform", (3 / read) ** 0.5), generator))
        self.inner_bias = nn.Parameter(draw((hidden,), Init("zeros"), generator))
        # tanh of a unit normal keeps about 0.63 of the deviation.
        bound = std * 0.5**0.5 / 0.63 * (3 / hidden) ** 0.5
        self.outer = nn.Parameter(draw((hidden, t), Init("uniform", bound), generator))

    def forward(self, tasks: Int[Tensor, " U"]) -> Float[Tensor, "U N t"]:
        """z_words of tasks."""
        x = self._x(self._both(self.vectors.index_select(0, tasks)))
        x = dropout(x, DROPPED, self.training and not self.alone)
        made = torch.tanh(x @ self.inner + self.inner_bias) @ self.outer
        return self.rows + made.unsqueeze(1)

    def matrices(self) -> dict[str, int]:
        """The width that each matrix reads."""
        return {"inner": self.inner.shape[0], "outer": self.outer.shape[0]}


class Neighbours(Descriptions):
    """z_words of the embeddings of tasks whose words are near: `neighbours` in the module's text."""

    def __init__(self, num_tasks: int, width: int) -> None:
        super().__init__(num_tasks, width)
        # Those that were trained, of which others are made; a task that is added later is no neighbour.
        self.register_buffer("trained", torch.ones(num_tasks, dtype=torch.bool))
        self.sharpness = nn.Parameter(draw((), Init("constant", math.log(SHARPNESS)), None))

    @torch.no_grad()
    def add_task(self, vectors: Float[Tensor, "K d"] | None = None) -> None:
        super().add_task(vectors)
        self.trained = torch.cat([self.trained, torch.zeros_like(self.trained[:1])])

    def forward(self, tasks: Int[Tensor, " U"], embeddings: Float[Tensor, "T N t"]) -> Float[Tensor, "U N t"]:
        """z_words of tasks, from the embeddings of all."""
        return torch.tensordot(self.shares(tasks), embeddings, dims=1)

    def shares(self, tasks: Int[Tensor, " U"]) -> Float[Tensor, "U T"]:
        """a. A task's share of itself is 0, unless no other was trained."""
        own = tasks[:, None] == torch.arange(len(self.trained), device=tasks.device)
        possible = self.trained & ~own
        possible = possible | (own & ~possible.any(dim=1, keepdim=True))
        read = self._x(self._both(self.vectors.index_select(0, tasks)))
        known = self._x(self._whole(self.vectors))
        cosine = torch.cosine_similarity(read[:, None], known[None], dim=-1)
        return (self.sharpness.exp() * cosine).masked_fill(~possible, -torch.inf).softmax(dim=1)
