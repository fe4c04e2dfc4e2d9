"""An export takes the place of an export, whatever ended the one before; never of anything else."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest
import torch
from file_events import killed_at_each_event
from small_models import make_t5
from support import tuned

from hyperpelt.errors import UserError
from hyperpelt.export import export_baked, export_merged, export_peft
from hyperpelt.export.placing import writing_export
from hyperpelt.files import manifests
from hyperpelt.model.tuned import TunedModel

EXPORTS = {"baked": export_baked, "merged": export_merged, "peft": export_peft}


def files(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir()) if path.is_file()}


@pytest.mark.parametrize("form", EXPORTS)
def test_an_export_may_be_made_again_and_nothing_of_the_former_stays(tmp_path, form):
    model = tuned(make_t5(), "lora")
    for task in ("a", "b", "b"):
        EXPORTS[form](model, task, tmp_path / "out")
        assert manifests.check(tmp_path / "out")["task"] == task
    assert not [name for name in os.listdir(tmp_path / "out") if name.startswith(".")]
    for other in EXPORTS.values():
        other(model, "b", tmp_path / "out")
    assert set(os.listdir(tmp_path / "out")) == {"adapter_config.json", "adapter_model.safetensors", "manifest.json"}


@pytest.mark.parametrize("form", EXPORTS)
def test_what_is_no_export_is_never_replaced(tmp_path, form):
    """A model of transformers, weights without a configuration, a run, somebody's notes beside an export."""
    model = tuned(make_t5(), "lora")
    make_t5(seed=3).save_pretrained(tmp_path / "theirs")
    shutil.copytree(tmp_path / "theirs", tmp_path / "weights")
    (tmp_path / "weights" / "config.json").unlink()
    model.save_pretrained(tmp_path / "run")
    export_baked(model, "b", tmp_path / "export")
    (tmp_path / "export" / "notes.txt").write_text("mine")
    for name in ("theirs", "weights", "run", "export"):
        before = files(tmp_path / name)
        with pytest.raises(UserError, match=rf"{name} holds .* which is no part of an export"):
            EXPORTS[form](model, "b", tmp_path / name)
        assert files(tmp_path / name) == before


def test_an_export_of_an_earlier_version_may_be_made_again(tmp_path):
    from hyperpelt.export import bake

    model = tuned(make_t5(), "lora")
    bake(model, "b").save_pretrained(tmp_path)
    export_baked(model, "b", tmp_path)
    assert "manifest.json" in os.listdir(tmp_path)


def test_a_killed_export_never_looks_whole_and_the_same_command_does_it_again(tmp_path):
    def export(content: str) -> None:
        with writing_export(tmp_path / "out", task="b") as new:
            for name in ("config.json", "model.safetensors", f"{content}.json"):
                (new / name).write_text(content)
            (new / "tokenizer").mkdir()
            (new / "tokenizer" / "words").write_text(content)

    def before() -> None:
        shutil.rmtree(tmp_path / "out", ignore_errors=True)
        export("old")

    seen = set()
    for _ in killed_at_each_event(lambda: export("new"), before):
        found = files(tmp_path / "out")
        if "config.json" in found:
            manifests.check(tmp_path / "out")
            seen.add(found["config.json"])
        export("new")
        whole = {"config.json", "model.safetensors", "new.json", "tokenizer", "manifest.json"}
        assert set(os.listdir(tmp_path / "out")) == whole, "nothing of what was killed stays"
    assert seen == {b"old", b"new"}


@pytest.mark.parametrize("kind", ["SafetensorError", "Exception"])  # of tensors, and of tokenizers
def test_a_full_disk_leaves_the_former_export_and_says_where(tmp_path, monkeypatch, kind):
    model = tuned(make_t5(), "lora")
    export_merged(model, "b", tmp_path / "out")
    before = files(tmp_path / "out")

    def full(*_, **__):
        from safetensors import SafetensorError

        error = SafetensorError if kind == "SafetensorError" else Exception
        raise error("Error while serializing: I/O error: No space left on device (os error 28)")

    monkeypatch.setattr("transformers.modeling_utils.safe_save_file", full)
    with pytest.raises(UserError, match=r"Cannot write an export to .*out .*No space left"):
        export_merged(model, "a", tmp_path / "out")
    assert files(tmp_path / "out") == before
    monkeypatch.undo()
    export_merged(model, "a", tmp_path / "out")


def test_a_baked_export_answers_as_the_run_does(tmp_path):
    from support import batch

    make_t5().save_pretrained(tmp_path / "backbone")
    model = tuned(make_t5(), "lora")
    export_baked(model, "b", tmp_path / "out")
    loaded = TunedModel.from_pretrained(tmp_path / "out", backbone=make_t5())
    rows = batch()
    with torch.no_grad():
        ours = model(**{**rows, "task_ids": torch.full((4,), 1)}).logits
        assert torch.equal(loaded(**{**rows, "task_ids": torch.zeros(4, dtype=torch.long)}).logits, ours)


def test_a_refused_export_leaves_no_folder(tmp_path):
    model = tuned(make_t5(), "full")
    with pytest.raises(UserError, match="A baked task needs the frozen backbone"):
        export_baked(model, "b", tmp_path / "out")
    with pytest.raises(UserError, match=r"PEFT cannot hold the \d+ parameters of the backbone .* Use `--to merged`"):
        EXPORTS["peft"](model, "b", tmp_path / "out")
    assert not (tmp_path / "out").exists()
