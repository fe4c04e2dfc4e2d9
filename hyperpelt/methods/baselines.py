"""The ends of the scale: `frozen` trains nothing, `full` trains everything, `layer-norm` the layer norms only.

- `frozen`: no parts. The bare backbone, for the row beside every table.
- `full`: every parameter, in a copy of the backbone, so that the backbone object given stays frozen.
  T5-base: 222,903,552.
- `layer-norm`: norm shift @ norms x per task. T5-base: 47,616; BART-base: 49,152. Identity: shift 0. Reference: peft
  LNTuning for the count, requires_grad on the backbone's own norms for the result.
"""

from __future__ import annotations

from hyperpelt.methods.base import Method, Part
from hyperpelt.methods.registry import method
from hyperpelt.tuners import Norm


def trained_norms(enabled: bool = True) -> tuple[Part, ...]:
    """The backbone's layer norms, trained once for all tasks, as HyperFormer, HyperPELT and VL-Adapter do."""
    return (Part(name="norms", tuner=Norm(), at=("norms",), source="shared"),) if enabled else ()


@method("frozen", paper="the backbone as it is", family="whole backbone")
def frozen() -> Method:
    """The backbone as it is: nothing is trained."""
    return Method(name="frozen", parts=())


@method("full", paper="full fine-tuning", family="whole backbone")
def full() -> Method:
    """Full fine-tuning, in a copy of the backbone."""
    return Method(name="full", parts=(), unfreeze=("*",))


@method("layer-norm", paper="LayerNorm tuning, e.g. arXiv 2312.11420", family="weights", reference="peft")
def layer_norm() -> Method:
    """The layer norms, a set for each task."""
    return Method(name="layer-norm", parts=(Part(name="norms", tuner=Norm(), at=("norms",)),))
