"""AdaLoRA (Zhang et al. 2023, arXiv 2303.10512): triplets P diag(lam) Q at projections, and a budget of ranks.

    adalora = SVD delta @ q, v x per task, with an orthogonality penalty and a course that takes ranks away

How the course measures and cuts stands in `hyperpelt.methods.courses.budget`. The paper adapts all projections
(`at: [projections]`); q and v are peft's choice.

T5-base, one task: 1,327,968 at the start (r = 12). Identity: lam = 0. Reference: peft.
"""

from __future__ import annotations

from hyperpelt.methods.base import Method, Part
from hyperpelt.methods.courses.budget import RankBudget
from hyperpelt.methods.registry import method
from hyperpelt.tuners import SVD


@method(
    "adalora", paper="AdaLoRA, arXiv 2303.10512", family="weights", equations="eqs. 3, 4, 6 to 12", reference="peft"
)
def adalora(
    *,
    rank: int = 12,
    rank_target: int | None = 8,
    alpha: float | None = None,
    orthogonality: float = 0.5,
    warmup: float = 0.1,
    final: float = 0.3,
    interval: int = 10,
    at: tuple[str, ...] = ("q", "v"),
) -> Method:
    """AdaLoRA; the mean rank of an operation falls from **rank** to **rank_target** (None: it stays).

    - **alpha**: the delta is scaled by alpha / rank (None: 1); **orthogonality**: weight of P's and Q's penalty
    - **warmup**, **final**: steps before the first rank goes and after the last; below 1 shares of all steps
    - **interval**: steps between two cuts; **at**: kinds or patterns of operations
    """
    part = Part(name="triplets", tuner=SVD(rank=rank, alpha=alpha, orthogonality=orthogonality), at=tuple(at))
    schedule = {"warmup": warmup, "final": final, "interval": interval}
    courses = () if rank_target is None else (RankBudget(part="triplets", rank=rank_target, **schedule),)
    return Method(name="adalora", parts=(part,), courses=courses)
