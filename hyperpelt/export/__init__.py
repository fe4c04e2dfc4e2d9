"""One task alone, without the hypernetwork: baked tensors, a PEFT adapter, or weights merged into the backbone.

The walls of this room: baking (static tensors; PEFT's format), merging (into a copy of the backbone), placing (whose
place an export may take), incoming (an adapter in PEFT's format becomes a task).
"""

from __future__ import annotations

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
