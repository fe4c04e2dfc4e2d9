"""From a batch to what `TunedModel.forward` takes."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch

from hyperpelt.model.choice_losses import WrongChoices

if TYPE_CHECKING:
    from hyperpelt.data import Batch

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
