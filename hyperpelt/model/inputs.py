"""From a batch to what `TunedModel.forward` takes, and what of a model the making of batches has to know."""

from __future__ import annotations

from typing import Any

import torch

from hyperpelt.data import Batch, Choices
from hyperpelt.data.candidates import Ranking
from hyperpelt.data.host import OnHost, Targets
from hyperpelt.model.choice_losses import WrongChoices
from hyperpelt.model.running import Running
from hyperpelt.model.scoring import check_normalisation

NAMES = ("input_ids", "attention_mask", "labels", "row_weights")


def inputs_of(batch: Batch, device: torch.device) -> dict[str, Any]:
    """A batch as the arguments of `TunedModel.forward`: on the device, but for what is asked for on the host."""
    inputs: dict[str, Any] = {name: batch[name].to(device, non_blocking=True) for name in NAMES}
    inputs |= {"task_ids": OnHost(batch["task_ids"]), "targets": Targets.of(batch["labels"], device)}
    inputs["keep_logits"] = False
    if "wrong_labels" in batch:
        labels, rows = batch["wrong_labels"], batch["wrong_rows"]
        inputs["wrong"] = WrongChoices(
            labels.to(device, non_blocking=True),
            rows.to(device, non_blocking=True),
            OnHost(rows),
            Targets.of(labels, device),
        )
    if "candidates" in batch:
        inputs["candidates"] = batch["candidates"].to(device)
    if "visual" in batch:
        visual, rows = batch["visual"].to(device, non_blocking=True), OnHost(batch["visual_rows"])
        inputs |= {"visual": visual, "visual_rows": rows}
    return inputs


def ranking_of(model: Running, choices: Choices, normalisation: str, *, most: int = 32, multiple: int = 1) -> Ranking:
    """What lays out the candidates of batches for this model, under a length rule of `hyperpelt.model.scoring`."""
    config = model.backbone.config
    return Ranking(
        choices=choices,
        normalisation=check_normalisation(normalisation),
        eos_token_id=choices.tokenizer.eos_token_id,
        start_token_id=config.decoder_start_token_id,
        pad_token_id=config.pad_token_id,
        most=most,
        multiple=multiple,
    )
