"""Another task for a trained model, and training a part of it: the part of TunedModel that adaptation needs.

    model.add_task("my/claims", mix={"glue/mnli": 1.0})     # starts as that task; known tasks keep every bit
    model.train_only("embedding", ["my/claims"])            # nothing else gets a gradient

What a task owns is one entry of each *task parameter*: its embedding in a hypernetwork, its tensors in a per-task
source. Everything else is shared with the other tasks.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import torch
from torch import Tensor, nn

from hyperpelt.errors import UserError, unknown
from hyperpelt.model.made import Made
from hyperpelt.model.running import Running
from hyperpelt.tasks import Task
from hyperpelt.weights import HyperNetwork, InstanceHyperNetwork, State, VisualHyperNetwork, VisualSource

# What adaptation may train: the new task's own entries; also the hypernetworks; all that the method trains.
TRAINED = ("embedding", "hypernetwork", "all")


class Growth(Running):
    """The part of `TunedModel` that adapts: `add_task`, `train_only`, and the entries that a task owns."""

    learned_tasks: tuple[str, ...] | None = None  # those whose entries alone are trained; None: everybody's

    def task_parameters(self) -> Iterator[tuple[str, nn.Parameter]]:
        """Names and parameters that hold one entry a task along their first dimension."""
        names = {id(parameter): name for name, parameter in self.sources.named_parameters()}
        for source in self.sources.values():
            for owner, name in source.task_parameters():
                parameter = getattr(owner, name)
                yield names[id(parameter)], parameter

    def add_task(self, task: str | Task, *, mix: Mapping[str, float] | None = None) -> int:
        """Know one more task and return its id. It starts as a mixture of known tasks; None: their mean.

        The entries of the other tasks, and with them their outputs, do not change by a bit.

        Raises:
            UserError: the task is known already, or `mix` names one that is not.
        """
        name = task if isinstance(task, str) else task.name
        if name in self.tasks:
            raise UserError(f"This model knows the task {name!r} already.")
        weights = self.mixture(mix)
        for source in self.sources.values():
            source.add_task(weights)
        self.tasks = (*self.tasks, name)
        if not isinstance(task, str):
            self.task_fingerprints[name] = task.fingerprint()
        self._made = Made()
        return len(self.tasks) - 1

    def mixture(self, mix: Mapping[str, float] | None = None) -> Tensor:
        """`mix` as weights [T] over the known tasks; None: each 1/T."""
        if mix is None:
            return torch.full((len(self.tasks),), 1 / len(self.tasks), device=self.device)
        weights = torch.zeros(len(self.tasks), device=self.device)
        for name, weight in mix.items():
            if name not in self.tasks:
                raise unknown("task of this model", name, self.tasks)
            weights[self.tasks.index(name)] = weight
        return weights

    @torch.no_grad()
    def start_task(self, name: str, mix: Mapping[str, float]) -> None:
        """Make a task start (again) as a mixture of others."""
        index, weights = self.task_id(name), self.mixture(mix)
        for _, parameter in self.task_parameters():
            parameter[index] = torch.tensordot(weights.to(parameter), parameter, dims=1)
        for source in self.sources.values():
            if isinstance(source, State):  # tensors are of use only with the state that they were trained with
                source.start_task(index, weights)
        for network in self.described():
            if network.config.described:
                known = network.words.vectors
                known[index] = torch.tensordot(weights.to(known), known, dims=1)

    @torch.no_grad()
    def start_task_described(self, name: str) -> None:
        """Make a task start from its words: the embedding that the description map computes.

        What other sources hold of the task stays as it is.
        """
        index = self.task_id(name)
        for network in self.described():
            mode = network.words.training
            network.words.eval()
            made = network.by_words(torch.tensor([index], device=self.device))
            network.words.train(mode)
            if network.task_embeddings is not None:
                network.task_embeddings[index] = made[0]

    def described(self) -> list[HyperNetwork]:
        """The hypernetworks that can read a task's words; empty without `description_dropout` or `described`."""
        return [s for s in self.sources.values() if isinstance(s, HyperNetwork) and s.description is not None]

    def tell(self, vectors: Mapping[str, Tensor]) -> None:
        """Give the description vectors [K, d] of tasks (`hyperpelt.model.descriptions.read_tasks`).

        All tasks at once before training, which fixes what is measured against; later those of an added task.
        """
        for network in self.described():
            if set(vectors) >= set(self.tasks) and not network.words.is_told:
                network.words.tell(torch.stack([vectors[name] for name in self.tasks]).to(self.device))
            else:
                for name, vector in vectors.items():
                    network.words.vectors[self.task_id(name)] = vector.to(self.device)

    def train_only(self, what: str, tasks: Sequence[str] = ()) -> None:
        """Give gradients to a part alone; the optimiser is then built from `trainable_parameters`.

        - `embedding`: what `tasks` own; `hypernetwork`: also what makes tensors: every hypernetwork, and what makes
          them of images (the visual hypernetwork, the projector); `all`: the whole method
        - with either of the first two, use no weight decay: it would reach the other tasks' entries, which are rows of
          the same parameters (their gradient is zero, and AdamW and Adafactor leave them bit-equal)

        Raises:
            UserError: an unknown part or task, or a method that has nothing of that part.
        """
        if what not in TRAINED:
            raise unknown("part to train", what, TRAINED)
        owned = {id(parameter) for _, parameter in self.task_parameters()}
        makers = [s for s in self.sources.values() if isinstance(s, HyperNetwork | VisualSource | InstanceHyperNetwork)]
        made = {id(parameter) for source in makers for parameter in source.parameters()}
        if what != "all" and not owned:
            raise UserError(
                f"Method {self.method.name!r} keeps nothing for single tasks (all tensors are shared), so a new task "
                "has nothing of its own to train. Adapt 'all' of it, or train a method with a hypernetwork."
            )
        if what == "hypernetwork" and not any(isinstance(s, HyperNetwork | VisualHyperNetwork) for s in makers):
            raise UserError(f"Method {self.method.name!r} has no hypernetwork; adapt 'embedding' or 'all' of it.")
        wanted = {"embedding": owned, "hypernetwork": owned | made}.get(what)
        for _, parameter in self._own_parameters():
            parameter.requires_grad_(wanted is None or id(parameter) in wanted)
        for network in self.described():  # a task that is being added is known by its embedding
            joint = wanted is None and not tasks
            network.dropped = network.config.description_dropout if joint else 0.0
            if not network.config.described:
                network.words.requires_grad_(joint)
        self.learned_tasks = tuple(tasks) or None
        for name in tasks:
            self.task_id(name)

    def num_trainable(self) -> int:
        """Number of trained values."""
        return self.num_learned()

    def num_learned(self) -> int:
        """Number of values that training moves: of task parameters only the entries of `learned_tasks`."""
        share = 1.0 if self.learned_tasks is None else len(self.learned_tasks) / len(self.tasks)
        owned = {id(parameter) for _, parameter in self.task_parameters()}
        sizes = [(p.numel(), id(p) in owned) for _, p in self.trainable_parameters()]
        return sum(round(size * share) if mine else size for size, mine in sizes)
