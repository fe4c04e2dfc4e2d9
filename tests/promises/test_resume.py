"""Promise 6: training killed at any step and resumed ends bit-identical to training that never stopped.

The killed run is a real process that gets SIGKILL, wherever it then is. Dropout is on, the epoch is shorter than the
run, and the optimiser, the order of rows and every random state must come back for the ends to be equal.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from small_runs import forget_tasks, write_run

from hyperpelt import tasks as registry
from hyperpelt.config import load_run
from hyperpelt.training import train
from hyperpelt.training.checkpoints import list_checkpoints

STEPS = 24
DROPOUT = {"t5": {"dropout_rate": 0.2}, "bart": {"dropout": 0.2}}


@pytest.fixture(params=["t5", "bart"])
def settings(request, tiny_tokenizer, tmp_path, monkeypatch):
    """A run of 24 steps with everything that has a state."""
    monkeypatch.setenv("HYPERPELT_CACHE", str(tmp_path / "cache"))
    common = write_run(tmp_path, tiny_tokenizer, family=request.param, **DROPOUT[request.param])
    common += [
        f"max_steps={STEPS}",
        "save_steps=5",
        "eval_steps=8",
        "gradient_accumulation_steps=2",
        "weight_decay=0.01",
    ]
    yield [*common, "per_device_train_batch_size=4", "learning_rate=0.003", "label_smoothing=0.1", "precision=fp32"]
    forget_tasks()


def kill_after(folder: Path, step: int, settings: list[str]) -> int:
    """Train in a process of its own, SIGKILL it once it has saved `step`; returns the last step it saved."""
    command = [sys.executable, "-m", "hyperpelt.cli", "train", *settings, f"output_dir={folder}"]
    environment = {**os.environ, "OMP_NUM_THREADS": str(torch.get_num_threads()), "HF_HUB_OFFLINE": "1"}
    process = subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True)
    deadline = time.monotonic() + 240
    while step not in list_checkpoints(folder / "checkpoints"):
        assert process.poll() is None, process.communicate()[1]
        assert time.monotonic() < deadline, "the run did not get that far"
        time.sleep(0.002)
    process.kill()
    assert process.wait() == -signal.SIGKILL, "the run was over before it was killed"
    return max(list_checkpoints(folder / "checkpoints"))


def test_a_killed_and_resumed_run_ends_bit_identical_to_one_that_never_stopped(settings, tmp_path):
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    train(load_run(None, [*settings, f"output_dir={whole}"]), progress=False)
    saved = kill_after(killed, 5, settings)
    assert saved < STEPS
    assert not (killed / "results.json").exists()
    train(load_run(None, [*settings, f"output_dir={killed}", "resume=true"]), progress=False)
    same_end(whole, killed)


STREAMED = """
name: my/stream
source: {files: {train: part-*.jsonl, test: test.jsonl}, stream: {train: 96}}
input: "say: {text}"
choices: ["no", "yes"]
splits: {validation: null}
"""


@pytest.mark.parametrize("settings", ["t5"], indirect=True)
def test_a_killed_run_on_a_stream_goes_on_with_the_next_row(settings, tmp_path, request):
    request.addfinalizer(lambda: registry.remove("my/stream"))
    words = ["good", "bad", "true", "false", "maybe", "yes", "no", "sentence", "the", "a"]
    for name, count in {"part-0": 40, "part-1": 56, "test": 8}.items():
        rows = [{"text": " ".join(words[n % (2 + n % 7) :]), "label": n % 2} for n in range(count)]
        (tmp_path / f"{name}.jsonl").write_text("\n".join(map(json.dumps, rows)), encoding="utf8")
    (tmp_path / "stream.yaml").write_text(STREAMED, encoding="utf8")
    plugins = f"plugins={tmp_path / 'toy_plugin.py'},{tmp_path / 'stream.yaml'}"
    streamed = [*settings, "tasks=my/stream,toy/mood", plugins, "length_window=2", "max_steps=16", "eval_steps=null"]
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    train(load_run(None, [*streamed, f"output_dir={whole}"]), progress=False)
    assert kill_after(killed, 5, streamed) < 16
    train(load_run(None, [*streamed, f"output_dir={killed}", "resume=true"]), progress=False)
    same_end(whole, killed)


def test_stopping_after_every_step_changes_nothing(settings, tmp_path):
    short = [*settings, "max_steps=6", "save_steps=1", "save_total_limit=10", "eval_steps=2"]
    short += ["loss=ranking", "label_smoothing=0"]
    whole = tmp_path / "whole"
    train(load_run(None, [*short, f"output_dir={whole}"]), progress=False)
    for step in range(1, 6):
        other = tmp_path / f"from-{step}"
        from_there = [f"output_dir={other}", f"resume={whole}/checkpoints/step-{step}"]
        train(load_run(None, [*short, *from_there]), progress=False)
        same_end(whole, other)


def same_end(whole: Path, other: Path) -> None:
    """Tensors, optimiser, random states, position and history of the last checkpoints are equal to the bit."""
    ours, theirs = (list(list_checkpoints(folder / "checkpoints").values())[-1] for folder in (whole, other))
    assert ours.name == theirs.name
    for name in ("model.safetensors", "optimizer.safetensors"):
        first, second = load_file(ours / name), load_file(theirs / name)
        assert first.keys() == second.keys()
        assert all(torch.equal(first[key], second[key]) for key in first), name
    first, second = (json.loads((folder / "rng.json").read_text(encoding="utf8")) for folder in (ours, theirs))
    for state in (*first, *second):
        del state["python"]  # drawn from by the run-time type checks of tests, which the killed process lacks
    assert first == second
    first, second = (json.loads((folder / "trainer.json").read_text(encoding="utf8")) for folder in (ours, theirs))
    assert first["sampler"] == second["sampler"]
    assert _without_times(first["state"]) == _without_times(second["state"])
    first, second = (load_file(folder / "model.safetensors") for folder in (whole, other))
    assert all(torch.equal(first[key], second[key]) for key in first), "the models that are used afterwards"


def _without_times(state: dict) -> dict:
    history = [{key: value for key, value in note.items() if key != "seconds"} for note in state["history"]]
    return {**{key: value for key, value in state.items() if key not in ("seconds", "loss")}, "history": history}
