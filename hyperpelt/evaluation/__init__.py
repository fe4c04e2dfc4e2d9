"""Evaluation: answers to scores to tables.

    evaluate(model, ["glue/rte"], split="validation").average

The walls of this room: answers (what the model says of each row), prediction (for rows without labels), run (answers to
scores, over tasks), results (scores to tables, and their file).
"""

from __future__ import annotations

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
