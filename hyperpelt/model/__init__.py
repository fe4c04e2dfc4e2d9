"""TunedModel: a frozen backbone, a method and a list of tasks. Forward, generate, score, save and load, grow by a task.

    model = TunedModel.build("mini-bart", method="hyperpelt", tasks=["glue/rte", "glue/mrpc"])
    model.generate(["..."], task="glue/rte");  model.score(["..."], ["yes", "no"], task="glue/rte")

The walls of this room: tuned (the class and its forward), running (one pass: made tensors, embedded input), inference
(generate, score) and scoring (its arithmetic), sight (images), persistence (save, load, copy) and saving (the files),
growth (a further task), starts (where it starts) and descriptions (what its words say), outputs and choice_losses
(what a forward returns).
"""

from __future__ import annotations

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
