"""What the encoder reads where rows join the embedded text: prompts before it, an image's tokens after it.

Each row is packed: its prompt, its text, its images' tokens, then padding. So positions are those of a text with that
many tokens typed before and after it, and depend on no other row.

Legend: B rows, S text positions, L joined positions, d model width.
"""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn.functional import pad

from hyperpelt.attachment.passes import Pass
from hyperpelt.operations import Operation
from hyperpelt.tuners.base import Site


def joined_input(
    running: Pass, operation: Operation, embedded: Float[Tensor, "B S d"], mask: Int[Tensor, "B S"]
) -> tuple[Float[Tensor, "B L d"], Int[Tensor, "B L"]] | None:
    """The embedded input with all that joins it, and its mask; None if nothing does. The pass learns the new places."""
    prompt, tokens = _prompt(running, operation, embedded), _tokens(running, operation, embedded)
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


def _prompt(running: Pass, operation: Operation, embedded: Float[Tensor, "B S d"]) -> Float[Tensor, "B N d"] | None:
    """Rows to put before the embedded input, or None."""
    found = [p for p in running.placed_at(operation, "rows") if not p.visual] if running.has(operation) else []
    if not found:
        return None
    site = Site(operation=operation, input=embedded, mask=running.mask, training=running.training)
    rows = [running.call(placed, site, running.tensors(placed, site)) for placed in found]
    return torch.cat([r.expand(embedded.shape[0], -1, -1) for r in rows], dim=1).to(embedded.dtype)


def _tokens(
    running: Pass, operation: Operation, embedded: Float[Tensor, "B S d"]
) -> tuple[Float[Tensor, "B V d"], Bool[Tensor, "B V"]] | None:
    """Rows to put after the embedded input, those of each image in turn, and which of them are real; or None."""
    found = [p for p in running.plan.get(operation.name, ()) if p.visual and p.tuner.point == "rows"]
    if not found or running.images is None:
        return None
    num_rows = embedded.shape[0]
    site = Site(operation=operation, input=embedded, training=running.training)
    rows: list[Tensor] = []
    real: list[Tensor] = []
    for placed in found:
        for choice in running.row_images(num_rows).by_order:
            own = running.of_images(placed, choice, num_rows)
            tokens = running.call(placed, site, own, choice).to(embedded.dtype)
            length, width = tokens.shape[1:]
            rows.append(choice.add(tokens.new_zeros(num_rows, length, width), tokens))
            ones = torch.ones(len(tokens), length, device=tokens.device)
            real.append(choice.add(ones.new_zeros(num_rows, length), ones).bool())
    return torch.cat(rows, dim=1), torch.cat(real, dim=1)
