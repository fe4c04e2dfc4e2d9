"""What the encoder reads where rows join the embedded text: prompts before it, an image's tokens after it.

Each row is packed: its prompt, its text, its images' tokens, then padding. So positions are those of a text with that
many tokens typed before and after it, and depend on no other row.

Legend: B rows, S text positions, L joined positions, d model width.
"""

from __future__ import annotations

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn.functional import pad

from hyperpelt.attachment.passes import Pass
from hyperpelt.operations import Operation


def joined_input(
    running: Pass, operation: Operation, embedded: Float[Tensor, "B S d"], mask: Int[Tensor, "B S"]
) -> tuple[Float[Tensor, "B L d"], Int[Tensor, "B L"]] | None:
    """The embedded input with all that joins it, and its mask; None if nothing does. The pass learns the new places."""
    prompt, tokens = running.prompt(embedded, operation), running.tokens(embedded, operation)
    if prompt is None and tokens is None:
        return None
    special = dict(running.special)
    if prompt is not None:
        embedded = torch.cat([prompt, embedded], dim=1)
        mask = torch.cat([mask.new_ones(prompt.shape[:2]), mask], dim=1)
        special = {stack: pad(ordinals, (prompt.shape[1], 0)) for stack, ordinals in special.items()}
    if tokens is not None:
        rows, real = tokens
        embedded, mask = torch.cat([embedded, rows], dim=1), torch.cat([mask, real.to(mask.dtype)], dim=1)
        special = {stack: pad(ordinals, (0, rows.shape[1])) for stack, ordinals in special.items()}
        order = torch.argsort((mask == 0).to(torch.int8), dim=1, stable=True)
        # Compiled shapes may not depend on data, and an accelerator would be waited for: there, padding stays.
        if mask.device.type == "cpu" and not torch.compiler.is_compiling():
            order = order[:, : int(mask.sum(dim=1).max())]
        embedded = embedded.gather(1, order.unsqueeze(-1).expand(-1, -1, embedded.shape[2]))
        mask = mask.gather(1, order)
        special = {stack: ordinals.gather(1, order) for stack, ordinals in special.items()}
    running.mask, running.special = mask.bool(), special
    return embedded, mask
