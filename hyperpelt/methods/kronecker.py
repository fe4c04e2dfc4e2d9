"""Methods of Kronecker products: Compacter, Compacter++, and KronA.

    compacter   = PHM adapter @ self_attention, feed_forward x per task     (Karimi Mahabadi et al. 2021, 2106.04647)
    compacter++ = PHM adapter @ feed_forward x per task
    krona       = Kronecker delta @ q, v x per task                         (Edalati et al. 2022, 2212.10650)
                  or, form "parallel", beside the feed-forward network; "parallel-residual": and a multiple of its input

Compacter's defaults are n = 4, reduction 32 (b = 24 on T5-base), rank 1, gelu; norms are trained with it
(train_norms), and the n rules R_i are one set for all adapters of a task.

T5-base, one task: compacter 161,728 (114,112 and the norms), ++ 104,704 (57,088); krona 110,592. Identity: krona B = 0;
Compacter starts near it, its rules are N(0, 1e-4^2). References: `adapters`, transcriptions; peft's LoKr.
"""

from __future__ import annotations

from hyperpelt.errors import unknown
from hyperpelt.methods.base import Method, Part
from hyperpelt.methods.baselines import trained_norms
from hyperpelt.methods.registry import method
from hyperpelt.tuners import Kronecker, PHMAdapter

COMPACTER = "Compacter, arXiv 2106.04647"
FORMS = ("weight", "parallel", "parallel-residual")


@method("compacter", paper=COMPACTER, family="adapters", equations="section 3, eqs. 4, 5", reference="adapters")
def compacter(
    *, bottleneck: int = 24, divisions: int = 4, rank: int = 1, activation: str = "gelu_new", train_norms: bool = True
) -> Method:
    """Compacter; **divisions**: n, which must divide both widths; **rank**: of the factors."""
    adapter = PHMAdapter(bottleneck=bottleneck, divisions=divisions, rank=rank, activation=activation)
    part = Part(tuner=adapter, at=("self_attention", "feed_forward"))
    return Method(name="compacter", parts=(part, *trained_norms(train_norms)))


@method("compacter++", paper=COMPACTER, family="adapters", equations="sections 3, 5.2", reference="adapters")
def compacter_plus(
    *, bottleneck: int = 24, divisions: int = 4, rank: int = 1, activation: str = "gelu_new", train_norms: bool = True
) -> Method:
    """Compacter++; settings as in `compacter`."""
    adapter = PHMAdapter(bottleneck=bottleneck, divisions=divisions, rank=rank, activation=activation)
    return Method(name="compacter++", parts=(Part(tuner=adapter, at=("feed_forward",)), *trained_norms(train_norms)))


@method("krona", paper="KronA, arXiv 2212.10650", family="weights", reference="peft (LoKr)")
def krona(*, form: str = "weight", scale: float = 1.0, at: tuple[str, ...] = ("q", "v")) -> Method:
    """KronA; **form**: `weight` (at **at**), `parallel` or `parallel-residual` (at feed-forward networks); **scale** s.

    Raises UserError for another form.
    """
    if form not in FORMS:
        raise unknown("form of krona", form, FORMS)
    tuner = Kronecker(scale=scale, residual=form == "parallel-residual")
    return Method(name="krona", parts=(Part(tuner=tuner, at=at if form == "weight" else ("feed_forward",)),))
