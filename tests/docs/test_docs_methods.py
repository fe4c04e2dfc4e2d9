"""docs/methods.md and docs/extending.md: what they list is what there is, and what they show works as written."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import warm
import yaml
from safetensors.torch import load_file
from small_models import make_t5
from small_runs import write_run
from support import TASKS, batch, disturb
from transformers import PreTrainedTokenizerBase

sys.path.insert(0, str(Path(__file__).parents[2] / "scripts"))

import methods_page

from hyperpelt import TunedModel, methods
from hyperpelt.export.merging import merge
from hyperpelt.methods import registry
from hyperpelt.tuners import base as tuners

DOCS = Path(__file__).parents[2] / "docs"
METHODS, EXTENDING = ((DOCS / name).read_text(encoding="utf8") for name in ("methods.md", "extending.md"))


def test_the_tables_are_those_that_the_methods_make() -> None:
    assert methods_page.renewed(METHODS) == METHODS, "PYTHONPATH=. python scripts/methods_page.py"
    listed = set(re.findall(r"^\| `([^`]+)` \|", METHODS, re.MULTILINE))
    assert listed >= {*methods.names(), *tuners.tuner_types()}


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
        disturb(model)
        with torch.no_grad():
            merged = merge(model.eval(), "b")
            assert not merged.method.parts
            own = {**batch(), "task_ids": torch.ones(4, dtype=torch.long)}
            moved = merged(**{**own, "task_ids": torch.zeros(4, dtype=torch.long)}).logits
            # Sums are made in float32, and disturbed products of four matrices are up to thirty times the weights.
            torch.testing.assert_close(moved, model(**own).logits, atol=1e-3, rtol=1e-3)
            assert (moved - bare).abs().max() > 0.1
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
        command = [warm.python(), "-m", "hyperpelt.cli", *map(str, words)]
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
    settings += ["method=hyper-loha", "max_steps=1", "test_limit=2", "learning_rate=null"]  # its rate is the method's
    for words in (
        ["train", *settings, "--plugin", plugin],
        ["export", tmp_path / "run", "--task", "toy/mood", "--output", tmp_path / "alone"],
    ):
        command = [warm.python(), "-m", "hyperpelt.cli", *map(str, words)]
        done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=tmp_path)
        assert done.returncode == 0, done.stderr[-2000:]
    assert (tmp_path / "alone" / "model.safetensors").is_file()
