"""A merged mini-bart is a BART of transformers' own class that answers as the run does, to rounding."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from small_models import make_bart
from transformers import AutoModelForSeq2SeqLM, BartForConditionalGeneration

from hyperpelt import TunedModel
from hyperpelt.backbones import load_backbone
from hyperpelt.backbones.mini_bart import MiniBart
from hyperpelt.export.merging import export_merged


@pytest.fixture
def mini() -> MiniBart:
    """A mini-bart of width 32 whose norms meet small variances, where the epsilon shows."""
    plain = make_bart()
    plain.config.layer_norm_eps = 1e-12
    model = MiniBart(plain.config).eval()
    model.load_state_dict(plain.state_dict())
    with torch.no_grad():
        model.model.shared.weight.mul_(0.01)
        for part in (model.model.encoder, model.model.decoder):
            part.embed_positions.weight.mul_(0.01)
    return model


def test_it_loads_as_documented_and_is_equal_to_rounding(mini: MiniBart, tiny_tokenizer: Any, tmp_path: Path) -> None:
    model = TunedModel.build(mini, method="lora", tasks=["a", "b"], tokenizer=tiny_tokenizer)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.add_(0.05)
    ids = torch.randint(3, 100, (4, 9))
    mask = torch.ones_like(ids)
    mask[1, 5:] = 0
    labels = torch.randint(3, 100, (4, 5))
    rows = {"input_ids": ids, "attention_mask": mask, "labels": labels}
    expected = model(**rows, task_ids=torch.ones(4, dtype=torch.long)).logits
    export_merged(model, "b", tmp_path)
    loaded = AutoModelForSeq2SeqLM.from_pretrained(tmp_path)
    assert type(loaded) is BartForConditionalGeneration
    assert type(load_backbone(tmp_path)) is BartForConditionalGeneration
    with torch.no_grad():
        found = loaded(**rows).logits
    scale = expected.abs().max()
    assert (found - expected).abs().max() < 2e-5 * scale
    for module in mini.modules():  # and the epsilon is what makes the difference
        if isinstance(module, torch.nn.LayerNorm):
            module.eps = 1e-5
    other = model(**rows, task_ids=torch.ones(4, dtype=torch.long)).logits
    assert (other - expected).abs().max() > 1e-3 * scale
