"""Runs that travel with the library: found by name, honest about what they reach, and made by scripts/ship."""

from __future__ import annotations

import json
import runpy
import subprocess
from pathlib import Path

import pytest
import torch
import warm
import yaml
from small_runs import forget_tasks, write_run

from hyperpelt import TunedModel, evaluate, train
from hyperpelt.backbones import shipped
from hyperpelt.commands import common
from hyperpelt.config import load_run
from hyperpelt.errors import UserError
from hyperpelt.transfer.settings import build

ROOT = Path(__file__).parents[2]
NAME = "mini-bart-tabletop"


def test_the_shipped_run_answers_as_its_card_says():
    results = json.loads((shipped.RUNS / NAME / "results.json").read_text(encoding="utf8"))
    found = evaluate(TunedModel.from_pretrained(NAME), ["tabletop/nli", "tabletop/cause"], limit=60)
    for task, result in found.tasks.items():
        # Two standard errors of 60 rows at 93 % are 6.6 points.
        assert result.score == pytest.approx(results["tasks"][task]["score"], abs=8), task
    card = (shipped.RUNS / NAME / "README.md").read_text(encoding="utf8")
    assert f"{results['average']:.1f}" in card
    for task, one in results["tasks"].items():
        line = next(line for line in card.splitlines() if line.startswith(f"| `{task.split('/')[1]}`"))
        assert f"{one['majority']['score']:.1f} | {one['score']:.1f} |" in line


def test_what_is_made_of_a_run_lies_beside_it_unless_it_is_shared(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert shipped.place_for(NAME) == Path("runs", NAME)
    assert shipped.place_for("someone/theirs") == Path("runs", "theirs")
    Path("out", "mine").mkdir(parents=True)
    assert shipped.place_for("out/mine") == Path("out", "mine")
    assert build({"run": NAME, "tasks": ["tabletop/claim"]}).output == f"runs/{NAME}/transfer"
    assert common.settings_of(NAME).tasks == load_run(shipped.RUNS / NAME / "run.yaml").tasks
    Path(NAME).mkdir()
    assert shipped.folder_of(NAME) is None
    assert shipped.place_for(NAME) == Path(NAME)


def test_a_run_becomes_a_shipped_one(tmp_path, tiny_tokenizer, monkeypatch):
    monkeypatch.setenv("HYPERPELT_CACHE", str(tmp_path / "cache"))
    train(load_run(None, [*write_run(tmp_path, tiny_tokenizer), "backbone=mini-bart", "max_steps=2"]), progress=False)
    forget_tasks()
    command = [warm.python(), str(ROOT / "scripts" / "ship"), str(tmp_path / "run"), "small"]
    refused = subprocess.run([*command, "--target", str(tmp_path)], capture_output=True, text=True, check=False)
    assert refused.returncode == 2
    assert "plugins" in refused.stderr
    settings = tmp_path / "run" / "run.yaml"
    changed = yaml.safe_load(settings.read_text(encoding="utf8")) | {"from_run": str(tmp_path / "run")}
    changed.pop("plugins")
    settings.write_text(yaml.safe_dump(changed))
    subprocess.run([*command, "--target", str(tmp_path)], check=True, capture_output=True)
    ship = runpy.run_path(command[1])["ship"]
    with pytest.raises(UserError, match="--force"):
        ship(tmp_path / "run", "small", tmp_path)
    (tmp_path / "small" / "README.md").write_text("a card")
    ship(tmp_path / "run", "small", tmp_path, force=True)
    assert (tmp_path / "small" / "README.md").read_text() == "a card"
    own, copy = TunedModel.from_pretrained(tmp_path / "run"), TunedModel.from_pretrained(tmp_path / "small")
    for name, tensor in copy.method_state().items():
        torch.testing.assert_close(tensor, own.method_state()[name].half().float(), atol=0, rtol=0)
    assert str(tmp_path) not in (tmp_path / "small" / "run.yaml").read_text(encoding="utf8")


def test_what_stands_on_a_folder_of_this_machine_is_not_shipped(tmp_path, tiny_t5):
    tiny_t5.save_pretrained(tmp_path / "t5")
    model = TunedModel.build(tiny_t5, method="lora", tasks=["a"])
    model.backbone_name = str(tmp_path / "t5")
    model.save_pretrained(tmp_path / "run")
    for name in ("run.yaml", "results.json"):
        (tmp_path / "run" / name).write_text("{}")
    with pytest.raises(UserError, match=r"stands on the backbone in the folder .*t5"):
        runpy.run_path(str(ROOT / "scripts" / "ship"))["ship"](tmp_path / "run", "small", tmp_path)
    assert not (tmp_path / "small").exists()


def test_mini_t5_is_a_t5_that_learns(tmp_path):
    settings = {
        "backbone": "mini-t5",
        "tasks": ["tabletop/sentiment"],
        "method": "houlsby",
        "output_dir": str(tmp_path),
    }
    steps = {"max_steps": 60, "per_device_train_batch_size": 16, "max_source_length": 64, "learning_rate": 2e-3}
    results = train(settings | steps | {"test_limit": 100, "frozen_row": False}, progress=False)
    one = results["tasks"]["tabletop/sentiment"]
    # Two standard errors of 100 rows are 8 points.
    assert one["score"] > one["majority"]["score"] + 15
