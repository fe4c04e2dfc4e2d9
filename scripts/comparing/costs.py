"""What a step of a cell keeps and multiplies: counted over shapes (`hyperpelt plan`), so the same on every machine."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from pathlib import Path

from comparing.study import Cell, Study
from hyperpelt.config import load_run
from hyperpelt.errors import UserError
from hyperpelt.planning import plan_run


@dataclass(frozen=True)
class Cost:
    """**kept**: bytes that forward keeps for backward, all rows full; **flops**: of a step's products."""

    kept: int
    flops: int


def cost(study: Study, cell: Cell) -> Cost | None:
    """None for what cannot be counted over shapes alone."""
    settings = tuple(pair for pair in cell.settings if not pair.startswith("seed="))
    return _cost(study.run, settings)


@cache
def _cost(run: Path, settings: tuple[str, ...]) -> Cost | None:
    try:
        plan = plan_run(load_run(run, (*settings, "output_dir=-")), memory=(), on="cpu")
    except UserError:
        return None
    return Cost(plan.costs.kept, plan.costs.work["step"].flops)
