"""The loss of a batch: the language-model loss, with T-Few's losses where the batch carries wrong choices; or, where it
carries candidates, how its rows rank them; and what the method's tuners add."""

from __future__ import annotations

from typing import TYPE_CHECKING

from torch import Tensor

if TYPE_CHECKING:
    from hyperpelt.data import Batch
    from hyperpelt.model.outputs import TunedOutput


def total_loss(output: TunedOutput, batch: Batch) -> Tensor:
    """This micro-batch's share of the loss of the whole global batch.

    Each term is a sum over rows divided by what the *global* batch holds of it, so that micro-batches and processes add
    up to the loss of one large batch.
    """
    assert output.row_loss is not None, "a batch of training has labels or candidates"
    ranked = "candidates" in batch
    loss = output.row_loss.sum() / batch["num_global_rows" if ranked else "num_global_tokens"]
    if output.row_length_normalised is not None and output.row_unlikelihood is not None:
        loss = loss + output.row_length_normalised.sum() / batch["num_global_rows"]
        loss = loss + output.row_unlikelihood.sum() / max(1, batch["num_global_wrong_tokens"])
    for values in (output.row_penalties or {}).values():
        loss = loss + values.sum() / batch["num_global_rows"]
    return loss
