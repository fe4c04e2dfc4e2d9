"""Will it fit, how long, on what: what a step of a run costs, without weights and without the device.

    plan_run(load_run("scripts/glue_t5_base.yaml"), memory=["24GB"]) -> Plan

Every figure but the time is counted, not estimated: the model's tensors are shapes (PyTorch's fakes), the real code
runs over them, and what it keeps, holds alive, multiplies and moves is summed up.

The walls of this room: plan (a run's plan), step (one step measured), stand_in (a model of shapes), kept, live and work
(bytes kept for backward, bytes alive, products and traffic), fit (the largest batch), cards (what devices state),
shapes (published backbones by their configuration), page (tables and pictures),
settled (what the settings make of the run's model).
"""

from __future__ import annotations

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
