"""Two processes that share batches of text and images train what one process trains.

`torchrun` starts them, with gloo on the CPU. Rows of two images stand beside rows of one and of none, and some of a
process's shares are text alone; the features are encoded by the first process and read by both.
"""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
import warm
from safetensors.torch import load_file
from small_runs import forget_tasks, write_run

from hyperpelt.config import load_run
from hyperpelt.data import MicroBatches
from hyperpelt.training import train
from hyperpelt.training.distributed import start_processes
from hyperpelt.training.setup import prepare
from hyperpelt.vision.stores import list_stores

METHOD = (
    "{name: vl-hyperpelt, prefix_length: 3, bottleneck: 4, visual_bottleneck: 4, prefix_hidden: 8, "
    "visual_prefix_hidden: 6, embedding_dim: 8, hidden_dim: 8, hyper_dim: 8}"
)

RATES = {"toy/mood": 2, "digits/which": 1, "digits/compare": 1}


def torchrun(settings: list[str]) -> None:
    command = [warm.python(), "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    command += ["-m", "hyperpelt.cli", "train", *settings]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr[-4000:]


@pytest.fixture
def runs(tiny_tokenizer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[dict[int, Path]]:
    """Three steps of four rows, trained by one process and by two, each with a feature store of its own."""
    monkeypatch.setenv("HYPERPELT_CACHE", str(tmp_path / "cache"))
    settings = [s for s in write_run(tmp_path, tiny_tokenizer) if not s.startswith(("tasks=", "method="))]
    settings += [f"method={METHOD}", f"tasks={json.dumps(RATES)}", "image_grid=2"]
    settings += ["max_steps=3", "save_steps=1", "save_total_limit=5", "max_grad_norm=null", "warmup_steps=0"]
    settings += ["train_limit=12", "test_limit=3", "adam_epsilon=1e-3", "learning_rate=1e-4", "log_steps=1"]
    folders = {}
    for processes, rows in ((1, 4), (2, 2)):
        folders[processes] = tmp_path / f"run-{processes}"
        own = [f"per_device_train_batch_size={rows}", f"output_dir={folders[processes]}"]
        own += [f"features_dir={tmp_path / f'features-{processes}'}"]
        if processes == 1:
            train(load_run(None, [*settings, *own]), progress=False)
        else:
            torchrun([*settings, *own])
    yield folders
    forget_tasks()


def shares(folder: Path) -> set[bool]:
    """Whether a process's share of a step has images, over all steps and both processes."""
    config = load_run(folder / "run.yaml", ["overwrite=true", "plugins=[]"])
    setup = prepare(config, start_processes(use_cpu=True))
    ids = {name: number for number, name in enumerate(setup.names)}
    parts = [
        MicroBatches(setup.sampler, setup.sets, ids, 0, rank=rank, world=2, features=setup.features) for rank in (0, 1)
    ]
    return {"visual" in rows[step] for rows in parts for step in range(setup.total)}


def test_two_processes_train_on_images_what_one_does(runs: dict[int, Path]) -> None:
    for step in ("step-1", "step-3"):  # where AdamW's means hold the gradients
        one, two = (
            load_file(folder / "checkpoints" / step / "optimizer.safetensors") for _, folder in sorted(runs.items())
        )
        assert one.keys() == two.keys()
        for name, value in one.items():
            torch.testing.assert_close(two[name], value, rtol=1e-4, atol=1e-6, msg=f"{step}: {name}")
    seen = {name for name, value in one.items() if name.startswith("visual") and value.abs().max() > 0}
    assert shares(runs[1]) == {True, False}, "with images and without"
    assert any("mapping" in name for name in seen), "the map of the features is trained"
    alone, shared = (json.loads((folder / "results.json").read_text()) for _, folder in sorted(runs.items()))
    assert shared["training"]["processes"] == 2
    assert shared["training"]["loss"] == pytest.approx(alone["training"]["loss"], rel=1e-5)
    assert shared["average"] == pytest.approx(alone["average"])
    kept = [list_stores(folder.parent / f"features-{processes}") for processes, folder in runs.items()]
    assert kept[0][0]["images"] == kept[1][0]["images"] > 0
