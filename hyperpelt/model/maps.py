"""How near a model's tasks are to each other: by the tensors that are made for them, and by what makes these.

Embeddings barely move from where they were drawn, so their cosines say little. Tensors that are made for a task do: in
units of their own size, and measured from the mean of all tasks, which holds what the tasks have in common.

Letters: T tasks, D values.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from hyperpelt.weights import HyperNetwork

if TYPE_CHECKING:
    from hyperpelt.model.tuned import TunedModel
    from hyperpelt.weights.trunk import Trunk

MOST_VALUES = 200_000_000  # T x D that a map at the end of training may take


@torch.no_grad()
def similarities(model: TunedModel) -> dict[str, Float[np.ndarray, "T T"]]:
    """The maps that need no data; those of embeddings only where there is a hypernetwork."""
    found = {}
    vectors = task_vectors(model)
    for name, values in vectors.items():
        centred = name in ("weights", "words")
        found[name] = cosines(values - values.mean(dim=0) if centred else values)
    return found


@torch.no_grad()
def task_vectors(model: TunedModel) -> dict[str, Float[Tensor, "T D"]]:
    """One vector a task for each map, float64."""
    found: dict[str, Tensor] = {}
    networks = [source for source in model.sources.values() if isinstance(source, HyperNetwork)]
    reading = [network for network in networks if "task" in network.config.reads]
    if reading:
        every = torch.arange(len(model.tasks), device=model.device)
        embeddings = [network.embeddings(every) for network in reading]
        found["embeddings"] = flat(embeddings)
        trunks = [
            (own, cast("Trunk", trunk))
            for own, network in zip(embeddings, reading, strict=True)
            for trunk in network.trunks.values()
        ]
        read = [own @ trunk.inner["task"] for own, trunk in trunks]
        found["read"] = flat(read)
    every = torch.arange(len(model.tasks), device=model.device)
    each = model.weights_of(every).values()
    made = [values for values in each if values.shape[0] == len(model.tasks) and values.is_floating_point()]
    if made:
        found["weights"] = flat([values / values.square().mean().sqrt().clamp(min=1e-12) for values in made])
    for network in model.described():
        vectors = network.words.vectors
        found["words"] = flat([vectors[:, 0], vectors[:, 1:].mean(dim=1)])
    return found


def flat(parts: Sequence[Tensor]) -> Float[Tensor, "T D"]:
    """All values of each task as one row, float64, on the host."""
    return torch.cat([part.detach().double().flatten(1) for part in parts], dim=1).cpu()


def cosines(vectors: Float[Tensor, "T D"]) -> Float[np.ndarray, "T T"]:
    """Cosine of every pair of rows; 0 for a row of zeros (tasks that do not differ from the mean)."""
    unit = vectors / vectors.norm(dim=1, keepdim=True).clamp(min=1e-12)
    return (unit @ unit.T).numpy()


@torch.no_grad()
def task_map(model: TunedModel) -> dict[str, Any] | None:
    """The cosines of what is made for each task beside what is made for all, and how far each lies from the mean (its
    distance over the mean's length); None where tasks share everything, are alone, or are too much to hold at once."""
    size = sum(parameter.numel() for parameter in model.sources.parameters())
    if len(model.tasks) < 2 or len(model.tasks) * size > MOST_VALUES:
        return None
    with model.evaluating():
        vectors = task_vectors(model).get("weights")
    if vectors is None or not vectors.numel():
        return None
    mean = vectors.mean(dim=0)
    beside = vectors - mean
    apart = (beside.norm(dim=1) / mean.norm().clamp(min=1e-12)).tolist()
    if max(apart) < 1e-6:
        return None
    rounded = [[round(float(value), 4) for value in row] for row in cosines(beside)]
    return {"tasks": list(model.tasks), "cosines": rounded, "apart": [round(value, 4) for value in apart]}
