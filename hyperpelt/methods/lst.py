"""LST: ladder side-tuning (Sung, Cho & Bansal 2022, arXiv 2206.06522): a narrow network beside a frozen pass.

    lst = a side network beside both stacks, one for all tasks, and a course that prunes the backbone for its start

Its equations stand in `hyperpelt.weights.side`. No gradient flows through the backbone, whose layers therefore keep
nothing for it. Reduction 8, every fourth layer from the first on without a rung, gates' temperature 0.1, as the authors
train T5. A batch may mix tasks, which share the network: what tells them apart is their text. Tensors of a task's own
(`hyper-lst`) it has none, and tuners inside the backbone would need the gradient that it saves, so both are refused.

T5-base: 3,878,706. It does not start as the backbone; with a last gate that is closed (last_gate -20) it does, bit for
bit. Reference: float64 transcription.
"""

from __future__ import annotations

from hyperpelt.methods.base import Method
from hyperpelt.methods.courses.pruning import PrunedStart
from hyperpelt.methods.registry import method
from hyperpelt.weights import SideConfig


@method("lst", paper="LST, arXiv 2206.06522", family="side networks", equations="its code", reference="transcription")
def lst(
    *, reduction: int = 8, skip: int = 4, last_gate: float | None = None, pruned: bool = True, batches: int = 8
) -> Method:
    """LST; sizes as in `hyperpelt.weights.SideConfig`; **batches**: that a **pruned** start is measured on."""
    courses = (PrunedStart(batches=batches),) if pruned else ()
    return Method(
        name="lst", parts=(), side=SideConfig(reduction=reduction, skip=skip, last_gate=last_gate), courses=courses
    )
