"""What a run computes in: autocast and bfloat16 beside float32, the launcher's word, and the race behind `auto`."""

from __future__ import annotations

import os
from types import SimpleNamespace

import pytest
import torch
import yaml
from safetensors.torch import load_file
from small_models import make_bart, make_t5
from small_runs import forget_tasks, write_run
from support import batch, describe, spec_of, tuned

from hyperpelt import methods
from hyperpelt.config import load_run
from hyperpelt.errors import UserError
from hyperpelt.training import checkpoints, precision, train
from hyperpelt.training.distributed import start_processes
from hyperpelt.training.interrupts import TrainingInterrupted

FAMILIES = {"t5": make_t5, "bart": make_bart}
# bfloat16 has 8 bits of mantissa; these models are disturbed with weights as large as their states.
BOUND = 0.02


@pytest.fixture
def settings(tiny_tokenizer, tmp_path, monkeypatch):
    monkeypatch.setenv("HYPERPELT_CACHE", str(tmp_path / "cache"))
    yield write_run(tmp_path, tiny_tokenizer, num_layers=1)
    forget_tasks()


def seen(model) -> dict[str, torch.Tensor]:
    if model.visual is None:
        return {}
    features = torch.randn(4, model.visual.cells, model.visual.dim, generator=torch.Generator().manual_seed(1))
    return {"visual": features}


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("name", [name for name in methods.names() if name != "frozen"])
def test_autocast_and_bf16_agree_with_fp32_and_train_in_float32(family, name):
    model = describe(tuned(FAMILIES[family](), spec_of(name))).train()
    rows = batch() | seen(model)
    exact = model(**rows).loss.item()
    with torch.autocast("cpu", torch.bfloat16):
        mixed = model(**rows).loss
    assert mixed.dtype == torch.float32
    mixed.backward()
    assert {p.grad.dtype for _, p in model.trainable_parameters() if p.grad is not None} == {torch.float32}
    assert mixed.item() == pytest.approx(exact, rel=BOUND)
    if not model.unfrozen:  # whose weights bf16 would round, which training refuses
        model.backbone.to(torch.bfloat16)
        rounded = model(**rows).loss
        assert {p.dtype for _, p in model.trainable_parameters()} == {torch.float32}
        assert rounded.item() == pytest.approx(exact, rel=BOUND)


def test_dropout_in_attention_takes_autocast():
    """The CPU's own attention with dropout keeps a softmax that autocast leaves in float32."""
    model = tuned(make_bart(attention_dropout=0.1), spec_of("hyperpelt")).train()
    made = []
    for enabled in (False, True):
        torch.manual_seed(1)
        with torch.autocast("cpu", torch.bfloat16, enabled=enabled):
            loss = model(**batch()).loss
        loss.backward()
        made.append(torch.cat([p.grad.flatten() for _, p in model.trainable_parameters()]))
        model.zero_grad()
    assert torch.cosine_similarity(*made, dim=0) > 0.99


def test_the_launchers_mixed_precision_is_honoured_and_saved(settings, tmp_path, monkeypatch):
    plain = train(load_run(None, settings), progress=False)["training"]
    monkeypatch.setenv(precision.LAUNCHER, "bf16")
    mixed = train(load_run(None, [*settings, "overwrite=true"]), progress=False)["training"]
    assert (plain["precision"], mixed["precision"]) == ("fp32", "bf16-mixed")
    assert mixed["loss"] != plain["loss"]
    assert mixed["loss"] == pytest.approx(plain["loss"], rel=BOUND)
    assert yaml.safe_load((tmp_path / "run" / "run.yaml").read_text())["precision"] == "bf16-mixed"
    assert {tensor.dtype for tensor in load_file(tmp_path / "run" / "model.safetensors").values()} == {torch.float32}


def settle(settings, *more, resume=None):
    processes = SimpleNamespace(device=torch.device("cpu"), on_main=lambda work: work())
    config, notes = precision.settled(load_run(None, [*settings, *more]), processes, resume)
    return config.precision, " ".join(notes)


def test_what_launcher_and_run_say_is_reconciled_or_refused(settings, monkeypatch):
    monkeypatch.setenv(precision.LAUNCHER, "bf16")
    chosen, said = settle(settings)
    assert chosen == "bf16-mixed"
    assert "--mixed_precision bf16 is honoured" in said
    assert settle(settings, "precision=bf16-mixed") == ("bf16-mixed", "")
    chosen, said = settle(settings, "precision=bf16")
    assert chosen == "bf16"
    assert "adds nothing" in said
    with pytest.raises(UserError, match="the run says precision=fp32"):
        settle(settings, "precision=fp32")
    monkeypatch.setenv(precision.LAUNCHER, "no")  # what accelerate launch says by itself
    assert settle(settings, "precision=bf16") == ("bf16", "")
    for asked, why in (("fp16", "overflows"), ("fp8", "not supported")):
        monkeypatch.setenv(precision.LAUNCHER, asked)
        with pytest.raises(UserError, match=f"{asked}, which .*{why}"):
            start_processes(use_cpu=True)


class Clock:
    """Tells the time before and after each product, of which four are in float32 and then four in bfloat16."""

    def __init__(self, fp32: float, bf16: float) -> None:
        self.took = iter([9.0, fp32, fp32 * 3, fp32 * 2, 9.0, bf16 * 2, bf16, bf16 * 3])  # the first warms up
        self.now, self.inside = 0.0, False

    def __call__(self) -> float:
        self.now += next(self.took) if self.inside else 100.0
        self.inside = not self.inside
        return self.now


@pytest.mark.parametrize(("fp32", "bf16", "won"), [(2, 1, "bf16"), (1, 1, "fp32"), (1.1, 1, "fp32"), (1, 8, "fp32")])
def test_a_race_of_two_products_decides(fp32, bf16, won):
    assert precision.race(torch.device("cpu"), clock=Clock(fp32, bf16)) == won


def test_auto_is_raced_for_once_in_a_run(settings, tmp_path, monkeypatch):
    raced = iter(["bf16", "fp32"])
    monkeypatch.setattr(precision, "race", lambda device: next(raced))

    class Stopping:
        def on_step(self, step, numbers):
            if step == 2:
                os.kill(os.getpid(), 15)

        def __getattr__(self, name):
            return lambda *args, **kwargs: None

    with pytest.raises(TrainingInterrupted):
        train(load_run(None, [*settings, "precision=auto"]), progress=False, callbacks=[Stopping()])
    saved = list(checkpoints.list_checkpoints(tmp_path / "run" / "checkpoints").values())[-1]
    assert settle(settings, "precision=auto", resume=saved) == (
        "bf16", "precision=auto is bf16, as before the run was stopped."
    )  # fmt: skip
    results = train(load_run(None, [*settings, "precision=auto", "resume=true"]), progress=False)
    assert results["training"]["precision"] == "bf16"
    assert next(raced) == "fp32", "the resumed run did not race again"


def test_auto_keeps_a_backbone_that_is_trained_in_float32(settings, monkeypatch):
    monkeypatch.setattr(precision, "race", lambda device: "bf16")
    assert settle(settings, "precision=auto", "method=full")[0] == "bf16-mixed"
