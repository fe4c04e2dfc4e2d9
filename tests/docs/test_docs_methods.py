"""docs/methods.md and docs/extending.md: what they list is what there is, and what they show works as written."""

from __future__ import annotations

import re
import subprocess
import sys
from dataclasses import MISSING, fields
from pathlib import Path

import pytest
import torch
import yaml
from safetensors.torch import load_file
from small_models import make_t5
from small_runs import write_run
from support import TASKS, batch
from transformers import PreTrainedTokenizerBase

from hyperpelt import TunedModel, methods
from hyperpelt.methods import registry
from hyperpelt.tuners import base as tuners

DOCS = Path(__file__).parents[2] / "docs"
METHODS, EXTENDING = ((DOCS / name).read_text(encoding="utf8") for name in ("methods.md", "extending.md"))


def test_the_table_of_tuners_is_complete_with_its_defaults() -> None:
    table = METHODS.split("## What a composition is made of")[1].split("\n`at` is")[0]
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in table.splitlines() if line.startswith("| `")]
    listed = {name: settings for names, _, settings in rows for name in re.findall(r"`(\w+)`", names)}
    known = {name: kind for name, kind in tuners.tuner_types().items() if kind.__module__.startswith("hyperpelt.")}
    assert set(listed) == set(known)
    for name, kind in known.items():
        shown = dict(re.findall(r"`(\w+)` \(([^)]*?)[:)]", listed[name]))
        own = {f.name: f.default for f in fields(kind) if f.default is not MISSING}
        assert {key: yaml.safe_load(value) for key, value in shown.items()} == pytest.approx(own), name


@pytest.mark.parametrize("text", re.findall(r"```yaml\n(method:.*?)```", METHODS, re.DOTALL))
def test_every_method_in_yaml_can_be_built(text: str) -> None:
    given = yaml.safe_load(text)["method"]
    model = TunedModel.build(make_t5(), method=given, tasks=TASKS)
    assert model.num_trainable() > 0


def test_the_tuner_and_method_of_the_page_work_from_every_source(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tuners, "_TYPES", dict(tuners.tuner_types()))
    monkeypatch.setattr(registry, "_METHODS", dict(registry._METHODS))
    exec(compile(re.search(r"```python\n(.*?)```", EXTENDING, re.DOTALL)[1], "extending.md", "exec"), {})
    assert "loha" in methods.names()
    backbone = make_t5()
    bare = TunedModel.build(backbone, method="frozen", tasks=TASKS).eval()(**batch()).logits
    for name in ("loha", "hyper-loha", "shared-loha"):
        model = TunedModel.build(backbone, method=name, tasks=TASKS)
        assert torch.equal(model.eval()(**batch()).logits, bare), "it starts as the backbone"
        model.train()(**batch()).loss.backward()
        assert any(parameter.grad.abs().max() > 0 for _, parameter in model.trainable_parameters())
        model.detach()
    shown = re.findall(r"method=(\{.*?\}|[\w-]+)", EXTENDING)
    assert [methods.get(yaml.safe_load(text)).name for text in shown] == ["loha", "hyper-loha", "loha"]


def test_the_penalty_and_the_course_of_the_page_work_through_a_stopped_run(
    tmp_path: Path, tiny_tokenizer: PreTrainedTokenizerBase
) -> None:
    plugin = tmp_path / "sparse.py"
    plugin.write_text(re.findall(r"```python\n(.*?)```", EXTENDING, re.DOTALL)[1], encoding="utf8")
    settings = [
        s for s in write_run(tmp_path, tiny_tokenizer) if not s.startswith(("method=", "max_steps=", "output_dir="))
    ]
    settings += [
        "method={name: sparse-bias, band: 0.002}",
        "warmup_steps=0",
        "max_steps=4",
        "save_steps=2",
        "learning_rate=0.002",
        "test_limit=2",
    ]
    saved = []
    for name, more in (("whole", []), ("rest", [f"resume={tmp_path}/whole/checkpoints/step-2"])):
        words = ["train", *settings, *more, f"output_dir={tmp_path / name}", "--plugin", plugin]
        command = [sys.executable, "-m", "hyperpelt.cli", *map(str, words)]
        done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=tmp_path)
        assert done.returncode == 0, done.stderr[-2000:]
        saved.append(load_file(tmp_path / name / "model.safetensors"))
    whole, rest = saved
    assert all(torch.equal(whole[name], rest[name]) for name in whole)
    (still_open,) = (values for name, values in whole.items() if name.startswith("state."))
    assert 0 < still_open.mean() < 1, "some entries were closed, not all"
    curves = [path for path in (tmp_path / "whole" / "tensorboard").iterdir()]
    assert any(b"train/penalty/sparsity" in path.read_bytes() for path in curves)


def test_a_run_of_the_page_s_method_is_exported_by_a_process_that_never_saw_its_plugin(
    tmp_path: Path, tiny_tokenizer: PreTrainedTokenizerBase
) -> None:
    plugin = tmp_path / "my_methods.py"
    plugin.write_text(re.search(r"```python\n(.*?)```", EXTENDING, re.DOTALL)[1], encoding="utf8")
    settings = [s for s in write_run(tmp_path, tiny_tokenizer) if not s.startswith("method=")]
    settings += ["method=hyper-loha", "max_steps=1", "test_limit=2"]
    for words in (
        ["train", *settings, "--plugin", plugin],
        ["export", tmp_path / "run", "--task", "toy/mood", "--output", tmp_path / "alone"],
    ):
        command = [sys.executable, "-m", "hyperpelt.cli", *map(str, words)]
        done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=tmp_path)
        assert done.returncode == 0, done.stderr[-2000:]
    assert (tmp_path / "alone" / "model.safetensors").is_file()
