"""A model's backbone as it was before the method changed it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from hyperpelt.backbones import load_backbone
from hyperpelt.backbones.moving import moved
from hyperpelt.model.copies import copy_of
from hyperpelt.model.vocabulary import num_rows

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel

    from hyperpelt.model.tuned import TunedModel


def backbone_anew(model: TunedModel, *, dtype: torch.dtype | None = None) -> PreTrainedModel:
    """The model's backbone, loaded by its name, on the model's device and with its languages.

    It has a row for every token of the model's tokenizer, to which the method may have added some: the same rows that
    the model's own copy began with.

    - **dtype**: None: the model's

    Raises:
        UserError: it can be loaded no more.
    """
    found = moved(load_backbone(model.backbone_name, dtype=dtype or model.dtype), model.device)
    if (rows := num_rows(model.backbone)) > num_rows(found):
        found = copy_of(found, vocabulary=rows)
    found.config.decoder_start_token_id = model.backbone.config.decoder_start_token_id
    found.generation_config = model.backbone.generation_config
    return found.eval()
