"""Methods that touch projections, each with tensors per task: LoRA, (IA)^3, BitFit.

    lora   = low rank @ q, v x per task                     (Hu et al. 2021, arXiv 2106.09685)
    ia3    = scale @ k, v, hidden layer of ffn x per task   (Liu et al. 2022, 2205.05638)
    bitfit = bias @ every projection (and norm that has one) x per task   (Ben Zaken et al. 2021, 2106.10199)

T5-base, one task: r=8 884,736; 129,024; 202,752. Identity: B = 0; l = 1; b = 0. References: peft; BART's own biases.
"""

from __future__ import annotations

from hyperpelt.methods.base import Method, Part
from hyperpelt.methods.registry import method
from hyperpelt.tuners import Bias, LoRA, Scale


@method("lora", paper="LoRA, arXiv 2106.09685", family="weights", equations="section 4.1, eq. 3", reference="peft")
def lora(*, rank: int = 8, alpha: float | None = 8.0, at: tuple[str, ...] = ("q", "v")) -> Method:
    """LoRA; the delta is scaled by **alpha** / **rank** (None: 1); **at**: kinds or patterns of operations."""
    return Method(name="lora", parts=(Part(tuner=LoRA(rank=rank, alpha=alpha), at=tuple(at)),))


@method("ia3", paper="(IA)^3 (T-Few), arXiv 2205.05638", family="weights", equations="section 3.3", reference="peft")
def ia3() -> Method:
    """(IA)^3: a scale a feature."""
    return Method(name="ia3", parts=(Part(tuner=Scale(), at=("k", "v", "hidden")),))


@method("bitfit", paper="BitFit, arXiv 2106.10199", family="weights", reference="BART's own biases")
def bitfit() -> Method:
    """BitFit: a bias a feature, also where the backbone has none."""
    return Method(name="bitfit", parts=(Part(tuner=Bias(), at=("projections", "norms")),))
