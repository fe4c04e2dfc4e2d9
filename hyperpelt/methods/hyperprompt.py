"""HyperPrompt (He et al. 2022, arXiv 2203.00759): a prompt a task, turned into each attention's prefix by bottlenecks.

    hyperprompt = bottleneck prefix @ self_attention; its prompt x per task, its bottlenecks x
                  form "global": hypernetwork(task, layer, block); "share": shared; "separate": per task

The paper tunes all of T5 with it in its main setting; here the backbone stays frozen (`full` beside it would be one
more part of a composition).

T5-base, one task, share, N = 16, b = 24: 16 d + 24 * 4 d b = 1,781,760. Start: rows like random keys; the smallest
prefix is one row. Reference: float64 transcription.
"""

from __future__ import annotations

from hyperpelt.errors import unknown
from hyperpelt.methods.base import Method, Part, Source
from hyperpelt.methods.registry import method
from hyperpelt.tuners import BottleneckPrefix
from hyperpelt.weights.hyper_config import HyperNetworkConfig

FORMS = {"global": "bottlenecks", "share": "shared", "separate": "per_task"}


@method(
    "hyperprompt",
    paper="HyperPrompt, arXiv 2203.00759",
    family="hypernetworks",
    equations="sections 2.1 to 2.3",
    reference="transcription",
)
def hyperprompt(
    *, form: str = "global", length: int = 16, bottleneck: int = 24, embedding_dim: int = 64, hyper_dim: int = 64
) -> Method:
    """HyperPrompt; **form**: `global`, `share` or `separate`; **length**: rows; **bottleneck**: width inside.

    Raises UserError for another form.
    """
    if form not in FORMS:
        raise unknown("form of hyperprompt", form, FORMS)
    part = Part(
        name="prefix",
        tuner=BottleneckPrefix(length=length, bottleneck=bottleneck),
        at=("self_attention",),
        source={"prompt": "per_task", "default": FORMS[form]},
    )
    network = HyperNetworkConfig(embedding_dim=embedding_dim, hyper_dim=hyper_dim, expand_rows=False)
    sources = {"bottlenecks": Source(type="hypernetwork", hypernetwork=network)} if form == "global" else {}
    return Method(name="hyperprompt", parts=(part,), sources=sources)
