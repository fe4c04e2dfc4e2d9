"""The loss of a batch: the language-model loss, and T-Few's losses over choices where the batch carries wrong ones."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from hyperpelt.choice_losses import WrongChoices

if TYPE_CHECKING:
    from hyperpelt.data import Batch
    from hyperpelt.outputs import TunedOutput

NAMES = ("input_ids", "attention_mask", "labels", "task_ids", "row_weights")


def inputs_of(batch: Batch, device: torch.device) -> dict[str, Any]:
    """A batch as the arguments of `TunedModel.forward`, on the device."""
    inputs: dict[str, Any] = {name: batch[name].to(device, non_blocking=True) for name in NAMES}
    inputs["keep_logits"] = False
    if "wrong_labels" in batch:
        pair = (batch[name].to(device, non_blocking=True) for name in ("wrong_labels", "wrong_rows"))
        inputs["wrong"] = WrongChoices(*pair)
    if "visual" in batch:
        # Which rows they belong to is asked for on the host.
        inputs |= {"visual": batch["visual"].to(device, non_blocking=True), "visual_rows": batch["visual_rows"]}
    return inputs


def total_loss(output: TunedOutput, batch: Batch) -> Tensor:
    """This micro-batch's share of the loss of the whole global batch.

    Each term is a sum over rows divided by what the *global* batch holds of it, so that micro-batches and processes add
    up to the loss of one large batch.
    """
    loss = output.row_loss.sum() / batch["num_global_tokens"]
    if output.row_length_normalised is not None:
        loss = loss + output.row_length_normalised.sum() / batch["num_global_rows"]
        loss = loss + output.row_unlikelihood.sum() / max(1, batch["num_global_wrong_tokens"])
    return loss
