"""`torch_compile`: one graph a shape, forward and backward, and few shapes.

What is compiled is a micro-batch's forward and, with it, its backward. The optimiser's step is left out: what is
trained is small, and each of its updates is one fused call already, so a graph of it would only add shapes to compile.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import nn
from transformers.utils import generic

from hyperpelt.data.host import unwrapped
from hyperpelt.errors import UserError

if TYPE_CHECKING:
    from hyperpelt.data.buckets import Buckets
    from hyperpelt.methods import Method
    from hyperpelt.model.outputs import TunedOutput
    from hyperpelt.model.tuned import TunedModel

BACKEND = "inductor"


class CompiledForward(nn.Module):
    """A tuned model whose training batches are compiled, each shape into one graph; the model itself stays as it is.

    A batch with images is compiled if it has one image a row. What else a row may have (none, or several) parts a batch
    by numbers that are its own, so such a batch runs uncompiled.
    """

    def __init__(self, model: TunedModel, buckets: Buckets) -> None:
        super().__init__()
        self.model = model
        most = buckets.most * (1 if model.visual is None else 2)  # batches without any image have graphs of their own
        # Beyond this limit a shape would be refused, as each is one whole graph.
        torch._dynamo.config.recompile_limit = max(most, torch._dynamo.config.recompile_limit)
        # What a pass notes (the inputs that hooks keep) is noted once, and not again where a layer is recomputed.
        torch._dynamo.config.skip_fwd_side_effects_in_bwd_under_checkpoint = True
        # transformers says once that BART's encoder, whose configuration names a cache, goes without while recomputing.
        torch._dynamo.config.ignore_logger_methods.add(generic.logger.warning_once)
        self.run: Any = torch.compile(self._call, fullgraph=True, dynamic=False, backend=BACKEND)

    def _call(self, **inputs: Any) -> TunedOutput:
        return self.model(**inputs)

    def forward(self, **inputs: Any) -> TunedOutput:
        """`TunedModel.forward`, of arguments by name."""
        if "visual" not in inputs:
            return self.run(**inputs)
        rows = unwrapped(inputs["visual_rows"])
        if not torch.equal(rows, torch.arange(len(inputs["input_ids"]))):
            return self.model(**inputs)
        return self.run(**inputs | {"visual_rows": None})


def check_compilable(method: Method, *, sharded: bool) -> None:
    """Raises:
    UserError: the method, or how it is run, does not make one graph; why not.
    """
    if method.uncompilable:
        raise UserError(f"torch_compile: method {method.name!r} is not compiled: {method.uncompilable}")
    if sharded:
        raise UserError(
            "torch_compile: a backbone sharded by --use_fsdp is gathered layer by layer, which no one graph holds: "
            "launch without --use_fsdp, or set torch_compile=false."
        )
