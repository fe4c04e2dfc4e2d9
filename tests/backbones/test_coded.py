"""Weights kept as binary codes: packing, the fit, gradients; and a model whose projections are such."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
import torch
from comparison import make_batch, make_rough, make_tuned, tensors_of
from reference_backbones import Reference
from safetensors.torch import load_file
from small_models import make_bart, make_t5
from support import TASKS, batch, disturb
from torch import nn

from hyperpelt.backbones.coded import CodedLinear, fit, matrix, pack, unpack
from hyperpelt.errors import UserError
from hyperpelt.export.merging import export_merged, merge
from hyperpelt.model.tuned import TunedModel

METHOD = {"name": "alphatuning", "bits": 2, "rounds": 2}


@pytest.mark.parametrize("width", [8, 13, 64])
def test_eight_codes_stand_in_a_byte(width):
    signs = torch.where(torch.randn(2, 3, width, generator=torch.Generator().manual_seed(0)) > 0, 1.0, -1.0)
    codes = pack(signs)
    assert codes.dtype == torch.uint8
    assert codes.shape == (2, 3, -(-width // 8))
    bits = np.unpackbits(codes.numpy(), axis=-1, bitorder="little")[..., :width]
    assert np.array_equal(bits * 2.0 - 1, signs.numpy())
    assert torch.equal(unpack(codes, width, torch.float32), signs)


def test_the_error_falls_with_planes_and_with_rounds_and_planes_are_in_order():
    weight = torch.randn(6, 40, generator=torch.Generator().manual_seed(1))
    errors = {}
    for bits in (1, 2, 3, 4, 6):
        for rounds in (0, 5):
            codes, scales = fit(weight, bits, rounds)
            assert (scales > 0).all()
            assert (scales.mean(1).diff() <= 0).all()
            errors[bits, rounds] = (matrix(codes, scales, 40, torch.float32) - weight).square().mean().item()
    for rounds in (0, 5):
        each = [errors[bits, rounds] for bits in (1, 2, 3, 4, 6)]
        assert all(more > 1.5 * less for more, less in pairwise(each)), each
    assert all(errors[bits, 5] < errors[bits, 0] for bits in (2, 3, 4, 6))
    # One plane is the mean absolute value, with the signs.
    codes, scales = fit(weight, 1, 0)
    torch.testing.assert_close(scales[0], weight.abs().mean(1), atol=1e-5, rtol=1e-5)


def test_rows_that_are_all_alike_are_fitted():
    weight = torch.stack([torch.zeros(16), torch.full((16,), 2.0), torch.full((16,), -3.0)])
    codes, scales = fit(weight, 3, 4)
    torch.testing.assert_close(matrix(codes, scales, 16, torch.float32), weight, atol=1e-4, rtol=1e-4)


def test_a_coded_map_computes_and_differentiates_as_the_weight_it_stands_for():
    torch.manual_seed(0)
    coded = CodedLinear.of(nn.Linear(13, 5), bits=3, rounds=2)
    dense = coded.plain(torch.float32)
    assert coded.weight is None
    x = torch.randn(2, 4, 13, requires_grad=True)
    y = torch.autograd.grad(coded(x).square().sum(), x)[0], torch.autograd.grad(dense(x).square().sum(), x)[0]
    torch.testing.assert_close(coded(x), dense(x))
    torch.testing.assert_close(*y)
    kept = []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: kept.append(t) or t, lambda t: t):
        coded(x)
    assert {t.dtype for t in kept if t.numel() == coded.codes.numel()} == {torch.uint8}
    assert not any(t.shape == (5, 13) for t in kept), "backward unpacks the codes again"
    assert coded.double().scales.dtype == torch.float32


@pytest.mark.parametrize("bits", [0, 9])
def test_numbers_of_bits_that_make_no_sense_are_refused(bits):
    with pytest.raises(UserError, match="bits"):
        TunedModel.build(make_t5(), method={**METHOD, "bits": bits}, tasks=["a"])


@pytest.mark.parametrize("kind", ["t5", "t5-gated", "bart"])
def test_alphatuning_is_sums_of_scaled_codes(kind):
    backbone = make_rough(kind)
    model = make_tuned(backbone, METHOD)
    rows = make_batch()
    names = ("input_ids", "attention_mask", "decoder_input_ids")
    got = model(**rows).logits
    for task in (0, 1):
        reference, shifts = Reference(backbone), tensors_of(model, task)
        assert set(shifts) == set(reference.projections())
        for name, path in reference.projections().items():
            coded, width = model.backbone.get_submodule(path), reference.weights[f"{path}.weight"].shape[1]
            signs = np.unpackbits(coded.codes.numpy(), axis=-1, bitorder="little")[..., :width] * 2.0 - 1
            alphas = coded.scales.double().clone()
            alphas[0] += shifts[name]["shift"]
            reference.weights[f"{path}.weight"] = sum(
                a[:, None] * torch.from_numpy(s) for a, s in zip(alphas, signs, strict=True)
            )
        mine = rows["task_ids"] == task
        wanted = reference.logits(*(rows[name][mine] for name in names))
        assert (got[mine] - wanted).abs().max() / wanted.abs().max() < 1e-10


@pytest.mark.parametrize("make", [make_t5, make_bart])
def test_the_run_holds_the_packed_codes_which_never_change(make, tmp_path):
    backbone = make()
    before = {name: value.clone() for name, value in backbone.state_dict().items()}
    model = TunedModel.build(backbone, method=METHOD, tasks=TASKS)
    fresh = model.eval()(**batch()).logits
    bare = TunedModel.build(model.backbone, method="frozen", tasks=TASKS).eval()
    assert torch.equal(fresh, bare(**batch()).logits), "the start is the coded backbone"
    bare.detach()
    codes = {name: value.clone() for name, value in model._replaced_buffers()}
    optimizer = torch.optim.AdamW([p for _, p in model.trainable_parameters()], lr=0.1, weight_decay=0.1)
    model.train()(**batch()).loss.backward()
    optimizer.step()
    assert all(torch.equal(value, codes[name]) for name, value in model._replaced_buffers())
    assert all(torch.equal(value, before[name]) for name, value in backbone.state_dict().items())
    model.eval().save_pretrained(tmp_path)
    saved = load_file(tmp_path / "model.safetensors")
    coded = {name: value for name, value in saved.items() if name.endswith(".codes")}
    assert len(coded) == len(model.assembly.operations)
    assert {value.dtype for value in coded.values()} == {torch.uint8}
    assert set(coded) <= set(model.state_dict()), "what others save by it holds them, too"
    # The weights that the codes stand for play no part any more; others do.
    other = make()
    with torch.no_grad():
        for operation in model.assembly.operations:
            other.get_submodule(operation.path).weight.zero_()
    loaded = TunedModel.from_pretrained(tmp_path, backbone=other)
    assert torch.equal(loaded(**batch()).logits, model(**batch()).logits)
    again = make()
    with torch.no_grad():
        again.get_input_embeddings().weight[5, 0] += 1
    with pytest.raises(UserError, match="backbone"):
        TunedModel.from_pretrained(tmp_path, backbone=again)


def test_a_task_is_merged_into_scales_and_exported_as_plain_weights(tmp_path):
    model = TunedModel.build(make_t5(), method=METHOD, tasks=TASKS).eval()
    disturb(model)
    rows = {**batch(), "task_ids": torch.ones(4, dtype=torch.long)}
    alone = {**rows, "task_ids": torch.zeros(4, dtype=torch.long)}
    with torch.no_grad():
        merged = merge(model, TASKS[1])
        torch.testing.assert_close(merged(**alone).logits, model(**rows).logits, atol=1e-4, rtol=1e-4)
        assert not merged.method.parts
        assert isinstance(merged.backbone.get_submodule("encoder.block.0.layer.0.SelfAttention.q"), CodedLinear)
        plain = type(model.backbone).from_pretrained(export_merged(model, TASKS[1], tmp_path / "plain")).eval()
        names = ("input_ids", "attention_mask")
        logits = plain(**{n: rows[n] for n in names}, labels=rows["labels"]).logits
        torch.testing.assert_close(logits[:3], model(**rows).logits[:3], atol=1e-4, rtol=1e-4)


def test_a_weight_has_one_code_only():
    two = [{"name": f"p{bits}", "tuner": {"type": "code_scale", "bits": bits}, "at": ["q"]} for bits in (2, 3)]
    with pytest.raises(UserError, match="both replace"):
        TunedModel.build(make_t5(), method={"parts": two}, tasks=["a"])
