"""Packed backbones: what they compute, what a run of them remembers, and what is refused."""

from __future__ import annotations

import copy
import json
import sys
from pathlib import Path

import pytest
import torch
import yaml
from small_models import make_bart, make_t5
from small_runs import forget_tasks, write_run
from support import batch, disturb, spec_of
from torch import nn

from hyperpelt import evaluation
from hyperpelt.backbones import load_backbone
from hyperpelt.backbones.quantised import Int8Linear, bytes_packed, packing_of, quantise, to_pack
from hyperpelt.config import load_run
from hyperpelt.errors import UserError
from hyperpelt.export.baking import bake
from hyperpelt.export.merging import merge
from hyperpelt.model.tuned import TunedModel
from hyperpelt.planning import plan_run
from hyperpelt.training import train

FAMILIES = {"t5": make_t5, "gated": lambda: make_t5(feed_forward_proj="gated-gelu"), "bart": make_bart}
TASKS = ["a", "b", "c"]


@pytest.fixture(params=["int8", "nf4"])
def kind(request):
    if request.param == "nf4":
        pytest.importorskip("bitsandbytes", reason="nf4 needs bitsandbytes: pip install 'hyperpelt[quantization]'")
    return request.param


def model_of(backbone, method="hyperpelt") -> TunedModel:
    model = TunedModel.build(backbone, method=spec_of(method), tasks=TASKS, seed=3)
    disturb(model)
    return model.train()


def gradients(model: TunedModel) -> torch.Tensor:
    model(**batch()).loss.backward()
    return torch.cat([p.grad.flatten() for _, p in model.trainable_parameters()])


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("family", FAMILIES)
def test_a_packed_backbone_computes_what_its_unpacked_weights_compute(family, dtype, kind):
    packed = quantise(FAMILIES[family]().to(dtype), kind)
    plain = FAMILIES[family]().to(dtype)
    for name, linear in to_pack(plain):
        eye = torch.eye(linear.in_features, dtype=dtype)
        module = packed.get_submodule(name)
        bias = 0 if module.bias is None else module.bias
        with torch.no_grad():
            linear.weight.copy_((module(eye) - bias).T)  # what the packed weights stand for
    found, expected = gradients(model_of(packed)), gradients(model_of(plain))
    within = 1e-3 if dtype == torch.float32 else 0.1
    assert (found - expected).norm() <= within * expected.norm()
    assert packed.dtype == dtype
    assert packing_of(packed) == kind


def test_int8_rounds_to_half_a_step_of_each_row():
    torch.manual_seed(0)
    linear = nn.Linear(40, 7)
    packed = Int8Linear(linear)
    unpacked = packed.weight.float() * packed.scale[:, None]
    step = linear.weight.bfloat16().float().abs().amax(1) / 127
    assert ((unpacked - linear.weight.bfloat16().float()).abs() <= step[:, None] / 2 + 1e-7).all()


def test_the_same_weights_are_packed_whatever_they_compute_in(kind):
    one, other = (quantise(make_t5().to(dtype), kind) for dtype in (torch.float32, torch.bfloat16))
    for (_, mine), (_, theirs) in zip(one.named_parameters(), other.named_parameters(), strict=True):
        assert mine.dtype == torch.float32 or torch.equal(mine, theirs)


def test_bytes_are_those_that_are_counted(kind):
    backbone = make_t5()
    counted = sum(bytes_packed(linear, kind) for _, linear in to_pack(backbone))
    packed, stored = quantise(backbone, kind), {}
    for module in packed.modules():
        if hasattr(module, "packing"):
            state = getattr(module.weight, "quant_state", None)
            nested = (
                []
                if state is None
                else [state.absmax, state.code, state.offset, state.state2.absmax, state.state2.code]
            )
            for tensor in [module.weight.data, *nested, *([module.scale] if kind == "int8" else [])]:
                stored[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
    assert sum(stored.values()) == counted


def test_copies_and_baked_tasks_of_a_packed_model_answer_as_it_does(kind):
    model = model_of(quantise(make_bart(), kind)).eval()
    rows = batch() | {"task_ids": torch.ones(4, dtype=torch.long)}
    expected = model(**rows).logits
    twin = copy.deepcopy(model)
    assert torch.equal(twin(**rows).logits, expected)
    for (_, mine), (_, theirs) in zip(twin.backbone.named_parameters(), model.backbone.named_parameters(), strict=True):
        assert mine.data_ptr() != theirs.data_ptr()
    assert torch.equal(bake(model, "b")(**rows | {"task_ids": torch.zeros(4, dtype=torch.long)}).logits, expected)


def test_what_needs_the_weights_is_refused(kind, tmp_path):
    packed = quantise(make_t5(), kind)
    for name in ("full", "alphatuning"):
        with pytest.raises(UserError, match=f"Method '{name}', which changes the backbone itself, needs"):
            TunedModel.build(packed, method=name, tasks=TASKS)
    with pytest.raises(UserError, match="Merging needs the backbone's weights as they are"):
        merge(model_of(packed, "lora").eval(), "a")
    settings = ["tasks=glue/rte", f"output_dir={tmp_path}", f"quantization={kind}"]
    with pytest.raises(UserError, match="precision must be fp32, bf16 or auto with quantization"):
        load_run(None, [*settings, "precision=bf16-mixed"])
    with pytest.raises(UserError, match="changes the backbone itself"):
        plan_run(load_run(None, [*settings, "method=full"]))


def test_a_missing_library_is_named_with_what_installs_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "bitsandbytes.nn", None)
    with pytest.raises(UserError, match=r"nf4 needs bitsandbytes .*pip install 'hyperpelt\[quantization\]'"):
        quantise(make_t5(), "nf4")
    with pytest.raises(UserError, match="int8"):
        quantise(make_t5(), "int4")


def test_a_run_remembers_how_its_backbone_is_packed(kind, tiny_tokenizer, tmp_path, monkeypatch):
    monkeypatch.setenv("HYPERPELT_CACHE", str(tmp_path / "cache"))
    settings = [*write_run(tmp_path, tiny_tokenizer, num_layers=1), f"quantization={kind}", "precision=bf16"]
    try:
        results = train(load_run(None, [*settings, "max_steps=2"]), progress=False)
        run = tmp_path / "run"
        assert json.loads((run / "config.json").read_text())["quantization"] == kind
        assert yaml.safe_load((run / "run.yaml").read_text())["quantization"] == kind
        resumed = train(load_run(run, ["max_steps=3", "resume=true"]), progress=False)
        assert resumed["training"]["steps"] == 3
        with pytest.raises(UserError, match=f"quantization='{kind}'"):
            train(load_run(run, ["max_steps=4", "resume=true", "quantization=null"]), progress=False)
        for dtype in (torch.bfloat16, None):  # the same packed weights, whatever they compute in
            model = TunedModel.from_pretrained(run, dtype=dtype)
            assert model.quantization == kind
        with pytest.raises(UserError, match="weights"):
            TunedModel.from_pretrained(run, backbone=load_backbone(Path(settings[0].removeprefix("backbone="))))
        assert results["tasks"].keys() == evaluation.evaluate(model, model.tasks, split="test").tasks.keys()
    finally:
        forget_tasks()


def test_a_plan_counts_what_a_packed_backbone_takes(kind, tmp_path):
    make_t5().config.save_pretrained(tmp_path)
    settings = ["tasks=glue/rte", f"output_dir={tmp_path / 'run'}", f"backbone={tmp_path}", "method=lora"]
    whole, packed = (plan_run(load_run(None, [*settings, *more]), on="cpu") for more in ([], [f"quantization={kind}"]))
    linears = [linear for _, linear in to_pack(make_t5())]
    spared = sum(4 * linear.weight.numel() - bytes_packed(linear, kind) for linear in linears)
    assert whole.costs.frozen - packed.costs.frozen == spared
    assert packed.costs.kept == whole.costs.kept
    assert packed.to_dict()["quantization"] == kind
