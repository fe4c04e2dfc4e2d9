"""A resumed run: what it starts from may have moved and must be the same, and bests are compared with their like."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from small_models import make_t5
from small_runs import forget_tasks, write_run

from hyperpelt import TunedModel, cli
from hyperpelt.backbones import embedded
from hyperpelt.config import load_run
from hyperpelt.config.paths import EMBEDDED
from hyperpelt.errors import UserError
from hyperpelt.training import train
from hyperpelt.vision import load_image_encoder

Start = Callable[..., dict[str, Any]]


@pytest.fixture
def start(tiny_tokenizer, tmp_path, monkeypatch) -> Iterator[Start]:
    monkeypatch.setenv("HYPERPELT_CACHE", str(tmp_path / "cache"))
    settings = [*write_run(tmp_path, tiny_tokenizer), "max_steps=2", "test_limit=2", "report_to=none"]
    yield lambda *overrides: train(load_run(None, [*settings, *overrides]), progress=False)["training"]
    forget_tasks()


def test_a_backbone_that_moved_is_told_by_its_values(start, tmp_path, tiny_tokenizer, monkeypatch):
    start()
    shutil.move(tmp_path / "t5", tmp_path / "moved")
    assert start("resume=true", "max_steps=3", f"backbone={tmp_path / 'moved'}")["steps"] == 3
    monkeypatch.chdir(tmp_path)
    (tmp_path / "link").symlink_to("moved")
    assert start("resume=true", "max_steps=4", "backbone=link")["steps"] == 4
    other = make_t5()
    with torch.no_grad():
        other.shared.weight.add_(0.5)
    other.save_pretrained(tmp_path / "moved")  # under the same name as before
    with pytest.raises(UserError, match=r"not, value for value, the one that the model in .*step-4"):
        start("resume=true", "max_steps=5", f"backbone={tmp_path / 'moved'}")


def test_checkpoints_of_earlier_versions_tell_a_backbone_by_its_name(start, tmp_path, monkeypatch):
    from hyperpelt.training import loop

    write = loop.Loop._write

    def as_before(self: Any, rng: Any) -> Any:
        self.about = {key: value for key, value in self.about.items() if key != "stands_on"}
        return write(self, rng)

    with monkeypatch.context() as patch:
        patch.setattr(loop.Loop, "_write", as_before)
        start()
    shutil.copytree(tmp_path / "t5", tmp_path / "copy")
    with pytest.raises(UserError, match="the stopped run had backbone="):
        start("resume=true", "max_steps=3", f"backbone={tmp_path / 'copy'}")
    monkeypatch.chdir(tmp_path)
    assert start("resume=true", "max_steps=3", "backbone=t5")["steps"] == 3


def test_tasks_are_added_to_a_run_that_moved_with_its_backbone(start, tmp_path, capsys):
    start("tasks=toy/mood")
    run, backbone = (shutil.move(tmp_path / name, tmp_path / f"{name}-moved") for name in ("run", "t5"))
    added = tmp_path / "added"
    common = ["train", "--add", "toy/truth", "--from", str(run), "max_steps=2", f"output_dir={added}", "report_to=none"]
    assert cli.run([*common, "test_limit=2"]) == 2
    assert "backbone" in capsys.readouterr().err
    assert cli.run([*common, "test_limit=2", f"backbone={backbone}"]) == 0
    assert TunedModel.from_pretrained(added).backbone_name == str(backbone)
    again = shutil.move(run, tmp_path / "again")
    assert cli.run(["train", str(added), "resume=true", "max_steps=3", f"from_run={again}"]) == 0
    other = Path(shutil.copytree(added, tmp_path / "other"))  # a model of two tasks already
    capsys.readouterr()
    assert cli.run(["train", str(added), "resume=true", "max_steps=4", f"from_run={other}"]) == 2


def test_a_folder_without_a_slash_is_named_in_full(start, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    start("backbone=t5")
    saved = json.loads((tmp_path / "run" / "config.json").read_text())
    assert saved["backbone"] == load_run(tmp_path / "run", []).backbone == str(tmp_path / "t5")
    monkeypatch.chdir("/")
    assert TunedModel.from_pretrained(tmp_path / "run").tasks == ("toy/mood", "toy/truth")
    assert set(embedded.NAMES) < set(EMBEDDED)
    for name in set(EMBEDDED) - set(embedded.NAMES):
        assert load_image_encoder(name).spec.encoder == name


def test_a_best_value_is_compared_with_its_like(start, capsys):
    often = ("save_steps=1", "save_total_limit=9", "eval_steps=1", "eval_limit=4")
    assert start(*often)["metric_for_best"] == "average"
    changed = start(*often, "resume=true", "max_steps=3", "metric_for_best=toy/mood")
    assert changed["best_step"] == 3, "the first that was looked at by this metric"
    assert start(*often, "resume=true", "max_steps=4", "eval_split=train", "metric_for_best=toy/mood")["best_step"] == 4
    none = start("save_steps=1", "resume=true", "max_steps=5", "eval_split=train", "metric_for_best=toy/mood")
    assert (none["steps"], none["best_step"]) == (5, None), "nothing was looked at: the last step is the result"


def test_patience_begins_anew_with_what_is_compared(start):
    settings = ("eval_steps=1", "learning_rate=1e-9", "early_stopping_patience=2", "max_steps=9", "save_steps=1")
    assert start(*settings)["steps"] == 3
    assert start(*settings, "resume=true", "metric_for_best=toy/mood")["steps"] == 6


@pytest.mark.parametrize(
    ("override", "expected"),
    [
        ("max_steps=1", "the checkpoint is of step 2, this run is to have 1. Set max_steps=2 to end it there"),
        ("optimizer=adafactor", "the stopped run had optimizer='adamw', this one has 'adafactor'"),
    ],
)
def test_what_a_checkpoint_cannot_become_is_refused(start, override, expected):
    start()
    with pytest.raises(UserError, match=expected):
        start("resume=true", "max_steps=4", override)


def test_a_split_of_no_task_is_refused(start):
    """It was passed over: the task was measured on its test split."""
    with pytest.raises(UserError, match=r"Unknown task in test_split 'toy/moood'. Did you mean 'toy/mood'"):
        start("test_split={toy/moood: validation}")
    start("test_split={toy/mood: validation, 'glue/*': validation}")


def test_a_plugin_that_was_edited_is_not_taken_for_what_it_was(start, tmp_path):
    """A process keeps what it loaded, and the run would have carried what it was not trained on."""
    start()
    plugin = tmp_path / "toy_plugin.py"
    before = plugin.read_text()
    plugin.write_text(before.replace("mood: {row", "the mood: {row"))
    with pytest.raises(UserError, match=r"toy_plugin\.py was changed after this process had loaded it"):
        start("overwrite=true")
    plugin.write_text(before)
    assert start("overwrite=true")["steps"] == 2
