"""Promises 1, 2 and 12: fresh tuners change nothing, prefixes reach the encoder, frozen means frozen."""

from __future__ import annotations

import pytest
import torch
from support import TASKS, batch, disturb, small, tuned

from hyperpelt.model.tuned import TunedModel

NOTHING_AT_START = [
    {"name": "hyperpelt", "prefix_length": 0, "bottleneck": 4},
    {"name": "hyperprefix", "prefix_length": 0},
    {"name": "prefix-tuning", "prefix_length": 0},
    {"name": "mam", "prefix_length": 0, "bottleneck": 8},
    {"name": "prompt-tuning", "length": 0},
    *(
        small(name)
        for name in (
            "hyperformer",
            "hyperformer++",
            "hyperblock",
            "houlsby",
            "pfeiffer",
            "parallel-adapter",
            "lora",
            "ia3",
        )
    ),
    *(small(name) for name in ("bitfit", "pasta", "u-tuning", "layer-norm", "hyper-lora", "hyper-ia3", "frozen")),
]


@pytest.mark.parametrize("method", NOTHING_AT_START, ids=lambda method: method["name"])
def test_fresh_tuners_compute_bit_identically_what_the_backbone_computes(backbone, method):
    rows = batch()
    with torch.no_grad():
        labels = rows["labels"].masked_fill(rows["labels"] == -100, 0)
        inputs = {"input_ids": rows["input_ids"], "attention_mask": rows["attention_mask"]}
        start = torch.full((len(labels), 1), backbone.config.decoder_start_token_id)
        decoder_ids = torch.cat([start, labels[:, :-1]], dim=1)
        bare = backbone(**inputs, decoder_input_ids=decoder_ids).logits
        model = tuned(backbone, method, disturbed=False)
        fresh = model(**inputs, decoder_input_ids=decoder_ids, task_ids=rows["task_ids"]).logits
        assert torch.equal(fresh, bare)
        if method["name"] != "frozen" and model.num_trainable():
            disturb(model)
            moved = model(**inputs, decoder_input_ids=decoder_ids, task_ids=rows["task_ids"]).logits
            assert not torch.equal(moved, bare), "a tuner that never changes anything would pass the test above"


def test_encoder_prefix_changes_the_encoder_and_gets_a_gradient(backbone):
    rows = batch()
    part = {"tuner": {"type": "prefix", "length": 4}, "at": ["encoder.*.self_attention"]}
    ids, mask = rows["input_ids"], rows["attention_mask"]
    with torch.no_grad():
        bare = backbone.get_encoder()(input_ids=ids, attention_mask=mask).last_hidden_state
    model = tuned(backbone, {"parts": [part]})
    with model.running(rows["task_ids"], ids, mask):
        states = backbone.get_encoder()(input_ids=ids, attention_mask=mask).last_hidden_state
    real = mask.bool()
    assert (states - bare)[real].abs().max() > 1e-3
    states[real].square().sum().backward()
    for name, parameter in model.trainable_parameters():
        gradient = parameter.grad.flatten(2).abs().amax(-1)
        assert (gradient > 0).all(), f"{name}: some layer or task of the encoder prefix gets no gradient"


@pytest.mark.parametrize("method", ["hyperpelt", "hyperformer++", "lora", "unipelt", "full"])
def test_frozen_means_frozen(backbone, method):
    before = {name: tensor.clone() for name, tensor in backbone.state_dict().items()}
    model = TunedModel.build(backbone, method=small(method), tasks=TASKS).train()
    optimiser = torch.optim.AdamW([p for _, p in model.trainable_parameters()], lr=1e-2, weight_decay=0.1)
    for seed in range(3):
        optimiser.zero_grad()
        model(**batch(seed=seed)).loss.backward()
        optimiser.step()
    for name, tensor in backbone.state_dict().items():
        assert torch.equal(tensor, before[name]), name
    for name, parameter in backbone.named_parameters():
        assert parameter.grad is None, name
    if method != "full":
        assert not [name for name, p in backbone.named_parameters() if p.requires_grad]
        assert not [name for name in model.method_state() if name.startswith("backbone")]
