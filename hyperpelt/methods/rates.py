"""The peak learning rate that suits a method, for `learning_rate: null`.

docs/comparing.md's table, where it was measured: AdamW on mini-bart. `hyper-NAME` and `shared-NAME` take NAME's rate,
as what a hypernetwork's matrices make is scaled by their width (docs/training.md). A composition that is none of these
takes the lowest rate among its tuners' kinds.
"""

from __future__ import annotations

from hyperpelt.methods.base import Method
from hyperpelt.tuners import Adapter, Delta, LoRA, Prefix, Prompt, Tuner

BY_NAME = {
    "hyperpelt": 2e-3,
    "vl-hyperpelt": 2e-3,
    "hyperprefix": 2e-3,
    "hyperblock": 2e-3,
    "hyperformer": 3e-3,
    "hyperformer++": 3e-3,
    "prefix-tuning": 3e-2,
    "prompt-tuning": 3e-2,
    "houlsby": 1e-3,
    "pfeiffer": 1e-3,
    "parallel-adapter": 1e-3,
    "lora": 3e-3,
    "layer-norm": 3e-3,
    "bitfit": 3e-3,
    "ia3": 3e-3,
    "full": 1e-4,
}
UNFROZEN = 1e-4  # the backbone itself, or as many values
BY_TUNER: dict[type[Tuner], float] = {Adapter: 1e-3, Delta: UNFROZEN, LoRA: 3e-3, Prefix: 3e-2, Prompt: 3e-2}
OTHERWISE = 3e-3


def suited_rate(method: Method) -> float:
    """The peak rate for a method, by its name, else by what it is made of."""
    name = method.name
    for prefix in ("", "hyper-", "shared-"):
        if name.startswith(prefix) and name.removeprefix(prefix) in BY_NAME:
            return BY_NAME[name.removeprefix(prefix)]
    if method.unfreeze:
        return UNFROZEN
    names = {name for part in method.parts for name in part.sources}
    hyper = any(method.source(name).type == "hypernetwork" for name in names)
    rates = [BY_TUNER.get(type(part.tuner), OTHERWISE) for part in method.parts]
    return min([*rates, *([BY_NAME["hyperpelt"]] if hyper else [])], default=OTHERWISE)
