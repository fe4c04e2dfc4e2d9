"""Transfer: what a trained model does on tasks that it never saw, with 0, 4, 16, 32, 100 ... examples.

    import hyperpelt
    found = hyperpelt.transfer("runs/glue", tasks=["super_glue/cb"], shots=[0, 16], adapt=["embedding", "lora"])

The room itself is callable, so that `hyperpelt.transfer(...)` works however it was imported.

The walls: settings, cells (task x shots x seed x adaptation), records (a line a finished cell), identity (what a cell
is known by), shots (which rows), fit (training on them), in_context, answering (as the run did), bench (one process
doing its cells), processes, summary, run (the whole), geometry (how near tasks are to each other, and what one's
weights do on another).
"""

from __future__ import annotations

import sys
from types import ModuleType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from hyperpelt.transfer.run import transfer


class _Callable(ModuleType):
    def __call__(self, *arguments: Any, **options: Any) -> dict[str, Any]:
        from hyperpelt.transfer.run import transfer

        return transfer(*arguments, **options)


_room = sys.modules[__name__]
_room.__class__ = _Callable
if not TYPE_CHECKING:
    transfer = _room

__all__ = ["transfer"]
