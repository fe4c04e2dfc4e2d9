"""What a tuned model returns: logits, and the loss of the batch and of each row.

Legend: B rows, T target length, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from transformers.utils import ModelOutput

from hyperpelt.attachment.passes import Pass
from hyperpelt.data.host import Targets


@dataclass
class TunedOutput(ModelOutput):
    """What `TunedModel.forward` returns: by attribute, by name or by number (what is None is not counted), or as a
    tuple (`to_tuple`).

    - **loss**: mean over the batch's target tokens; None without labels
    - **logits**: None where they were not to be kept
    - **row_loss** [B] and **row_tokens** [B]: sums of a row

    With candidates given, **row_loss** is how a row ranks them, **row_tokens** is 1, and **loss** the mean over rows;
    see `hyperpelt.model.ranking`.

    With wrong choices given, **loss** is T-Few's, and **row_length_normalised** and **row_unlikelihood** are a row's
    share of its two further terms; see `hyperpelt.model.choice_losses`.

    In training **row_penalties** are what the method's tuners add to the loss, by name: their mean over rows is in it.
    """

    loss: Tensor | None = None
    logits: Float[Tensor, "B T V"] | None = None
    row_loss: Float[Tensor, " B"] | None = None
    row_tokens: Int[Tensor, " B"] | None = None
    row_length_normalised: Float[Tensor, " B"] | None = None
    row_unlikelihood: Float[Tensor, " B"] | None = None
    row_penalties: dict[str, Float[Tensor, " B"]] | None = None


def token_losses(
    logits: Float[Tensor, "B T V"] | Float[Tensor, "n V"],
    labels: Int[Tensor, "B T"],
    label_smoothing: float = 0.0,
    *,
    where: Int[Tensor, " n"] | None = None,
) -> Float[Tensor, "B T"]:
    """Cross-entropy of every target token, float32; 0 where the label is -100.

    - **where**: the logits are those of these n positions of the flattened labels alone, and no other label counts
    """
    # Flat, so that the vocabulary stays the innermost dimension: softmax over a strided one is several times slower.
    targets = labels.flatten() if where is None else labels.flatten().index_select(0, where)
    losses = cross_entropy(
        logits.float().flatten(0, -2), targets, ignore_index=-100, reduction="none", label_smoothing=label_smoothing
    )
    if where is not None:
        losses = losses.new_zeros(labels.numel()).index_copy(0, where, losses)
    return losses.view_as(labels)


def target_positions(labels: Int[Tensor, "B T"], known: Targets | None = None) -> Int[Tensor, " n"] | None:
    """Where the flattened labels hold a target; None if everywhere, nowhere, or in a compiled step (fixed shapes).

    - **known**: found on the host before; without it an accelerator is asked, and waited for
    """
    if torch.compiler.is_compiling():
        return None
    return (Targets.of(labels) if known is None else known).where


@contextmanager
def read_only_at(head: nn.Module, where: Int[Tensor, " n"] | None, running: Pass | None = None) -> Iterator[None]:
    """Within, `head` [*, D] -> [*, V] reads only these positions of its flattened input and so gives [n, V].

    - **running**: the pass in which it is asked, which may have tuners there

    In a batch of tasks most target positions are padding: where one task writes a sentence and the others a word, nine
    of ten. The product with the vocabulary is the dearest one of a small backbone, so padding is spared it.
    """
    if where is None:
        yield
        return

    def select(_module: nn.Module, args: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        if running is not None:
            running.owners = where // args[0].shape[1]
        return (args[0].flatten(0, -2).index_select(0, where), *args[1:])

    handle = head.register_forward_pre_hook(select)
    try:
        yield
    finally:
        handle.remove()
