"""Promise 8: saved and loaded in a fresh process a model gives bit-equal outputs, and so does a baked task."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from small_models import make_bart, make_t5
from support import TASKS, batch, disturb, small

from hyperpelt.errors import UserError
from hyperpelt.export.baking import bake
from hyperpelt.model import saving
from hyperpelt.model.tuned import TunedModel

FRESH = """
import sys, torch
from safetensors.torch import load_file, save_file
from hyperpelt.model.tuned import TunedModel

model = TunedModel.from_pretrained(sys.argv[1])
rows = load_file(sys.argv[2])
with torch.no_grad():
    save_file({"logits": model(**rows).logits}, sys.argv[3])
"""


def saved_backbone(folder: Path, family: str) -> Path:
    make = make_bart if family == "bart" else make_t5
    make(seed=4).save_pretrained(folder / "backbone")
    from transformers import T5Tokenizer

    T5Tokenizer(vocab=[("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0), ("a", -1.0)]).save_pretrained(folder / "backbone")
    return folder / "backbone"


@pytest.mark.parametrize("family", ["t5", "bart"])
def test_a_fresh_process_gives_bit_equal_outputs_of_the_model_and_of_a_baked_task(tmp_path, family):
    backbone = saved_backbone(tmp_path, family)
    model = TunedModel.build(backbone, method=small("hyperpelt"), tasks=TASKS).eval()
    disturb(model)
    baked = bake(model, "b")
    for name, which, task_ids in (("whole", model, [0, 1, 2, 1]), ("baked", baked, [0, 0, 0, 0])):
        rows = {**batch(), "task_ids": torch.tensor(task_ids)}
        which.save_pretrained(tmp_path / name)
        save_file(rows, tmp_path / "rows.safetensors")
        files = [str(tmp_path / name), str(tmp_path / "rows.safetensors"), str(tmp_path / "out.safetensors")]
        done = subprocess.run([sys.executable, "-c", FRESH, *files], capture_output=True, text=True, timeout=120)
        assert done.returncode == 0, done.stderr[-2000:]
        from safetensors.torch import load_file

        with torch.no_grad():
            here = which(**rows).logits
            assert torch.equal(load_file(tmp_path / "out.safetensors")["logits"], here)
            if name == "baked":
                live = model(**{**rows, "task_ids": torch.full((4,), 1)}).logits
                assert torch.equal(live, here)
    assert not [file for file in tmp_path.rglob("*") if file.suffix in {".bin", ".pt", ".pkl"}]


@pytest.mark.parametrize("method", ["unipelt", "prefix-tuning-mlp", "hyper-lora", "full"])
def test_every_kind_of_source_comes_back_bit_equal(tmp_path, method):
    backbone = saved_backbone(tmp_path, "t5")
    model = TunedModel.build(backbone, method=small(method), tasks=TASKS).eval()
    disturb(model)
    model.save_pretrained(tmp_path / "run")
    loaded = TunedModel.from_pretrained(tmp_path / "run")
    assert loaded.method.to_dict() == model.method.to_dict()
    with torch.no_grad():
        assert torch.equal(loaded(**batch()).logits, model(**batch()).logits)


@pytest.fixture
def run(tmp_path):
    backbone = saved_backbone(tmp_path, "t5")
    TunedModel.build(backbone, method="lora", tasks=TASKS).save_pretrained(tmp_path / "run")
    return tmp_path / "run"


def test_truncated_tensors_are_refused(run):
    file = run / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-100])
    with pytest.raises(UserError, match=r"model\.safetensors is truncated or was changed"):
        TunedModel.from_pretrained(run)


def test_edited_configuration_is_refused(run):
    config = json.loads((run / "config.json").read_text())
    config["tasks"].reverse()
    (run / "config.json").write_text(json.dumps(config))
    with pytest.raises(UserError, match="changed after it was saved"):
        TunedModel.from_pretrained(run)


def test_cut_configuration_is_refused(run):
    (run / "config.json").write_text((run / "config.json").read_text()[:200])
    with pytest.raises(UserError, match="not valid JSON"):
        TunedModel.from_pretrained(run)


def test_a_killed_write_leaves_the_old_model_whole(run, monkeypatch):
    model = TunedModel.from_pretrained(run)
    disturb(model)

    def killed(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(saving.os, "replace", killed)
        with pytest.raises(KeyboardInterrupt):
            model.save_pretrained(run)
    assert sorted(os.listdir(run)) == ["config.json", "model.safetensors"]
    TunedModel.from_pretrained(run)


def test_another_backbone_is_refused(run, tmp_path):
    make_t5(d_ff=96).save_pretrained(tmp_path / "wider")
    with pytest.raises(UserError, match="has configuration"):
        TunedModel.from_pretrained(run, backbone=make_t5(d_ff=96))
    with pytest.raises(UserError, match="other weights"):
        TunedModel.from_pretrained(run, backbone=make_t5(seed=77))


def test_float16_is_refused_with_the_reason():
    with pytest.raises(UserError, match="overflow"):
        TunedModel.build(make_t5(), method="lora", tasks=TASKS, dtype=torch.float16)


def test_others_may_read_what_was_saved(run):
    umask = os.umask(0)
    os.umask(umask)
    for name in ("config.json", "model.safetensors"):
        assert (run / name).stat().st_mode & 0o777 == 0o666 & ~umask


def test_a_backbone_that_was_loaded_before_serves_as_one_that_is_named(tmp_path):
    backbone = saved_backbone(tmp_path, "t5")
    TunedModel.build(backbone, method="lora", tasks=TASKS).save_pretrained(tmp_path / "run")
    loaded = TunedModel.from_pretrained(tmp_path / "run", backbone=make_t5(seed=4), dtype=torch.bfloat16)
    assert loaded.dtype == torch.bfloat16
    assert loaded.tokenizer is not None
    assert loaded.tokenizer.get_vocab() == TunedModel.from_pretrained(tmp_path / "run").tokenizer.get_vocab()
    half, object_ = make_t5(seed=4).half(), make_t5(seed=4)
    with pytest.raises(UserError, match="overflow"):
        TunedModel.from_pretrained(tmp_path / "run", backbone=half)
    with pytest.raises(UserError, match="overflow"):
        TunedModel.from_pretrained(tmp_path / "run", backbone=object_, dtype=torch.float16)
    assert object_.dtype == torch.float32, "what is refused is left as it was"


def test_a_tokenizer_that_is_not_at_hand_is_left_out(tmp_path, monkeypatch):
    monkeypatch.setattr("socket.socket", None)
    backbone = make_t5(seed=4)
    backbone.name_or_path = "nobody/keeps-this"
    TunedModel.build(backbone, method="lora", tasks=TASKS).save_pretrained(tmp_path)
    assert TunedModel.from_pretrained(tmp_path, backbone=make_t5(seed=4)).tokenizer is None


def test_what_stays_frozen_beside_trained_parameters_is_checked(tmp_path):
    method = {"name": "norms", "parts": [], "unfreeze": ["*layer_norm*"]}
    model = TunedModel.build(make_t5(), method=method, tasks=TASKS)
    disturb(model)
    model.save_pretrained(tmp_path)
    with torch.no_grad():
        loaded = TunedModel.from_pretrained(tmp_path, backbone=make_t5())
        assert torch.equal(loaded(**batch()).logits, model.eval()(**batch()).logits)
    with pytest.raises(UserError, match="other weights"):
        TunedModel.from_pretrained(tmp_path, backbone=make_t5(seed=77))
    # Older files say nothing of it.
    config = json.loads((tmp_path / "config.json").read_text()) | {"backbone_weights": None}
    config["config_sha256"] = saving._hash(config)
    (tmp_path / "config.json").write_text(json.dumps(config))
    TunedModel.from_pretrained(tmp_path, backbone=make_t5(seed=77))
