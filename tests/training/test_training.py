"""Training: the run folder, what is watched and kept, how a run is stopped, and what is refused."""

from __future__ import annotations

import json
import math
import os
import shutil
import signal
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from safetensors.torch import load_file
from small_runs import forget_tasks, write_run
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from hyperpelt.config import RunConfig, load_run
from hyperpelt.data.parts import Part
from hyperpelt.errors import UserError
from hyperpelt.model.tuned import TunedModel
from hyperpelt.training import train
from hyperpelt.training.checkpoints import list_checkpoints, load_checkpoint, prune, random_states, save_checkpoint
from hyperpelt.training.interrupts import ECHO_SECONDS, StopNow, TrainingInterrupted, noticing_signals
from hyperpelt.training.optimisation import learning_rate, make_optimizer, set_learning_rate
from hyperpelt.training.setup import prepare

Start = Callable[..., dict[str, Any]]


@pytest.fixture
def settings(tiny_tokenizer, tmp_path, monkeypatch) -> Iterator[list[str]]:
    monkeypatch.setenv("HYPERPELT_CACHE", str(tmp_path / "cache"))
    yield write_run(tmp_path, tiny_tokenizer)
    forget_tasks()


@pytest.fixture
def start(settings) -> Start:
    """Train with the small settings and some others."""
    return lambda *overrides: train(load_run(None, [*settings, *overrides]), progress=False)


@pytest.fixture
def run(tmp_path) -> Path:
    return tmp_path / "run"


def files(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


# ---------------------------------------------------------------------------------------------------- the run folder


def test_a_run_leaves_a_model_results_settings_curves_and_checkpoints(start, run, settings):
    results = start("eval_steps=2", "save_steps=2", "frozen_row=true")
    assert set(os.listdir(run)) == {
        "config.json", "model.safetensors", "results.json", "run.yaml", "tensorboard", "checkpoints", ".lock",
        "plugins", "tokenizer",
    }  # fmt: skip
    assert json.loads((run / "results.json").read_text()) == results
    assert set(results["tasks"]) == {"toy/mood", "toy/truth"}
    assert results["split"] == "test"
    training = results["training"]
    assert (training["steps"], training["batch_size"], training["processes"]) == (4, 8, 1)
    assert [note["step"] for note in training["history"]] == [2, 4]
    assert [row["epochs"] for row in training["mixture"]] == pytest.approx([4 * 8 * 0.5 / 48] * 2)
    assert yaml.safe_load((run / "run.yaml").read_text())["adam_beta2"] == 0.999
    assert load_run(run) == load_run(None, [*settings, "eval_steps=2", "save_steps=2", "frozen_row=true"])
    model = TunedModel.from_pretrained(run)
    assert model.tasks == ("toy/mood", "toy/truth")
    assert model.num_trainable() == training["trainable"]


def test_the_loss_falls_and_every_number_reaches_tensorboard(start, run):
    start("max_steps=30", "eval_steps=15", "log_steps=5", "learning_rate=0.01", "label_smoothing=0.1")
    events = EventAccumulator(str(run / "tensorboard")).Reload()
    wanted = {"loss", "learning_rate", "grad_norm", "tokens_per_second", "loss/toy/mood", "loss/toy/truth"}
    assert {f"train/{name}" for name in wanted} <= set(events.Tags()["scalars"])
    assert {"eval/average", "eval/toy/mood/accuracy"} <= set(events.Tags()["scalars"])
    losses = [event.value for event in events.Scalars("train/loss")]
    assert [event.step for event in events.Scalars("train/loss")] == [5, 10, 15, 20, 25, 30]
    assert losses[-1] < 0.6 * losses[0]


def test_a_folder_with_a_run_is_refused_and_untouched_until_asked(start, run):
    start()
    before = files(run)
    with pytest.raises(UserError, match=r"holds a finished run.*resume=true.*overwrite=true"):
        start("seed=1")
    assert files(run) == before
    (run / "notes.txt").write_text("mine", encoding="utf8")
    start("seed=1", "overwrite=true", "max_steps=2")
    assert list(list_checkpoints(run / "checkpoints")) == [2], "nothing of the earlier run is left"
    assert (run / "notes.txt").exists(), "what is not ours stays"


def test_an_unfinished_run_is_refused_and_can_be_resumed(start, run):
    with pytest.raises(UserError, match="nan or inf"):
        start("learning_rate=1e30", "max_grad_norm=null", "warmup_steps=0", "save_steps=1")
    with pytest.raises(UserError, match="holds a run that was not finished"):
        start()
    assert start("resume=true", "learning_rate=1e-3", "max_steps=1")["training"]["steps"] == 1


@pytest.mark.parametrize(
    ("overrides", "expected"),
    [
        (["resume=true"], "Nothing to resume"),
        (["resume=nowhere/step-3"], "resume=nowhere/step-3 is not there"),
        (["tasks=toy/moood"], "'toy/mood'"),
        (["tasks=tyo/*"], "No task matches 'tyo/\\*'"),
        (["eval_steps=2", "eval_split=dev"], "dev"),
        (["test_split=held_out"], "held_out"),
        (["metric_for_best=toy/mood/acuracy"], "'toy/mood/accuracy'"),
        (["mixing.strategy=explicit"], "needs a rate"),
        (["method=frozen"], "trains nothing"),
        (["method=full", "precision=bf16"], "set precision=fp32"),
        (["backbone=no-such-backbone"], "no-such-backbone"),
        (["method=hyperplet"], "hyperpelt"),
        (["plugins=missing_plugin.py"], "missing_plugin"),
    ],
)
def test_what_cannot_be_trained_is_refused_before_anything_is_written(start, run, overrides, expected):
    with pytest.raises(UserError, match=expected):
        start(*overrides)
    assert not run.exists()


def test_a_mapping_of_settings_will_do(settings, run):
    values = load_run(None, settings).model_dump() | {"max_steps": 1}
    assert train(values, progress=False)["training"]["steps"] == 1
    with pytest.raises(UserError, match="'max_steps'"):
        train(values | {"max_stepps": 1})


def test_a_file_in_place_of_the_folder_is_refused(start, tmp_path):
    (tmp_path / "taken").write_text("", encoding="utf8")
    with pytest.raises(UserError, match="is a file"):
        start(f"output_dir={tmp_path / 'taken'}")


def test_resume_auto_starts_where_there_is_nothing_and_goes_on_where_there_is(start, run):
    assert start("resume=auto", "save_steps=2")["training"]["steps"] == 4
    results = start("resume=auto", "max_steps=6")
    assert results["training"]["steps"] == 6
    assert list(list_checkpoints(run / "checkpoints"))[-1] == 6


def test_a_resumed_run_must_be_the_same_run(start, run):
    start("max_steps=2")
    for overrides, expected in [
        (["method=lora"], "stopped run had method"),
        (["tasks=toy/mood"], "stopped run had tasks"),
        (["max_source_length=16"], "max_source_length"),
        (["per_device_train_batch_size=4"], "Set per_device_train_batch_size=8"),
        (["seed=5"], "seed=42, this one has 5"),
    ]:
        with pytest.raises(UserError, match=expected):
            start("resume=true", *overrides)


def test_changed_training_rows_are_noticed_on_resume(start, tmp_path):
    start("max_steps=2", "tasks=toy/mood")
    plugin = tmp_path / "toy_plugin.py"
    plugin.write_text(plugin.read_text(encoding="utf8").replace("mood: {", "the mood: {"), encoding="utf8")
    forget_tasks()
    with pytest.raises(UserError, match="training rows of toy/mood are not those of the stopped run"):
        start("resume=true", "tasks=toy/mood", f"plugins={_copied(plugin)}")


def _copied(plugin: Path) -> Path:
    """The same file by another name, which no plugin loader has seen."""
    copy = plugin.with_name("other_plugin.py")
    copy.write_text(plugin.read_text(encoding="utf8"), encoding="utf8")
    return copy


# -------------------------------------------------------------------------------------------------------- checkpoints


def test_only_rows_that_a_run_draws_are_tokenised_and_nothing_else_depends_on_it(start, tmp_path):
    def ended(name: str, *overrides: str) -> tuple[dict[str, torch.Tensor], int]:
        start("max_steps=2", f"output_dir={tmp_path / name}", *overrides)
        parts = map(Part.open, (tmp_path / "cache" / "tokenized").glob("*.arrow"))
        return load_file(tmp_path / name / "model.safetensors"), sum(len(part.places) for part in parts)

    some, drawn = ended("some")
    assert drawn == 2 * 8 < 96
    _, drawn = ended("epochs", "max_steps=14")
    assert drawn == 96
    every, _ = ended("every")
    assert all(torch.equal(some[name], every[name]) for name in some)


def test_the_newest_checkpoints_and_the_best_are_kept(start, run):
    results = start("max_steps=8", "save_steps=1", "save_total_limit=2", "eval_steps=2", "metric_for_best=toy/mood")
    best = results["training"]["best_step"]
    assert set(list_checkpoints(run / "checkpoints")) == {7, 8} | {best}


def test_the_best_checkpoint_becomes_the_model(start, run):
    results = start("max_steps=12", "eval_steps=1", "learning_rate=0.02", "save_steps=100")
    history = results["training"]["history"]
    values = [note["average"] for note in history]
    best = results["training"]["best_step"]
    assert results["training"]["best_value"] == max(values)
    assert history[values.index(max(values))]["step"] == best, "the first of equals"
    kept = load_file(run / "checkpoints" / f"step-{best}" / "model.safetensors")
    final = load_file(run / "model.safetensors")
    assert all(torch.equal(kept[name], final[name]) for name in final)


def test_training_stops_early_when_nothing_improves(start, settings, capsys):
    overrides = ["max_steps=40", "eval_steps=1", "learning_rate=1e-9", "early_stopping_patience=3"]
    training = start(*overrides)["training"]
    assert training["stopped_early"]
    assert (training["steps"], training["best_step"]) == (4, 1)
    assert start("resume=true", *overrides)["training"]["steps"] == 4, "it has stopped for good"
    assert start("resume=true", *overrides, "early_stopping_patience=5")["training"]["steps"] == 6
    capsys.readouterr()
    train(load_run(None, [*settings, *overrides, "resume=true", "early_stopping_patience=5"]))
    assert "stopped early at step 6: no better average in 5 evaluations" in capsys.readouterr().err


def damage(file: Path, how: str) -> None:
    content = file.read_bytes()
    if how == "missing":
        file.unlink()
    elif how == "truncated":
        file.write_bytes(content[:-9])
    else:
        file.write_bytes(content[:-2] + bytes([content[-2] ^ 1]) + content[-1:])


def test_a_damaged_checkpoint_is_refused_by_name(start, run, tmp_path):
    start("save_steps=2")
    whole = run / "checkpoints"
    for name in ("model.safetensors", "optimizer.safetensors", "rng.json", "trainer.json"):
        for how in ("missing", "truncated", "edited"):
            copy = tmp_path / f"{name}-{how}"
            shutil.copytree(whole, copy)
            damage(copy / "step-4" / name, how)
            with pytest.raises(UserError, match=rf"step-4 is damaged: {name} .*resume=.*step-2"):
                load_checkpoint(copy / "step-4")
    damage(copy / "step-2" / "manifest.json", "truncated")
    with pytest.raises(UserError, match=r"step-2 is damaged: its manifest.json is not readable"):
        load_checkpoint(copy / "step-2")


def test_resuming_from_a_damaged_checkpoint_changes_nothing_and_an_older_one_serves(start, run):
    start("save_steps=2")
    damage(run / "checkpoints" / "step-4" / "model.safetensors", "truncated")
    before = files(run)
    with pytest.raises(UserError, match=r"step-4 is damaged"):
        start("resume=true", "max_steps=6")
    assert files(run) == before
    assert start(f"resume={run}/checkpoints/step-2", "max_steps=6")["training"]["steps"] == 6


def test_going_on_from_an_earlier_checkpoint_sets_the_later_ones_aside(start, run):
    start("save_steps=1", "save_total_limit=3")
    assert set(list_checkpoints(run / "checkpoints")) == {2, 3, 4}
    start(f"resume={run}/checkpoints/step-2", "max_steps=3", "save_total_limit=1", "learning_rate=1e-4")
    assert set(list_checkpoints(run / "checkpoints")) == {3}, "the step that was written stays, whatever is newer"
    assert {path.name for path in (run / "checkpoints").glob("aside-*")} == {"aside-1-step-3", "aside-1-step-4"}
    assert start("resume=true", "max_steps=5", "learning_rate=1e-4")["training"]["steps"] == 5


CARELESS = """
from hyperpelt import Example, Generator, task


def rows(split):
    return [{"text": f"number {n}", "label": -1 if split == "test" else n % 2} for n in range(12)]


def unlabelled(row):
    return Example(input=row["text"], label=row["label"])


for name, metrics in (("unlabelled", ("accuracy",)), ("misspelt", ("acuracy",)), ("of-another-kind", ("squad_f1",))):
    task(name=f"toy/{name}", source=Generator(rows), choices=("no", "yes"), metrics=metrics)(unlabelled)
"""


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("unlabelled", r"toy/unlabelled.*test.*row 0.*-1"),
        ("misspelt", "'acuracy'.*'accuracy'"),
        ("of-another-kind", "'squad_f1' is for generation tasks, and this is a classification task"),
    ],
)
def test_what_an_evaluation_lacks_is_said_before_the_first_step(start, run, tmp_path, name, expected):
    plugin = tmp_path / "careless.py"
    plugin.write_text(CARELESS, encoding="utf8")
    with pytest.raises(UserError, match=expected):
        start(f"plugins={plugin}", f"tasks=toy/{name}")
    assert not run.exists()


def test_more_tokens_than_the_backbone_has_positions_are_refused(tiny_tokenizer, tmp_path):
    settings = write_run(tmp_path / "bart", tiny_tokenizer, family="bart")
    with pytest.raises(UserError, match=r"max_source_length=4096: .* has \d+ positions"):
        train(load_run(None, [*settings, "max_source_length=4096"]), progress=False)
    forget_tasks()


def test_a_full_disk_is_said_and_earlier_checkpoints_are_kept(start, run, monkeypatch):
    def full(_folder, checkpoint):
        if checkpoint.step == 2:
            raise UserError("Cannot write (I/O error: No space left on device (os error 28)).")
        return save_checkpoint(_folder, checkpoint)

    monkeypatch.setattr("hyperpelt.training.checkpoints.save_checkpoint", full)
    with pytest.raises(UserError, match=r"No space left.*earlier ones are kept"):
        start("save_steps=1")
    assert list(list_checkpoints(run / "checkpoints")) == [1]


def test_a_run_goes_on_in_another_folder_with_its_best_checkpoint(start, run, tmp_path):
    overrides = ["eval_steps=1", "save_steps=2", "learning_rate=1e-9"]  # no step improves on the first
    first = start(*overrides)
    assert first["training"]["best_step"] == 1
    source = run / "checkpoints"
    second = start(*overrides, "max_steps=6", f"resume={source}/step-4", f"output_dir={tmp_path / 'second'}")
    assert second["training"]["best_step"] == 1
    assert {1, 6} <= set(list_checkpoints(tmp_path / "second" / "checkpoints"))
    shutil.rmtree(source / "step-1")
    third = start(*overrides, "max_steps=6", f"resume={source}/step-4", f"output_dir={tmp_path / 'third'}")
    assert third["training"]["best_step"] == 5


def test_a_checkpoint_that_was_never_finished_is_not_seen(start, run):
    start("save_steps=2")
    half = run / "checkpoints" / ".tmp-step-6-123"
    half.mkdir()
    (half / "model.safetensors").write_bytes(b"half")
    (run / "checkpoints" / "step-9").mkdir()
    assert list(list_checkpoints(run / "checkpoints")) == [2, 4, 9]
    with pytest.raises(UserError, match=r"step-9 is no checkpoint: it has no manifest.json"):
        load_checkpoint(run / "checkpoints" / "step-9")
    (run / "checkpoints" / "step-9").rmdir()
    prune(run / "checkpoints", keep=1, best=2)
    assert list(list_checkpoints(run / "checkpoints")) == [2, 4]
    assert not half.exists()


def test_nothing_in_a_checkpoint_is_a_pickle(start, run):
    start()
    for name, content in files(run / "checkpoints").items():
        assert name.endswith((".json", ".safetensors"))
        assert b"pickle" not in content
        assert not content.startswith((b"PK", b"\x80"))


# ---------------------------------------------------------------------------------------------------------- accidents


def test_a_row_that_ruins_the_loss_is_named_and_the_last_good_checkpoint_kept(start, run, tmp_path):
    plugin = tmp_path / "poison.py"
    plugin.write_text(
        "from hyperpelt import Example, Generator, task\n"
        "def rows(split):\n    return [{'n': i} for i in range(64 if split == 'train' else 4)]\n"
        "@task(name='toy/poison', source=Generator(rows), choices=('no', 'yes'))\n"
        "def poison(row):\n"
        "    return Example(input='a' * (row['n'] % 9), label=0, weight=1e38 if row['n'] == 37 else 1.0)\n",
        encoding="utf8",
    )
    overrides = [f"plugins={tmp_path / 'toy_plugin.py'},{plugin}", "tasks=toy/poison", "max_steps=9", "save_steps=1"]
    with pytest.raises(UserError) as caught:
        start(*overrides)
    message = str(caught.value)
    assert "in task toy/poison (toy/poison train row 37)" in message
    saved = list_checkpoints(run / "checkpoints")
    if saved:
        assert f"{list(saved.values())[-1]} was saved before it and is good" in message
        load_checkpoint(list(saved.values())[-1])
        assert f"in step {max(saved) + 1}" in message


def test_a_run_that_diverges_stops_and_says_so(start, run):
    with pytest.raises(UserError, match=r"became nan or inf in step 2, .*Lower learning_rate"):
        start("learning_rate=1e30", "max_grad_norm=null", "warmup_steps=0")
    assert not (run / "results.json").exists()


@pytest.fixture
def hangup():
    """As a shell starts a process, and not `nohup`."""
    before = signal.signal(signal.SIGHUP, signal.SIG_DFL)
    yield
    signal.signal(signal.SIGHUP, before)


STOPPING = [signal.SIGTERM, signal.SIGINT, signal.SIGHUP]


@pytest.mark.parametrize("signum", STOPPING)
def test_a_signal_saves_at_the_end_of_the_step_and_says_how_to_go_on(start, run, signum, hangup):
    over = threading.Event()

    def send() -> None:
        while not list_checkpoints(run / "checkpoints"):
            if over.wait(0.005):
                return
        os.kill(os.getpid(), signum)

    sender = threading.Thread(target=send)
    sender.start()
    handlers = [signal.getsignal(number) for number in STOPPING]
    try:
        with pytest.raises(TrainingInterrupted) as caught:
            start("max_steps=100000", "save_steps=3")
    finally:
        over.set()
        sender.join()
    stopped = caught.value
    assert stopped.exit_status == 128 + signum
    assert f"hyperpelt train {run} resume=true" in str(stopped)
    assert stopped.checkpoint == run / "checkpoints" / f"step-{stopped.step}"
    assert load_checkpoint(stopped.checkpoint).step == stopped.step
    assert [signal.getsignal(number) for number in STOPPING] == handlers
    assert start("resume=true", f"max_steps={stopped.step + 1}")["training"]["steps"] == stopped.step + 1


def test_a_terminal_that_nohup_keeps_away_stops_nothing(hangup):
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    with noticing_signals() as stop:
        signal.raise_signal(signal.SIGHUP)
        assert stop.signum == 0


def test_a_signal_before_the_first_step_ends_the_run_at_once(start, run, monkeypatch):
    """Tokenising may take an hour, and there is nothing to save."""
    done = []

    def long(*arguments, **options):
        signal.raise_signal(signal.SIGTERM)
        done.append("all of it")
        return prepare(*arguments, **options)

    monkeypatch.setattr("hyperpelt.training.run.prepare", long)
    with pytest.raises(TrainingInterrupted, match=r"^stopped by SIGTERM before the first step") as caught:
        start()
    assert (done, caught.value.exit_status, run.exists()) == ([], 143, False)


@pytest.fixture
def interruptible() -> Iterator[None]:
    """Ctrl-C as in a terminal: processes that a shell starts in the background inherit an ignored SIGINT."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.usefixtures("interruptible")
def test_a_second_signal_acts_at_once_unless_it_echoes_the_first():
    """A launcher hands on to its processes the Ctrl-C that they have had from the terminal already."""
    with noticing_signals() as stop:
        signal.raise_signal(signal.SIGINT)
        signal.raise_signal(signal.SIGTERM)
        assert stop.signum == signal.SIGINT
        stop.noted_at -= ECHO_SECONDS
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)


def test_a_signal_ends_an_evaluation_at_once():
    with noticing_signals() as stop:
        with pytest.raises(StopNow), stop.at_once():
            signal.raise_signal(signal.SIGTERM)
        assert stop.signum == signal.SIGTERM


# --------------------------------------------------------------------------------------------- one process, more runs


def test_a_run_draws_from_generators_of_its_own(start):
    """Whoever trains in the midst of a programme finds random numbers where they stood."""
    before = random_states(torch.device("cpu"))
    start()
    after = random_states(torch.device("cpu"))
    assert after["torch"] == before["torch"]
    assert after["numpy"] == before["numpy"]


@pytest.fixture
def other_precision() -> Iterator[Any]:
    """Accelerate as a Trainer in bf16 leaves it in this process."""
    AcceleratorState._reset_state(reset_partial_state=True)
    yield Accelerator(mixed_precision="bf16")
    AcceleratorState._reset_state(reset_partial_state=True)


def test_what_a_process_used_accelerate_for_before_changes_no_run(start, run, tmp_path, other_precision):
    start()
    assert other_precision.mixed_precision == "bf16"
    AcceleratorState._reset_state(reset_partial_state=True)
    start(f"output_dir={tmp_path / 'alone'}")
    ours, alone = (load_file(folder / "model.safetensors") for folder in (run, tmp_path / "alone"))
    assert all(torch.equal(ours[name], tensor) for name, tensor in alone.items())


# ------------------------------------------------------------------------------------------------------- optimisation


def config(**changes: Any) -> RunConfig:
    return RunConfig(**{"tasks": ["a"], "output_dir": "x", "learning_rate": 3e-4, **changes})


@pytest.mark.parametrize(
    ("schedule", "expected"),
    [
        ("linear", [0.0, 0.5, 1.0, 0.75, 0.5, 0.25]),
        ("constant", [0.0, 0.5, 1.0, 1.0, 1.0, 1.0]),
        ("cosine", [0.0, 0.5, 1.0, *(0.5 * (1 + math.cos(math.pi * done)) for done in (0.25, 0.5, 0.75))]),
    ],
)
def test_schedules_warm_up_and_decay_as_in_transformers(schedule, expected):
    from transformers import get_scheduler

    chosen = config(learning_rate=2.0, lr_scheduler_type=schedule, warmup_steps=2)
    rates = [learning_rate(chosen, step, 6) for step in range(6)]
    assert rates == pytest.approx([2.0 * value for value in expected])
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=2.0)
    name = "constant_with_warmup" if schedule == "constant" else schedule
    theirs = get_scheduler(name, optimizer, num_warmup_steps=2, num_training_steps=6)
    for rate in rates:
        assert optimizer.param_groups[0]["lr"] == pytest.approx(rate)
        optimizer.step()
        theirs.step()


def test_warmup_below_one_is_a_share_of_all_steps():
    chosen = config(learning_rate=1.0, warmup_steps=0.5)
    assert [learning_rate(chosen, step, 4) for step in range(4)] == [0.0, 0.5, 1.0, 0.5]


def test_norms_and_biases_are_not_decayed():
    named = [("a.weight", torch.nn.Parameter(torch.ones(2, 2))), ("a.bias", torch.nn.Parameter(torch.ones(2)))]
    optimizer = make_optimizer(config(weight_decay=0.1), named)
    assert [(len(group["params"]), group["weight_decay"]) for group in optimizer.param_groups] == [(1, 0.1), (1, 0.0)]


@pytest.mark.parametrize(("scaled", "wide"), [(True, 1 / 64), (False, 1.0)])
def test_a_rate_is_scaled_by_parameter_only_if_wanted(scaled: bool, wide: float):
    named = [(name, torch.nn.Parameter(torch.ones(2, 2))) for name in ("made.weight", "own")]
    optimizer = make_optimizer(config(scale_learning_rate=scaled), named, {"made.weight": 1 / 64})
    set_learning_rate(optimizer, 0.5)
    rates = {id(p): group["lr"] for group in optimizer.param_groups for p in group["params"]}
    assert [rates[id(parameter)] for _, parameter in named] == [0.5 * wide, 0.5]


@pytest.mark.parametrize("method", ["lora", "prefix-tuning", "hyperformer++", "layer-norm"])
def test_adafactor_bf16_checkpointing_and_one_task_batches_train(start, run, method):
    results = start(
        f"method={method}", "optimizer=adafactor", "precision=bf16", "gradient_checkpointing=true",
        "batching=one_task", "gradient_accumulation_steps=2", "dataloader_num_workers=1", "save_steps=2",
    )  # fmt: skip
    assert results["training"]["precision"] == "bf16"
    assert all(tensor.dtype == torch.float32 for tensor in load_file(run / "model.safetensors").values())


def test_frozen_means_frozen(start, monkeypatch):
    held = {}

    def watched(*arguments, **options):
        setup = prepare(*arguments, **options)
        held["backbone"] = setup.model.backbone
        held["before"] = {name: tensor.clone() for name, tensor in setup.model.backbone.state_dict().items()}
        return setup

    monkeypatch.setattr("hyperpelt.training.run.prepare", watched)
    start("method=hyperpelt")
    after = held["backbone"].state_dict()
    assert after.keys() == held["before"].keys()
    assert all(torch.equal(held["before"][name], tensor) for name, tensor in after.items())
