"""Promise 5: one batch of 16, four accumulated batches of 4 and two processes of 8 give equal losses and gradients.

The processes are real: `accelerate launch` starts two of them, with gloo on the CPU, once as DDP and once as FSDP. The
gradient is read from the first step's checkpoint, where AdamW's running mean is (1 - beta1) times it.
"""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path
from typing import Any

import pytest
import torch
import warm
from safetensors.torch import load_file
from small_runs import forget_tasks, write_run
from torch import Tensor

from hyperpelt.config import load_run
from hyperpelt.training import train

TESTS = Path(__file__).parents[1]
# Sharding, whole batches: (overrides, flag of accelerate launch).
WAYS = {
    "16": (["per_device_train_batch_size=16"], None),
    "4x4": (["per_device_train_batch_size=4", "gradient_accumulation_steps=4"], None),
    "2 processes of 8": (["per_device_train_batch_size=8"], "--multi_gpu"),
    "2 processes of 2x4, FSDP": (["per_device_train_batch_size=4", "gradient_accumulation_steps=2"], "--use_fsdp"),
}


def launch(flag: str, arguments: list[str], *, module: str = "hyperpelt.cli") -> None:
    """`hyperpelt train` with these overrides, or another module, in two processes started as a user starts them."""
    command = [warm.python(), "-m", "accelerate.commands.launch", flag, "--num_processes=2", "--num_machines=1"]
    command += ["--mixed_precision=no", "--dynamo_backend=no", "--main_process_port=0"]
    command += ["-m", module, *(["train"] if module == "hyperpelt.cli" else []), *arguments]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    done = subprocess.run(command, env=environment, cwd=TESTS, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr[-4000:]


def gradient(folder: Path) -> dict[str, Tensor]:
    """The gradient of the first step, before clipping (there is none)."""
    state = load_file(folder / "checkpoints" / "step-1" / "optimizer.safetensors")
    return {name.removesuffix("|exp_avg"): mean / 0.1 for name, mean in state.items() if name.endswith("|exp_avg")}


@pytest.fixture(params=["t5", "bart", "bart ranking"])
def runs(request, tiny_tokenizer, tmp_path, monkeypatch) -> dict[str, Path]:
    """Two steps trained in every way (for ranking, without FSDP); each run folder by the way's name."""
    family, _, loss = request.param.partition(" ")
    ways = {name: way for name, way in WAYS.items() if way[1] != "--use_fsdp" or not loss}
    monkeypatch.setenv("HYPERPELT_CACHE", str(tmp_path / "cache"))
    common = write_run(tmp_path, tiny_tokenizer, family=family)
    common += ["max_steps=2", "save_steps=1", "save_total_limit=5", "max_grad_norm=null", "warmup_steps=0"]
    common += ["learning_rate=1e-4", "eval_steps=2", "log_steps=1", "adam_epsilon=1e-3"]
    common += ["loss=ranking"] if loss else ["label_smoothing=0.1"]
    folders = {}
    try:
        for number, (name, (overrides, flag)) in enumerate(ways.items()):
            folders[name] = tmp_path / f"run-{number}"
            settings = [*common, *overrides, f"output_dir={folders[name]}"]
            if flag is None:
                train(load_run(None, settings), progress=False)
            else:
                launch(flag, settings)
    finally:
        forget_tasks()
    return folders


def results(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "results.json").read_text(encoding="utf8"))


def test_losses_gradients_and_results_are_equal_however_a_batch_is_divided(runs):
    expected, whole = gradient(runs["16"]), results(runs["16"])
    assert any(value.abs().max() > 1e-3 for value in expected.values())
    for name, folder in runs.items():
        found = gradient(folder)
        assert found.keys() == expected.keys()
        for tensor, value in expected.items():
            torch.testing.assert_close(found[tensor], value, rtol=1e-4, atol=2e-6, msg=f"{name}: {tensor}")
        content = results(folder)
        assert content["training"]["batch_size"] == 16
        assert content["training"]["loss"] == pytest.approx(whole["training"]["loss"], rel=1e-5)
        assert content["training"]["tokens"] == whole["training"]["tokens"]
        assert content["average"] == pytest.approx(whole["average"])
        weights = load_file(folder / "model.safetensors")
        for tensor, value in load_file(runs["16"] / "model.safetensors").items():
            torch.testing.assert_close(weights[tensor], value, rtol=1e-4, atol=1e-5)
    processes = [results(folder)["training"]["processes"] for folder in runs.values()]
    assert processes == [1, 1, 2, 2][: len(runs)], "the launches really were of two processes"
