"""Callbacks are told what happens; numbers reach each tracker; one that is missing or away is said before training."""

from __future__ import annotations

import importlib.util
import json
import socket
import time
from pathlib import Path

import pytest
from small_runs import forget_tasks, write_run
from transformers import PreTrainedTokenizerBase

from hyperpelt import Callback, UserError, train
from hyperpelt.config import load_run
from hyperpelt.training import Evaluation, tracking


@pytest.fixture
def start(tmp_path: Path, tiny_tokenizer: PreTrainedTokenizerBase):
    common = [*write_run(tmp_path, tiny_tokenizer), "test_limit=4", "eval_limit=4"]

    def run(*overrides: str, **options: object) -> dict:
        return train(load_run(None, [*common, *overrides]), progress=False, **options)

    yield run
    forget_tasks()


def needs(name: str) -> pytest.MarkDecorator:
    return pytest.mark.skipif(
        importlib.util.find_spec(name) is None, reason=f"{name} is not installed: pip install 'hyperpelt[{name}]'"
    )


class Listener(Callback):
    def __init__(self) -> None:
        self.steps: list[tuple[int, set[str]]] = []
        self.evaluations: list[Evaluation] = []
        self.saved: list[tuple[int, bool]] = []

    def on_step(self, step, numbers) -> None:
        self.steps.append((step, set(numbers)))

    def on_evaluate(self, evaluation) -> None:
        self.evaluations.append(evaluation)

    def on_save(self, step, checkpoint) -> None:
        self.saved.append((step, (checkpoint / "manifest.json").is_file()))


def test_callbacks_are_told_of_every_step_evaluation_and_checkpoint(start) -> None:
    listener = Listener()
    results = start("max_steps=4", "log_steps=2", "eval_steps=2", "save_steps=2", callbacks=[listener])
    assert [step for step, _ in listener.steps] == [1, 2, 3, 4]
    assert [bool(numbers) for _, numbers in listener.steps] == [False, True, False, True]
    names = {"train/loss", "train/loss/toy/mood", "train/loss/toy/truth", "train/learning_rate", "train/grad_norm"}
    assert names < listener.steps[1][1]
    assert [(e.step, e.split, e.final) for e in listener.evaluations] == [
        (2, "validation", False), (4, "validation", False), (4, "test", True),
    ]  # fmt: skip
    assert listener.evaluations[-1].results.average == results["average"]
    assert listener.evaluations[0].best_step == 2
    assert {step for step, whole in listener.saved if whole} == {2, 4}


def test_no_tracker_writes_nothing(start, tmp_path: Path) -> None:
    start("report_to=none", "max_steps=1")
    assert not (tmp_path / "run" / "tensorboard").exists()


@pytest.mark.parametrize("name", ["wandb", "trackio", "mlflow"])
def test_a_tracker_that_is_not_installed_is_said_before_anything(start, tmp_path, monkeypatch, name: str) -> None:
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda wanted: None if wanted == name else find(wanted))
    with pytest.raises(UserError, match=rf"report_to: {name} is not installed; `pip install 'hyperpelt\[{name}\]'`"):
        start(f"report_to={name}")
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("name", "variable", "hint"),
    [("wandb", "WANDB_BASE_URL", "WANDB_MODE=offline"), ("mlflow", "MLFLOW_TRACKING_URI", "a folder")],
)
def test_a_server_that_is_not_there_is_said_at_once(start, tmp_path, monkeypatch, name, variable, hint) -> None:
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        address = f"http://127.0.0.1:{closed.getsockname()[1]}"
    monkeypatch.setenv(variable, address)
    monkeypatch.delenv("WANDB_MODE", raising=False)
    monkeypatch.setattr(tracking, "getproxies", dict)
    monkeypatch.setattr(tracking, "check_installed", lambda names: None)
    monkeypatch.setattr("hyperpelt.training.setup.check_installed", lambda names: None)
    with pytest.raises(UserError, match=f"report_to: {name} at {address} cannot be reached .*{hint}"):
        start(f"report_to={name}")


def test_an_unknown_tracker_names_those_that_there_are() -> None:
    with pytest.raises(UserError, match="one of 'tensorboard', 'wandb', 'trackio', 'mlflow', got 'comet'"):
        load_run(None, ["tasks=a", "output_dir=b", "report_to=comet"])
    assert load_run(None, ["tasks=a", "output_dir=b", "report_to=wandb,mlflow,wandb"]).report_to == ["wandb", "mlflow"]


def test_a_tracker_that_fails_later_is_left_out_and_training_goes_on(start, monkeypatch, capsys) -> None:
    from accelerate.tracking import TensorBoardTracker

    def fail(*_: object, **__: object) -> None:
        raise ConnectionError("the line is dead\nand more")

    monkeypatch.setattr(TensorBoardTracker, "log", fail)
    said: list[str] = []
    monkeypatch.setattr("hyperpelt.training.progress.Screen.say", lambda self, text: said.append(str(text)))
    assert start("max_steps=2", "log_steps=1")["training"]["steps"] == 2
    told = [text for text in said if "takes no more" in text]
    assert told == [
        "tensorboard takes no more numbers (ConnectionError: the line is dead); training goes on without it."
    ]


@needs("mlflow")
def test_mlflow_keeps_the_numbers_and_a_resumed_run_goes_on_in_it(start, tmp_path, monkeypatch) -> None:
    import mlflow

    monkeypatch.setenv("MLFLOW_TRACKING_URI", (tmp_path / "mlruns").as_uri())
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    mlflow.set_tracking_uri(None)
    options = ["report_to=tensorboard,mlflow", "project=toys", "run_name=first", "log_steps=1", "save_steps=2"]
    start(*options, "max_steps=2")
    ids = json.loads((tmp_path / "run" / "trackers.json").read_text())
    start(*options, "max_steps=4", "resume=true")
    client = mlflow.MlflowClient((tmp_path / "mlruns").as_uri())
    run = client.get_run(ids["mlflow"])
    assert run.data.tags["mlflow.runName"] == "first"
    assert run.data.params["learning_rate"] == "0.01"
    assert {"test/average", "train/loss", "train/loss.toy.mood", "test/toy.mood.accuracy"} <= set(run.data.metrics)
    assert run.info.status == "FINISHED"
    assert sorted({point.step for point in client.get_metric_history(ids["mlflow"], "train/loss")}) == [1, 2, 3, 4]
    assert len(client.search_runs([run.info.experiment_id])) == 1


@needs("wandb")
def test_wandb_offline_keeps_the_numbers_in_the_run_folder(start, tmp_path, monkeypatch) -> None:
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_SILENT", "true")
    start("report_to=wandb", "max_steps=2", "log_steps=1")
    (written,) = (tmp_path / "run" / "wandb").glob("offline-run-*/run-*.wandb")
    for _ in range(100):  # another process writes it
        if b"test/average" in written.read_bytes():
            break
        time.sleep(0.1)
    assert b"train/loss/toy/mood" in written.read_bytes()
    assert b"test/average" in written.read_bytes()
    assert json.loads((tmp_path / "run" / "trackers.json").read_text())["wandb"] in written.name


@needs("trackio")
def test_trackio_keeps_the_numbers_on_this_machine(start, tmp_path, monkeypatch) -> None:
    monkeypatch.setenv("TRACKIO_DIR", str(tmp_path / "trackio"))
    start("report_to=trackio", "max_steps=2", "log_steps=1", "project=toys")
    assert list((tmp_path / "trackio").glob("toys*.db"))
