"""Promises 5 and 6 for methods with a course or a penalty: however a batch is divided, and wherever a run is stopped.

A stranger's tuner with a penalty and method with a course are those of docs/extending.md.
"""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from small_models import make_t5
from small_runs import forget_tasks, write_run
from support import TASKS, batch, disturb, spec_of
from test_accumulation_and_processes import launch
from test_resume import same_end

from hyperpelt import methods
from hyperpelt.config import load_run
from hyperpelt.errors import UserError
from hyperpelt.methods.course import course_from_dict
from hyperpelt.model.tuned import TunedModel
from hyperpelt.training import train

METHODS = {
    "adalora": "{name: adalora, rank: 3, rank_target: 1, warmup: 1, final: 2, interval: 1}",
    "dynamic-subset": "{name: dynamic-subset, share: 0.02}",
    "alphatuning": "{name: alphatuning, bits: 2, rounds: 1}",
    "text-to-lora": "{name: text-to-lora, rank: 2, embedding_dim: 8, hidden_dim: 16, hyper_dim: 8}",
    "lst": "{name: lst, reduction: 4, batches: 2}",
    "mixphm": "{name: mixphm, bottleneck: 8, rank: 2, experts: 3, dropout: 0}",
    "spt": "{name: spt, share: 0.01, rank: 1, batches: 2}",
    "taps": "{name: taps, sparsity: 0.1}",
}

WITHOUT_COURSE = {  # but with tokens of their own, or tensors made of what a row reads
    "self-pt": "{name: self-pt, length: 3, bottleneck: 8, rank: 2}",
    "unfreeze-with-care": "{name: unfreeze-with-care, prefix_length: 3, tokens: [good, '<new>']}",
}


@pytest.fixture(params=METHODS)
def settings(request, tiny_tokenizer, tmp_path, monkeypatch):
    """Six steps with a method that has a course and a penalty, or weights of its own in the backbone."""
    monkeypatch.setenv("HYPERPELT_CACHE", str(tmp_path / "cache"))
    common = [s for s in write_run(tmp_path, tiny_tokenizer) if not s.startswith(("method=", "max_steps="))]
    common += [f"method={METHODS[request.param]}", "max_steps=6", "save_steps=1", "save_total_limit=9"]
    yield [*common, "max_grad_norm=null", "weight_decay=0.01", "eval_limit=2", "test_limit=2"]
    forget_tasks()


def trained(settings: list[str], folder: Path, *more: str) -> dict:
    return train(load_run(None, [*settings, *more, f"output_dir={folder}"]), progress=False)


def written(checkpoint: Path) -> dict[str, torch.Tensor]:
    """Its tensors: the model's, and the optimiser's, which hold the gradients."""
    return load_file(checkpoint / "model.safetensors") | load_file(checkpoint / "optimizer.safetensors")


def test_a_run_with_a_course_ends_alike_wherever_it_was_stopped(settings, tmp_path):
    trained(settings, tmp_path / "whole")
    for step in (2, 5):
        trained(settings, tmp_path / f"from-{step}", f"resume={tmp_path}/whole/checkpoints/step-{step}")
        same_end(tmp_path / "whole", tmp_path / f"from-{step}")


def test_a_penalty_and_a_course_do_not_depend_on_how_a_batch_is_divided(settings, tmp_path):
    """Two steps: the second gradient is that of what the course made of the first."""
    short = [*settings, "max_steps=2", "warmup_steps=0", "adam_epsilon=1e-3", "learning_rate=1e-3"]
    ways = {"8": ["per_device_train_batch_size=8"], "2x4": ["per_device_train_batch_size=4"]}
    ways["2x4"] += ["gradient_accumulation_steps=2"]
    found = []
    for name, way in ways.items():
        trained(short, tmp_path / name, *way)
        found.append(written(tmp_path / name / "checkpoints" / "step-2"))
    torch.testing.assert_close(*found, rtol=1e-4, atol=2e-6)


def test_two_processes_train_what_one_does(tiny_tokenizer, tmp_path, monkeypatch):
    """Every method here under one launch, a run after the other. What a course measures before the first step is that
    of the whole global batch, and the second step's gradient is that of what it made of the first."""
    monkeypatch.setenv("HYPERPELT_CACHE", str(tmp_path / "cache"))
    common = [s for s in write_run(tmp_path, tiny_tokenizer) if not s.startswith(("method=", "output_dir="))]
    common += ["max_steps=2", "save_steps=2", "max_grad_norm=null", "weight_decay=0.01", "test_limit=2"]
    common += ["warmup_steps=0", "adam_epsilon=1e-3", "learning_rate=1e-3"]
    methods = {**METHODS, **WITHOUT_COURSE}
    try:
        for name, method in methods.items():
            trained([*common, f"method={method}", "per_device_train_batch_size=8"], tmp_path / "one" / name)
    finally:
        forget_tasks()
    halves = [*common, "per_device_train_batch_size=4"]
    runs = [[*halves, f"method={method}", f"output_dir={tmp_path}/two/{name}"] for name, method in methods.items()]
    (tmp_path / "runs.json").write_text(json.dumps(runs), encoding="utf8")
    launch("--multi_gpu", [str(tmp_path / "runs.json")], module="several_runs")
    for name in methods:
        results = json.loads((tmp_path / "two" / name / "results.json").read_text(encoding="utf8"))
        assert results["training"]["processes"] == 2, name
        one, two = (written(tmp_path / at / name / "checkpoints" / "step-2") for at in ("one", "two"))
        torch.testing.assert_close(two, one, rtol=1e-4, atol=2e-6, msg=partial("{}: {}".format, name))


def test_a_penalty_is_in_the_loss_of_training_alone_and_named():
    settings = {"name": "adalora", "rank": 3, "rank_target": 2}

    model = TunedModel.build(make_t5(), method=settings, tasks=TASKS).train()
    output = model(**batch())
    (added,) = output.row_penalties.values()
    assert list(output.row_penalties) == ["orthogonality"]
    own = output.row_loss.sum() / output.row_tokens.sum()
    torch.testing.assert_close(output.loss, own + added.mean())
    # 0.5 times the mean over P and Q of their distance from orthonormal ones, which small random ones have: sqrt(r).
    assert added.mean().item() == pytest.approx(0.5 * 3**0.5, rel=0.02)
    assert model.eval()(**batch()).row_penalties is None


def test_the_budget_of_adalora_is_spent_as_it_says(settings, tmp_path):
    if not any("name: adalora" in setting for setting in settings):
        pytest.skip("is about AdaLoRA's course")
    trained(settings, tmp_path / "run")
    values = load_file(tmp_path / "run" / "model.safetensors")["per_task.tensors.triplets__values"]
    assert [(task != 0).sum().item() for task in values] == [values.shape[1]] * len(values), "one rank an operation"


def test_what_makes_no_sense_of_a_course_is_refused():
    with pytest.raises(UserError, match="course type"):
        course_from_dict({"type": "one_of_mani", "part": "x"})
    part = {"name": "low", "tuner": {"type": "svd", "rank": 2}, "at": ["q"]}
    for course, words in (
        ({"type": "rank_budget", "part": "lo"}, "part in the course 'rank_budget'"),
        ({"type": "rank_budget", "part": "low", "rank": 3}, "at least that rank"),
    ):
        with pytest.raises(UserError, match=words):
            methods.get({"parts": [part], "courses": [course]})
    composed = methods.get({"parts": [part], "courses": [{"type": "rank_budget", "part": "low", "rank": 1}]})
    assert methods.method_from_dict(composed.to_dict()).courses == composed.courses


def test_a_source_for_each_tensor():
    part = {"tuner": {"type": "adapter", "bottleneck": 4}, "at": ["feed_forward"], "source": {"up": "shared"}}

    model = TunedModel.build(make_t5(), method={"parts": [part]}, tasks=TASKS)
    made = {key: len(values) for key, values in model.weights_of(torch.arange(3)).items()}
    assert made == {"adapter.down": 3, "adapter.down_bias": 3, "adapter.up": 1, "adapter.up_bias": 1}
    with pytest.raises(UserError, match="tensor in the source of part 'adapter'"):
        TunedModel.build(make_t5(), method={"parts": [{**part, "source": {"upp": "shared"}}]}, tasks=TASKS)


def test_frozen_tensors_are_saved_as_their_seed(tmp_path):

    model = TunedModel.build(make_t5(), method={"name": "vera", "rank": 4}, tasks=TASKS, seed=7)
    model.save_pretrained(tmp_path)
    assert not [name for name in load_file(tmp_path / "model.safetensors") if "frozen" in name]
    again = TunedModel.from_pretrained(tmp_path, backbone=make_t5())
    asked = torch.arange(3)
    for key, values in model.weights_of(asked).items():
        assert torch.equal(again.weights_of(asked)[key], values)
    other = TunedModel.build(make_t5(), method={"name": "vera", "rank": 4}, tasks=TASKS, seed=8)
    assert not torch.equal(other.weights_of(asked)["vera.down"], model.weights_of(asked)["vera.down"])


RECOMPUTED = ["adalora", "alphatuning", "apt", "conv-adapter", "hyperdecoders", "mixphm", "self-pt", "taps"]


@pytest.mark.parametrize("name", RECOMPUTED)
def test_recomputation_changes_nothing(name):
    """What looks at positions, at the encoder's states, or adds to the loss, is not counted twice."""
    spec = spec_of(name) | ({"dropout": 0.0} if name == "mixphm" else {})
    model = TunedModel.build(make_t5(), method=spec, tasks=TASKS).train()
    disturb(model)
    model(**batch()).loss.backward()
    gradients = [p.grad.clone() for _, p in model.trainable_parameters()]
    model.zero_grad()
    model.gradient_checkpointing_enable()
    model(**batch()).loss.backward()
    torch.testing.assert_close([p.grad for _, p in model.trainable_parameters()], gradients)
