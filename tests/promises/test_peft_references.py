"""Promise 9, methods that peft has too: the same weights give the same logits in float64."""

from __future__ import annotations

import copy
import warnings

import peft
import pytest
import torch
from comparison import make_batch, make_rough, make_tuned, tensors_of

from hyperpelt.operations import list_operations

KINDS = ("t5", "bart")
PATHS = {kind: {op.name: op.path for op in list_operations(make_rough(kind))} for kind in KINDS}


def wrapped(kind: str, config: peft.PeftConfig, backbone=None) -> peft.PeftModel:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return peft.get_peft_model(backbone or make_rough(kind), config).double().eval()


@torch.no_grad()
def assert_peft_agrees(model, others) -> None:
    """Logits of a mixed-task batch equal those of one peft model a task."""
    batch = make_batch()
    got = model(**batch).logits
    for task, other in enumerate(others):
        rows = batch["task_ids"] == task
        names = ("input_ids", "attention_mask", "decoder_input_ids")
        mask = torch.ones_like(batch["decoder_input_ids"][rows])
        wanted = other(**{name: batch[name][rows] for name in names}, decoder_attention_mask=mask).logits
        error = (got[rows] - wanted).abs().max() / wanted.abs().max()
        assert error < 1e-10, f"task {task}: logits differ by {error:.1e} of their size"


@pytest.mark.parametrize("kind", KINDS)
def test_lora_is_that_of_peft(kind):
    names = {"t5": ["q", "v"], "bart": ["q_proj", "v_proj"]}[kind]
    model, others = make_tuned(make_rough(kind), {"name": "lora", "rank": 3, "alpha": 6.0}), []
    for task in range(2):
        others.append(wrapped(kind, peft.LoraConfig(task_type="SEQ_2_SEQ_LM", r=3, lora_alpha=6, target_modules=names)))
        with torch.no_grad():
            for name, tensors in tensors_of(model, task).items():
                module = others[-1].base_model.model.get_submodule(PATHS[kind][name])
                module.lora_A.default.weight.copy_(tensors["down"].T)
                module.lora_B.default.weight.copy_(tensors["up"].T)
    trained = sum(p.numel() for p in others[0].parameters() if p.requires_grad)
    assert model.num_trainable() == 2 * trained
    assert_peft_agrees(model, others)


@pytest.mark.parametrize("kind", KINDS)
def test_ia3_is_that_of_peft(kind):
    names = {"t5": ["k", "v", "wo"], "bart": ["k_proj", "v_proj", "fc2"]}[kind]
    model, others = make_tuned(make_rough(kind), "ia3"), []
    for task in range(2):
        config = peft.IA3Config(task_type="SEQ_2_SEQ_LM", target_modules=names, feedforward_modules=[names[2]])
        others.append(wrapped(kind, config))
        with torch.no_grad():
            for name, tensors in tensors_of(model, task).items():
                scale = others[-1].base_model.model.get_submodule(PATHS[kind][name]).ia3_l.default
                scale.copy_((1 + tensors["shift"]).reshape(scale.shape))
    trained = sum(p.numel() for p in others[0].parameters() if p.requires_grad)
    assert model.num_trainable() == 2 * trained
    assert_peft_agrees(model, others)


def test_layer_norm_tuning_is_that_of_peft():
    names = ["layer_norm", "final_layer_norm"]
    model, others = make_tuned(make_rough("t5"), "layer-norm"), []
    for task in range(2):
        others.append(wrapped("t5", peft.LNTuningConfig(task_type="SEQ_2_SEQ_LM", target_modules=names)))
        with torch.no_grad():
            for name, tensors in tensors_of(model, task).items():
                weight = others[-1].base_model.model.get_submodule(PATHS["t5"][name]).ln_tuning_layers.default.weight
                weight.add_(tensors["weight"])
    trained = sum(p.numel() for p in others[0].parameters() if p.requires_grad)
    assert model.num_trainable() == 2 * trained
    assert_peft_agrees(model, others)


@pytest.mark.parametrize("kind", KINDS)
def test_prompt_tuning_is_that_of_peft(kind):
    model, others = make_tuned(make_rough(kind), {"name": "prompt-tuning", "length": 4}), []
    for task in range(2):
        others.append(wrapped(kind, peft.PromptTuningConfig(task_type="SEQ_2_SEQ_LM", num_virtual_tokens=4)))
        with torch.no_grad():
            table = others[-1].prompt_encoder.default.embedding.weight
            assert table.shape[0] == 8, "peft allocates 2N rows for an encoder-decoder and reads the first N"
            table[:4] = tensors_of(model, task)["encoder.embedding"]["rows"]
    assert_peft_agrees(model, others)


@pytest.mark.parametrize("kind", KINDS)
def test_decoder_self_prefix_is_that_of_peft_but_for_positions(kind):
    """peft puts its prefix into the cache, so text is N positions further on there; ours never moves the text.

    BART's table of decoder positions is moved by N for peft; on T5 the prefix alone would get a position bias there,
    so the decoder has none in this test. Of 2L key and value tables peft gives layer l those at 4l and 4l + 1 modulo
    2L (it splits a stack repeated for cross-attention), so with two layers both read the first two.
    """
    backbone, length = make_rough(kind), 3
    with torch.no_grad():
        if kind == "t5":
            backbone.decoder.block[0].layer[0].SelfAttention.relative_attention_bias.weight.zero_()
        other_backbone = copy.deepcopy(backbone)
        if kind == "bart":
            table = other_backbone.model.decoder.embed_positions.weight
            table[2 + length :] = table[2:-length].clone()
    part = {"tuner": {"type": "prefix", "length": length}, "at": "decoder.*.self_attention"}
    model, others = make_tuned(backbone, {"parts": [part]}), []
    with torch.no_grad():
        for _, parameter in model.trainable_parameters():
            parameter.copy_(parameter[:, :1].expand_as(parameter))
    for task in range(2):
        config = peft.PrefixTuningConfig(task_type="SEQ_2_SEQ_LM", num_virtual_tokens=length)
        others.append(wrapped(kind, config, copy.deepcopy(other_backbone)))
        rows = tensors_of(model, task)
        assert torch.equal(rows["decoder.0.self_attention"]["keys"], rows["decoder.1.self_attention"]["keys"])
        with torch.no_grad():
            table = others[-1].prompt_encoder.default.embedding.weight
            table[:, :32] = rows["decoder.0.self_attention"]["keys"]
            table[:, 32:64] = rows["decoder.0.self_attention"]["values"]
    assert_peft_agrees(model, others)
