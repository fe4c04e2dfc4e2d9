"""U-Tuning (Jiang et al. 2023, arXiv 2303.00690): any of its parallel forms at any of three operations.

    u-tuning = {parallel prefix | parallel prompt | parallel adapter | none} @ {attention, feed_forward, block}
               x per task

Default: prefix form at attention, adapter form at the feed-forward network, nothing at the block. Identity: P_v = 0
(prefix form), s = 0 (prompt form), U = 0 (adapter form), where ours start. Reference: float64 transcription.
"""

from __future__ import annotations

from hyperpelt.errors import UserError, unknown
from hyperpelt.methods.base import Method, Part
from hyperpelt.methods.registry import method
from hyperpelt.tuners import Adapter, ParallelRows, Tuner

FORMS = ("prefix", "prompt", "adapter", "none")


@method("u-tuning", paper="U-Tuning, arXiv 2303.00690", family="combinations", reference="transcription")
def u_tuning(
    *,
    attention: str = "prefix",
    feed_forward: str = "adapter",
    block: str = "none",
    length: int = 16,
    bottleneck: int = 24,
    num_heads: int = 1,
    scale: float = 1.0,
) -> Method:
    """U-Tuning; **attention**, **feed_forward**, **block**: a form for each: `prefix`, `prompt`, `adapter` or `none`.

    - **length**, **num_heads**: of parallel rows; **bottleneck**: of adapters; **scale**: of what is added

    Raises UserError for another form, and for `none` everywhere.
    """
    forms: dict[str, Tuner] = {
        "prefix": ParallelRows(length=length, num_heads=num_heads, scale=scale),
        "prompt": ParallelRows(length=length, num_heads=num_heads, tied=True, scale=scale),
        "adapter": Adapter(bottleneck=bottleneck, reads="input", activation="gelu", scale=scale),
    }
    chosen = {"attention": attention, "feed_forward": feed_forward, "block": block}
    for site, form in chosen.items():
        if form not in FORMS:
            raise unknown(f"form of u-tuning at {site}", form, FORMS)
    parts = tuple(Part(name=site, tuner=forms[form], at=(site,)) for site, form in chosen.items() if form != "none")
    if not parts:
        raise UserError("u-tuning with form 'none' everywhere tunes nothing; use the method 'frozen'.")
    return Method(name="u-tuning", parts=parts)
