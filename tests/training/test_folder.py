"""The folder of a run: one writer, nothing replaced but a run and that not before there is another, nothing lost."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import warm
from file_events import killed_at_each_event
from small_models import make_t5
from small_runs import forget_tasks, write_run

from hyperpelt import TunedModel, cli
from hyperpelt.config import load_run
from hyperpelt.errors import UserError
from hyperpelt.export import export_baked
from hyperpelt.files import folders
from hyperpelt.files.locks import FolderLock
from hyperpelt.training import checkpoints, replaced, train
from hyperpelt.training.checkpoints import Checkpoint, list_checkpoints, load_checkpoint, save_checkpoint

Start = Callable[..., dict[str, Any]]
DIVERGING = ("learning_rate=1e30", "max_grad_norm=null", "warmup_steps=0", "save_steps=null")


@pytest.fixture
def settings(tiny_tokenizer, tmp_path, monkeypatch) -> Iterator[list[str]]:
    monkeypatch.setenv("HYPERPELT_CACHE", str(tmp_path / "cache"))
    yield [*write_run(tmp_path, tiny_tokenizer), "max_steps=2", "test_limit=2"]
    forget_tasks()


@pytest.fixture
def start(settings) -> Start:
    return lambda *overrides: train(load_run(None, [*settings, *overrides]), progress=False)


@pytest.fixture
def run(tmp_path) -> Path:
    return tmp_path / "run"


def files(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


# Whose folder it is


def test_a_copied_run_is_the_run_that_is_trained(start, run, tmp_path):
    start()
    copy = Path(shutil.copytree(run, tmp_path / "copy"))
    before = files(run)
    for named, overrides in ((copy, ("resume=true", "max_steps=3")), (copy / "run.yaml", ("overwrite=true", "seed=3"))):
        assert cli.run(["train", str(named), *overrides]) == 0
    assert files(run) == before
    assert json.loads((copy / "results.json").read_text())["training"]["seed"] == 3
    assert load_run(copy, ["output_dir=elsewhere"]).output_dir == "elsewhere", "what the user says counts"


def test_two_processes_never_train_into_one_folder(start, run, monkeypatch, capsys):
    start()
    lock = FolderLock(run, advice="")
    lock.acquire()
    before = files(run)
    with pytest.raises(UserError, match=rf"in use by process {os.getpid()} on this machine since .*another output_dir"):
        start("overwrite=true")
    assert files(run) == before
    lock.release()
    start("overwrite=true")


def test_what_was_made_of_a_run_that_gives_way_is_named(settings, start, run, capsys):
    start()
    (run / "export" / "toy-baked").mkdir(parents=True)
    assert cli.run(["train", *settings, "overwrite=true"]) == 0
    assert f"export in {run}: of the run that is replaced" in capsys.readouterr().err.replace("\n", " ")
    assert (run / "export" / "toy-baked").is_dir()


def test_a_run_that_begins_while_another_one_prepares_is_refused(start, run, monkeypatch):
    """Both found the folder empty; one was quicker."""
    from hyperpelt.training import run as running

    prepare = running.prepare

    def slow(*arguments: Any, **options: Any) -> Any:
        monkeypatch.setattr(running, "prepare", prepare)
        start("seed=5")
        return prepare(*arguments, **options)

    monkeypatch.setattr(running, "prepare", slow)
    with pytest.raises(UserError, match="holds a finished run"):
        start()
    assert json.loads((run / "results.json").read_text())["training"]["seed"] == 5


CLAIM = """
import sys
from hyperpelt.config import load_run
from hyperpelt.training.distributed import start_processes
from hyperpelt.training.folder import RunFolder
config, processes = load_run(None, sys.argv[1:]), start_processes(use_cpu=True)
try:
    with RunFolder.claimed(config, processes) as folder:
        folder.prepare("tasks: [a]") if processes.is_main else None
        print(folder.clear, folder.locked)
finally:  # who dies with its connections open may abort the other one
    processes.close()
"""


def test_several_processes_hear_of_what_the_first_one_found(run, tmp_path):
    def claim(*overrides: str) -> list[tuple[str, str, int]]:
        common = {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(20_000 + os.getpid() % 20_000)}
        arguments = [warm.python(), "-c", CLAIM, "tasks=a", f"output_dir={run}", *overrides]
        each = [
            subprocess.Popen(
                arguments, stdout=-1, stderr=-1, text=True,
                env={**os.environ, **common, "RANK": rank, "LOCAL_RANK": rank},
            )
            for rank in "01"
        ]  # fmt: skip
        said = [process.communicate(timeout=240) for process in each]
        return [(*text, process.returncode) for text, process in zip(said, each, strict=True)]

    assert [said[0] for said in claim()] == ["False True\n", "False False\n"]
    (run / "results.json").touch()
    for _, err, status in claim():
        assert status == 1
        assert "holds a finished run" in err.splitlines()[-1]


# What overwrite may replace


def test_what_no_run_wrote_is_never_replaced(start, run, tmp_path):
    backbone = tmp_path / "t5"
    before = files(backbone)
    with pytest.raises(UserError, match=r"take the place of the run's backbone"):
        start(f"output_dir={tmp_path / 'x' / '..' / 't5'}", "overwrite=true")
    assert files(backbone) == before
    other = tmp_path / "other"
    make_t5(seed=3).save_pretrained(other)
    (other / "config.json").unlink()
    for name in ("model.safetensors", "report.html", "tensorboard/events"):
        place = tmp_path / f"holds-{Path(name).name}"
        (place / name).parent.mkdir(parents=True)
        shutil.copy(other / "model.safetensors", place / name)
        before = files(place)
        for overrides in ((), ("overwrite=true",)):
            with pytest.raises(UserError, match="which no run of hyperpelt wrote"):
                start(f"output_dir={place}", *overrides)
        assert files(place) == before
    make_t5(seed=3).save_pretrained(other)
    (other / "run.yaml").write_text("tasks: [toy/mood]\n")
    before = files(other)
    with pytest.raises(UserError, match=r"holds model\.safetensors, config\.json"):
        start(f"output_dir={other}", "overwrite=true")
    assert files(other) == before


def test_an_export_is_called_one(start, run, tmp_path):
    model = TunedModel.build(str(tmp_path / "t5"), method="lora", tasks=["toy/mood"])
    export_baked(model, "toy/mood", tmp_path / "baked")
    with pytest.raises(UserError, match="baked holds an export of a task, no run: choose another one"):
        start(f"output_dir={tmp_path / 'baked'}")


def test_the_run_that_tasks_are_added_to_is_never_replaced(start, run, tmp_path):
    start("tasks=toy/mood")
    before = files(run)
    more = ["tasks=toy/truth", f"from_run={run}", "weight_decay=0", "overwrite=true"]
    (tmp_path / "link").symlink_to(run)
    for way in (tmp_path / "z" / ".." / "run", tmp_path / "link"):
        with pytest.raises(UserError, match="output_dir"):
            start(*more, f"output_dir={way}")
    assert files(run) == before


def test_an_overwritten_run_is_there_until_the_new_one_stands(start, run, monkeypatch):
    start()
    before = files(run)
    with pytest.raises(UserError, match=r"nan or inf in step 2.*The run that was to be replaced is in its place again"):
        start("overwrite=true", *DIVERGING)
    assert files(run) == before

    def full(_folder, checkpoint):
        raise UserError("Cannot write below it (No space left on device).")

    with monkeypatch.context() as patch:
        patch.setattr("hyperpelt.training.checkpoints.save_checkpoint", full)
        with pytest.raises(UserError, match=r"No space left.*is in its place again"):
            start("overwrite=true")
    assert files(run) == before
    with pytest.raises(UserError, match=r"nan or inf in step 2.*is kept in .*\.replaced-1 until this one is finished"):
        start("overwrite=true", *DIVERGING, "save_steps=1")
    assert list(list_checkpoints(run / "checkpoints")) == [1]
    with pytest.raises(UserError, match="holds a run that was not finished"):
        start()
    aside = {name.removeprefix(".replaced-1/"): content for name, content in files(run).items() if "replaced" in name}
    assert aside == {name: content for name, content in before.items() if name != ".lock"}
    start("overwrite=true", "seed=2")
    assert not replaced.is_here(run)


def test_a_kill_while_a_run_is_set_aside_or_put_back_loses_nothing(tmp_path):
    run = tmp_path / "run"
    names = {"results.json", "model.safetensors", "run.yaml", "checkpoints/step-2/x", "plugins/mine-01/a.py"}

    def old() -> None:
        shutil.rmtree(run, ignore_errors=True)
        for name in names | {"notes.txt"}:
            (run / name).parent.mkdir(parents=True, exist_ok=True)
            (run / name).write_text("old")

    def failing() -> None:
        replaced.set_aside(run)
        assert (run / "plugins" / "mine-01" / "a.py").read_text() == "old", "the new run may read it"
        (run / "plugins" / "mine-01" / "a.py").write_text("new")
        (run / "run.yaml").write_text("new")
        (run / "checkpoints").mkdir()
        assert replaced.settle(run)

    def stopped_again() -> None:
        old()
        replaced.set_aside(run)
        (run / "run.yaml").write_text("new")

    for work, before in ((failing, old), (lambda: replaced.settle(run), stopped_again)):
        for _ in killed_at_each_event(work, before):
            folders.recover(run, "|".join(map(re.escape, replaced.OURS)))
            replaced.settle(run)
            assert files(run) == dict.fromkeys(sorted(names | {"notes.txt"}), b"old")
            assert not replaced.is_here(run)


def test_a_kill_while_the_replaced_run_is_removed_leaves_the_new_one(tmp_path):
    run = tmp_path / "run"

    def finished() -> None:
        shutil.rmtree(run, ignore_errors=True)
        for content in ("old", "new"):
            (run / "checkpoints" / "step-1").mkdir(parents=True)
            (run / "results.json").write_text(content)
            if content == "old":
                replaced.set_aside(run)

    for _ in killed_at_each_event(lambda: replaced.forget(run), finished):
        replaced.settle(run)
        assert (run / "results.json").read_text() == "new"
        assert sorted(os.listdir(run)) == ["checkpoints", "results.json"], "nothing of it stays"


# Checkpoints

SAVED = Checkpoint(2, {"w": torch.zeros(3)}, {"m": torch.ones(2)}, {}, [{}], {"state": {"step": 2}, "round": 1})


def test_no_kill_takes_away_a_checkpoint_that_is_saved_again(tmp_path):
    again = replace(SAVED, model={"w": torch.ones(3)}, trainer={**SAVED.trainer, "round": 2})

    def both() -> None:
        save_checkpoint(tmp_path, again)
        checkpoints.prune(tmp_path, keep=1, best=None)

    seen = set()
    for _ in killed_at_each_event(both, lambda: save_checkpoint(tmp_path, SAVED)):
        checkpoints.recover(tmp_path)
        found = load_checkpoint(tmp_path / "step-2")
        assert float(found.model["w"][0]) == found.trainer["round"] - 1
        seen.add(found.trainer["round"])
        assert os.listdir(tmp_path) == ["step-2"]
    assert seen == {1, 2}


def test_numbers_that_json_lacks_come_back_as_they_were(tmp_path):
    trainer = {"state": {"step": 2, "best_value": float("-inf"), "loss": float("nan")}}
    found = load_checkpoint(save_checkpoint(tmp_path, replace(SAVED, trainer=trainer))).trainer["state"]
    assert found["best_value"] == float("-inf")
    assert found["loss"] != found["loss"]


def test_what_a_killed_earlier_version_left_is_put_back_if_it_is_whole(tmp_path):
    save_checkpoint(tmp_path, SAVED)
    (tmp_path / "step-2").rename(tmp_path / ".old-step-2-4711")
    (tmp_path / ".tmp-step-2-4711").mkdir()
    shutil.copytree(tmp_path / ".old-step-2-4711", tmp_path / ".old-step-1-4711")
    (tmp_path / ".old-step-1-4711" / "model.safetensors").unlink()  # it was being deleted
    checkpoints.recover(tmp_path)
    assert os.listdir(tmp_path) == ["step-2"]


def test_an_edited_manifest_is_refused(tmp_path):
    path = save_checkpoint(tmp_path, SAVED)
    manifest = json.loads((path / "manifest.json").read_text())
    for changes in ({"step": 9}, {"files": {}}, {"format": 1, "files": {}}, {"format": 1, "step": 9}):
        (path / "manifest.json").write_text(json.dumps({**manifest, **changes}))
        with pytest.raises(UserError, match=r"step-2 is damaged: .*manifest\.json"):
            load_checkpoint(path)
    (path / "manifest.json").write_text(json.dumps(manifest))
    moved = path.rename(tmp_path / "step-9")
    with pytest.raises(UserError, match=r"step-9 is damaged: its manifest\.json is of step 2"):
        load_checkpoint(moved)
    assert load_checkpoint(moved.rename(tmp_path / "best")).step == 2


def test_checkpoints_of_earlier_versions_are_read(tmp_path):
    from hashlib import sha256

    path = save_checkpoint(tmp_path, SAVED)
    listed = [file for file in path.iterdir() if file.name != "manifest.json"]
    entries = {f.name: {"bytes": f.stat().st_size, "sha256": sha256(f.read_bytes()).hexdigest()} for f in listed}
    (path / "manifest.json").write_text(json.dumps({"format": 1, "step": 2, "files": entries}))
    assert load_checkpoint(path).step == 2
    (path / "rng.json").write_text("[{ }]\n")
    with pytest.raises(UserError, match=r"rng\.json "):
        load_checkpoint(path)
