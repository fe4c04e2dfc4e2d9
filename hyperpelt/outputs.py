"""What a tuned model returns: logits, and the loss of the batch and of each row.

Legend: B rows, T target length, V vocabulary.
"""

from __future__ import annotations

from dataclasses import dataclass

from jaxtyping import Float, Int
from torch import Tensor
from torch.nn.functional import cross_entropy


@dataclass
class TunedOutput:
    """**loss**: mean over the batch's target tokens; **row_loss** [B] and **row_tokens** [B]: sums of a row.

    With wrong choices given, **loss** is T-Few's, and **row_length_normalised** and **row_unlikelihood** are a row's
    share of its two further terms; see `hyperpelt.choice_losses`.
    """

    logits: Float[Tensor, "B T V"]
    loss: Tensor | None = None
    row_loss: Float[Tensor, " B"] | None = None
    row_tokens: Int[Tensor, " B"] | None = None
    row_length_normalised: Float[Tensor, " B"] | None = None
    row_unlikelihood: Float[Tensor, " B"] | None = None


def row_losses(
    logits: Float[Tensor, "B T V"], labels: Int[Tensor, "B T"], label_smoothing: float = 0.0
) -> tuple[Float[Tensor, " B"], Int[Tensor, " B"]]:
    """Each row's summed cross-entropy (float32) and number of target tokens."""
    # Flat, so that the vocabulary stays the innermost dimension: softmax over a strided one is several times slower.
    losses = cross_entropy(
        logits.float().flatten(0, 1),
        labels.flatten(),
        ignore_index=-100,
        reduction="none",
        label_smoothing=label_smoothing,
    )
    return losses.view_as(labels).sum(dim=1), (labels != -100).sum(dim=1)
