"""What test_device.py proves with a stand-in, on a real accelerator: a GPU computes what a CPU does, and none waits.

Skipped where there is none. `pytest tests/promises/test_on_a_gpu.py` on a machine that has one.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import torch
from small_models import make_bart, make_t5
from support import TASKS, batch, describe, disturb, spec_of

from hyperpelt import methods
from hyperpelt.evaluation.results import load_results
from hyperpelt.model.inputs import inputs_of
from hyperpelt.model.tuned import TunedModel
from hyperpelt.training.objective import total_loss

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA GPU")

GPU = torch.device("cuda", 0)
FAMILIES = {"t5": make_t5, "bart": make_bart}
TRAINING = [name for name in methods.names() if name != "frozen"]


def every_method(test):
    return pytest.mark.parametrize("name", TRAINING)(pytest.mark.parametrize("family", FAMILIES)(test))


def moved(name: str, family: str) -> TunedModel:
    model = TunedModel.build(FAMILIES[family](), method=spec_of(name), tasks=TASKS, seed=3).eval()
    disturb(model)
    return describe(model)


def rows_for(model: TunedModel) -> dict[str, object]:
    made = batch()
    tokens = int((made["labels"] != -100).sum())
    totals = {"num_global_tokens": tokens, "num_read_tokens": tokens, "num_global_rows": 4}
    rows = {**made, "row_weights": torch.ones(4), "row_names": ["row"] * 4, **totals}
    if model.visual is not None:
        features = torch.randn(3, model.visual.cells, model.visual.dim, generator=torch.Generator().manual_seed(4))
        rows |= {"visual": features, "visual_rows": torch.tensor([1, 3, 3])}
    return rows


def step(model: TunedModel, device: torch.device) -> tuple[float, dict[str, torch.Tensor]]:
    """The loss of a batch and its gradients, read on the host."""
    rows = rows_for(model)
    model.zero_grad(set_to_none=True)
    loss = total_loss(model(**inputs_of(rows, device)), rows)
    loss.backward()
    grads = {name: p.grad.cpu().clone() for name, p in model.trainable_parameters() if p.grad is not None}
    return float(loss.detach()), grads


@every_method
def test_loss_and_gradients_are_a_cpu_s(name, family):
    model = moved(name, family)
    loss, grads = step(model, torch.device("cpu"))
    there, found = step(model.to(GPU), GPU)
    assert there == pytest.approx(loss, rel=1e-4)
    assert found.keys() == grads.keys()
    for key, grad in grads.items():
        atol = 1e-2 * float(grad.abs().max()) + 1e-7  # float32 sums in another order: half of it, at most, on an H200
        torch.testing.assert_close(found[key], grad, atol=atol, rtol=2e-3, msg=lambda m, key=key: f"{key}: {m}")


@every_method
def test_a_step_waits_for_nothing(name, family):
    model = moved(name, family).to(GPU).train()
    parameters = [parameter for _, parameter in model.trainable_parameters()]
    optimizer = torch.optim.AdamW(parameters, lr=1e-3, fused=True)
    rows = rows_for(model)
    inputs = inputs_of(rows, GPU)
    for mode in ("default", "error"):  # a first step compiles kernels and makes the optimiser's state
        torch.cuda.synchronize()
        torch.cuda.set_sync_debug_mode(mode)
        try:
            total_loss(model(**inputs), rows).backward()
            torch.nn.utils.clip_grad_norm_(parameters, 1.0, foreach=True)
            optimizer.step()
        finally:
            torch.cuda.set_sync_debug_mode("default")
        optimizer.zero_grad()


@every_method
def test_what_it_writes_is_what_a_cpu_writes(name, family):
    model, rows = moved(name, family), batch()
    inputs = {n: rows[n] for n in ("input_ids", "attention_mask", "task_ids")}
    written = model.generate(**inputs, max_new_tokens=4, do_sample=False)
    there = model.to(GPU).generate(**{n: t.to(GPU) for n, t in inputs.items()}, max_new_tokens=4, do_sample=False)
    assert torch.equal(there.cpu(), written)


@pytest.mark.parametrize("precision", ["fp32", "bf16", "bf16-mixed"])
@pytest.mark.parametrize("compiled", [False, True], ids=["eager", "compiled"])
def test_a_run_trains_and_goes_on_from_a_checkpoint(tmp_path, precision, compiled):
    settings = {
        "backbone": "mini-bart", "method": "hyperpelt", "tasks": "tabletop/sentiment,tabletop/nli",
        "max_source_length": 64, "max_target_length": 8, "per_device_train_batch_size": 16, "log_steps": 5,
        "precision": precision, "torch_compile": compiled, "test_limit": 50, "frozen_row": False, "learning_rate": 2e-3,
        "max_steps": 20, "save_steps": 10,
    }  # fmt: skip

    def average(**more: object) -> float:
        """Of a run in a process of its own: the tests' checks of shapes are no part of what is compiled."""
        words = [f"{name}={value}" for name, value in {**settings, **more}.items()]
        done = subprocess.run([sys.executable, "-m", "hyperpelt.cli", "train", *words], capture_output=True, text=True)
        assert done.returncode == 0, done.stderr[-3000:]
        results = load_results(Path(more["output_dir"]))
        assert set(results.tasks) == {"tabletop/sentiment", "tabletop/nli"}
        return results.average

    first = average(output_dir=tmp_path / "run")
    again = average(output_dir=tmp_path / "other", resume=tmp_path / "run" / "checkpoints" / "step-10")
    assert again == pytest.approx(first, abs=2)  # kernels that add up in any order
