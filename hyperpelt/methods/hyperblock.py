"""HyperBlock: what tasks have in common is learnt in common, what differs is made. This project's own method.

    hyperblock = (sequential adapter @ self_attention, cross_attention,
                  scaled parallel adapter @ feed_forward) x shared
               + sequential adapter with conditional norm @ self_attention, feed_forward x hypernetwork, norms x shared

At every block a wide adapter that all tasks train together; then, after self-attention and feed-forward network, a
narrow one of HyperFormer++ (arXiv 2106.04489), made for each task. The shared ones are MAM's at the feed-forward
network (2110.04366) and Houlsby's after the attentions (1902.00751). docs/methods.md has the equations, docs/results
what was measured.

T5-base, 8 tasks: 7,685,620, hyperformer++ having 5,211,056; mini-bart: 2,303,492 and 2,631,856. The shared ones grow
with the number of layers; `shared_bottleneck: 21` has fewer on T5-base too. Identity: fresh adapters compute what the
backbone computes, bit for bit. Reference: float64 transcription.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from hyperpelt.methods.base import Method, Part
from hyperpelt.methods.hyperformer import hyperformer_plus
from hyperpelt.methods.registry import method
from hyperpelt.tuners import Adapter


@method(
    "hyperblock",
    paper="this project",
    family="hypernetworks",
    equations="docs/methods.md",
    reference="transcription",
    extends=hyperformer_plus,
)
def hyperblock(
    *, bottleneck: int = 14, shared_bottleneck: int = 48, activation: str = "relu", **settings: Any
) -> Method:
    """HyperBlock; further settings as in `hyperformer_plus`.

    - **bottleneck**: inner width of the made adapters
    - **shared_bottleneck**, **activation**: of the adapters that all tasks share
    """
    made = hyperformer_plus(bottleneck=bottleneck, **settings)
    after = Adapter(bottleneck=shared_bottleneck, reads="output", activation=activation)
    beside = Adapter(bottleneck=shared_bottleneck, reads="input", activation=activation, learned_scale=True)
    shared = (
        Part(name="shared_attention", tuner=after, at=("self_attention", "cross_attention"), source="shared"),
        Part(name="shared_feed_forward", tuner=beside, at=("feed_forward",), source="shared"),
    )
    return replace(made, name="hyperblock", parts=(*shared, *made.parts))
