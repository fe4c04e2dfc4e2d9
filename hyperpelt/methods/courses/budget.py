"""A budget of ranks, spent on what matters most (Zhang et al. 2023, AdaLoRA, arXiv 2303.10512, equations 6 to 12).

The importance of a triplet is s(lam) + mean s(P's column) + mean s(Q's row), with s the product of running means of
|w grad w| and of its deviation from its own mean; from the ranks at the start to `rank`, on average over operations,
the budget falls with a cubic schedule. All triplets of a task compete. In the last steps the ranks that are left stay.
A task without a row in a step is not measured in it. peft's RankAllocator is the reference, ties aside: of equally
important triplets as many stay as the budget allows.

Legend: T tasks, n operations, r triplets of each.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from jaxtyping import Bool
from torch import Tensor, nn

from hyperpelt.config.setting_types import check_at_least
from hyperpelt.errors import UserError
from hyperpelt.methods.base import Method
from hyperpelt.methods.course import Course, Moment, course_type
from hyperpelt.tuners import SVD
from hyperpelt.weights import Group

NAMES = ("left", "values", "right")
Stored = dict[str, list[tuple[Group, nn.Parameter]]]


@course_type
@dataclass(frozen=True, kw_only=True)
class RankBudget(Course):
    """The budget of a part of SVD tuners.

    - **rank**: mean rank of an operation in the end
    - **warmup**, **final**: steps before the first rank goes and after the last; below 1 shares of all steps
    - **interval**: steps between two cuts; **beta1**, **beta2**: of the running means
    """

    type_name: ClassVar[str] = "rank_budget"
    rank: int = 8
    warmup: float = 0.1
    final: float = 0.3
    interval: int = 10
    beta1: float = 0.85
    beta2: float = 0.85

    def check(self, method: Method) -> None:
        super().check(method)
        check_at_least(1, f"course {self.type_name!r}", interval=self.interval)
        part = next(part for part in method.parts if part.name == self.part)
        if not isinstance(part.tuner, SVD) or self.rank > part.tuner.rank:
            raise UserError(f"A rank budget of {self.rank} is for a part of 'svd' tuners with at least that rank.")
        for name in NAMES:
            kind = method.source(part.source_of(name))
            if kind.type not in ("per_task", "shared"):
                raise UserError(
                    f"A rank budget prunes stored tensors (per_task or shared), but those of part {self.part!r} are "
                    f"made by {kind.type!r}: set rank_target=null, which keeps all ranks."
                )

    @torch.no_grad()
    def after_step(self, now: Moment) -> None:
        there = now.trained(self.part)
        ((group, values),) = there["values"]  # of one shape, whatever those of P and Q
        warmup, final = (int(v * now.total) if v < 1 else int(v) for v in (self.warmup, self.final))
        last = max(now.total - final, warmup + 1)
        if now.step < last:
            self._measure(now, there)
        if now.step == last or (warmup < now.step < last and now.step % self.interval == 0):
            places = {place[0].name: index for index, place in enumerate(group.places)}
            left = 1 - (now.step - warmup) / (last - warmup)
            many, few = values[0].numel(), self.rank * len(places)
            now.state["kept"] = self._best(now, there, places, int(few + (many - few) * left**3))
            self._cut(now, values)
        elif now.step > last:
            self._cut(now, values)

    def _measure(self, now: Moment, there: Stored) -> None:
        """The running means of every entry's sensitivity, of the tasks that had rows in this step."""
        ((_, values),) = there["values"]
        if values.grad is None:
            return
        seen = values.grad.abs().flatten(1).sum(dim=1) > 0
        for name, entries in there.items():
            for number, (_, tensor) in enumerate(entries):
                new = torch.zeros_like(tensor) if tensor.grad is None else (tensor * tensor.grad).abs()
                mean, spread = (now.state.get(f"{name}.{number}.{what}", new * 0) for what in ("mean", "spread"))
                here = seen.view(-1, *[1] * (new.ndim - 1))
                mean = torch.where(here, self.beta1 * mean + (1 - self.beta1) * new, mean)
                spread = torch.where(here, self.beta2 * spread + (1 - self.beta2) * (new - mean).abs(), spread)
                now.state[f"{name}.{number}.mean"], now.state[f"{name}.{number}.spread"] = mean, spread

    def _best(self, now: Moment, there: Stored, places: dict[str, int], budget: int) -> Bool[Tensor, "T n r"]:
        """Which triplets of each task stay: the `budget` most important ones."""
        ((_, values),) = there["values"]
        scores = torch.zeros_like(values)
        for name, entries in there.items():
            for number, (group, _) in enumerate(entries):
                means = f"{name}.{number}.mean", f"{name}.{number}.spread"
                if means[0] not in now.state:  # nothing had a gradient yet
                    continue
                score = now.state[means[0]] * now.state[means[1]]
                if name != "values":
                    score = score.mean(dim=2 if name == "left" else 3)
                index = torch.tensor([places[place[0].name] for place in group.places], device=score.device)
                scores.index_add_(1, index, score)
        order = scores.flatten(1).argsort(dim=1, descending=True, stable=True)
        stay = torch.zeros_like(order, dtype=torch.bool)
        return stay.scatter_(1, order[:, :budget], True).view_as(scores)

    def _cut(self, now: Moment, values: nn.Parameter) -> None:
        """lam = 0 where a triplet of a learning task goes."""
        rows = torch.tensor(list(now.tasks) if len(values) > 1 else [0], device=values.device)
        values[rows] = values[rows] * now.state["kept"][rows]
