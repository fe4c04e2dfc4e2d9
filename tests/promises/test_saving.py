"""Promise 8: saved and loaded in a fresh process a model gives bit-equal outputs, and so does a baked task."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path

import pytest
import torch
import warm
from file_events import killed_at_each_event
from safetensors.torch import load_file, save_file
from small_models import make_bart, make_t5
from support import TASKS, batch, disturb, small

from hyperpelt.errors import UserError
from hyperpelt.export.baking import bake
from hyperpelt.files import locks
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
        done = subprocess.run([warm.python(), "-c", FRESH, *files], capture_output=True, text=True, timeout=120)
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
        patch.setattr(os, "replace", killed)
        with pytest.raises(KeyboardInterrupt):
            model.save_pretrained(run)
    assert sorted(os.listdir(run)) == ["config.json", "model.safetensors", "tokenizer"]
    TunedModel.from_pretrained(run)


def test_no_kill_takes_away_a_model_that_is_saved_again(run, tmp_path):
    model = TunedModel.from_pretrained(run)
    config = saving.read_config(run)
    old = {name: tensor.clone() for name, tensor in saving.read_tensors(run, config).items()}
    new = {name: tensor + 1 for name, tensor in old.items()}
    name, seen = next(iter(old)), set()
    for _ in killed_at_each_event(lambda: saving.write(run, config, new), lambda: saving.write(run, config, old)):
        found = saving.read_tensors(run, saving.read_config(run))
        assert any(torch.equal(found[name], whole[name]) for whole in (old, new))
        seen.add(torch.equal(found[name], new[name]))
        saving.recover(run)
        assert torch.equal(saving.read_tensors(run, saving.read_config(run))[name], found[name])
    assert seen == {True, False}
    (run / ".tokenizer.999999.tmp").mkdir()  # of a process that was killed
    model.save_pretrained(run)
    assert sorted(os.listdir(run)) == ["config.json", "model.safetensors", "tokenizer"]


def test_one_process_at_a_time_saves_into_a_folder(run, monkeypatch):
    model, other = TunedModel.from_pretrained(run), TunedModel.from_pretrained(run)
    disturb(model)
    write, statuses = saving.write_packed, []

    def save_beside(*arguments):
        pid = os.fork()
        if pid == 0:
            saving.write_packed, locks.MOMENT = write, 0.0
            try:
                other.save_pretrained(run)
            except UserError as error:
                os._exit(2 if f"in use by process {os.getppid()}" in str(error) else 3)
            os._exit(0)
        statuses.append(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))
        return write(*arguments)

    monkeypatch.setattr(saving, "write_packed", save_beside)
    model.save_pretrained(run)
    assert statuses == [2]
    assert sorted(os.listdir(run)) == ["config.json", "model.safetensors", "tokenizer"]
    for name, tensor in TunedModel.from_pretrained(run).method_state().items():
        assert torch.equal(tensor, model.method_state()[name])


def test_a_model_of_another_kind_is_not_replaced(run, tmp_path):
    before = (tmp_path / "backbone" / "config.json").read_bytes()
    with pytest.raises(UserError, match="model of another kind"):
        TunedModel.from_pretrained(run).save_pretrained(tmp_path / "backbone")
    assert (tmp_path / "backbone" / "config.json").read_bytes() == before


def change_one_bit(path: Path, name: str, place: int) -> None:
    tensors = load_file(path)
    tensors[name].view(torch.int32).flatten()[place] ^= 1
    save_file(tensors, path, metadata={"format": "pt"})


def test_a_flipped_bit_of_the_backbone_is_found_when_its_run_is_loaded(run, tmp_path):
    path = tmp_path / "backbone" / "model.safetensors"
    name = "encoder.block.0.layer.0.SelfAttention.q.weight"
    change_one_bit(path, name, 300)
    with pytest.raises(UserError, match="not, value for value, the one that the model in"):
        TunedModel.from_pretrained(run)
    change_one_bit(path, name, 300)
    TunedModel.from_pretrained(run)
    TunedModel.from_pretrained(run, dtype=torch.bfloat16)
    TunedModel.from_pretrained(run, backbone=make_t5(seed=4).to(torch.bfloat16), dtype=torch.float32)


def test_a_tokenizer_that_lost_a_file_or_changed_is_refused(run, tmp_path):
    from transformers import T5Tokenizer

    other = T5Tokenizer(vocab=[("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0), ("b", -1.0)])
    other.save_pretrained(tmp_path / "backbone")
    TunedModel.from_pretrained(run)  # which has the tokenizer of a backbone that is on no hub with it
    kept = {path: path.read_bytes() for path in (run / "tokenizer").glob("*token*")}
    other.save_pretrained(run / "tokenizer")
    with pytest.raises(UserError, match=r"tokenizer of .* is not the one that the model in"):
        TunedModel.from_pretrained(run)
    for path, content in kept.items():
        path.write_bytes(content)
    TunedModel.from_pretrained(run)


def test_models_of_earlier_versions_are_loaded(run):
    config = json.loads((run / "config.json").read_text())
    for key in ("backbone_xxh3", "tokenizer_xxh3"):
        del config[key]
    config["config_sha256"] = saving._hash(config)
    (run / "config.json").write_text(json.dumps(config))
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
    config = json.loads((tmp_path / "config.json").read_text()) | {"backbone_weights": None, "backbone_xxh3": None}
    config["config_sha256"] = saving._hash(config)
    (tmp_path / "config.json").write_text(json.dumps(config))
    TunedModel.from_pretrained(tmp_path, backbone=make_t5(seed=77))
