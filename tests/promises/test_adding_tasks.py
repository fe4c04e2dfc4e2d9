"""Promise: a task added to a trained run leaves what the others put out as it was, bit for bit."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from small_runs import METHOD, forget_tasks, write_run
from support import batch

from hyperpelt.config import load_run
from hyperpelt.errors import UserError
from hyperpelt.model.tuned import TunedModel
from hyperpelt.tasks import plugins
from hyperpelt.training import train

DESCRIBED = METHOD.replace("}", ", description_dropout: 0.5}")


@pytest.fixture
def settings(tiny_tokenizer, tmp_path, monkeypatch):
    """Makes the settings of a run of one task on a small backbone of a family."""
    monkeypatch.setenv("HYPERPELT_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(plugins, "_NAMED", {})

    def make(family: str, method: str) -> list[str]:
        common = write_run(tmp_path, tiny_tokenizer, family=family)
        return [*common, f"method={method}", "tasks=toy/mood", "max_steps=3"]

    yield make
    forget_tasks()


def outputs(run: Path, *, rows: dict[str, torch.Tensor]) -> torch.Tensor:
    with torch.no_grad():
        return TunedModel.from_pretrained(run)(**rows).logits


@pytest.mark.parametrize(
    ("family", "method", "optimizer", "start"),
    [
        ("t5", METHOD, "adafactor", "like:toy/mood"),
        ("bart", DESCRIBED, "adamw", "described"),
        ("bart", "lora", "adamw", "mean"),
    ],
)
def test_old_tasks_keep_every_bit_and_the_checkpoint_grows_by_the_embedding(
    settings, tmp_path, family, method, optimizer, start
):
    common = settings(family, method)
    train(load_run(None, common), progress=False)
    more = [f"output_dir={tmp_path / 'more'}", f"from_run={tmp_path / 'run'}", f"start_from={start}"]
    content = train(load_run(None, [*common, "tasks=toy/truth", f"optimizer={optimizer}", *more]), progress=False)

    rows = {**batch(), "task_ids": torch.zeros(4, dtype=torch.long)}
    assert torch.equal(outputs(tmp_path / "run", rows=rows), outputs(tmp_path / "more", rows=rows))
    mixed = {**batch(), "task_ids": torch.tensor([0, 1, 0, 1])}
    assert not torch.equal(outputs(tmp_path / "more", rows=mixed), outputs(tmp_path / "more", rows=rows))

    before, after = (load_file(tmp_path / name / "model.safetensors") for name in ("run", "more"))
    assert before.keys() == after.keys()
    grown = {name for name in before if before[name].shape != after[name].shape}
    embedding, words = "hypernetwork.task_embeddings", "hypernetwork.description.vectors"
    wanted = {name for name in before if "tensors" in name} if method == "lora" else {embedding}
    assert grown == wanted | ({words} if method == DESCRIBED else set())
    for name, tensor in before.items():
        kept = after[name][: len(tensor)] if name in grown else after[name]
        assert torch.equal(tensor, kept), name
    assert content["training"]["trainable"] == sum(before[name][0].numel() for name in wanted)
    if start == "like:toy/mood":
        assert not torch.equal(after[embedding][1], before[embedding][0]), "the new embedding was not trained"


def test_what_would_reach_old_tasks_is_refused(settings, tmp_path):
    common = settings("t5", METHOD)
    more = [*common, f"from_run={tmp_path / 'run'}"]
    with pytest.raises(UserError, match="weight_decay must be 0"):
        load_run(None, [*more, "weight_decay=0.1", f"output_dir={tmp_path / 'more'}"])
    with pytest.raises(UserError, match="another folder than from_run"):
        load_run(None, more)
    train(load_run(None, [*common, "max_steps=1"]), progress=False)
    with pytest.raises(UserError, match="knows the task 'toy/mood' already"):
        train(load_run(None, [*more, f"output_dir={tmp_path / 'more'}"]), progress=False)
    added = ["tasks=toy/truth", "start_from=described", f"output_dir={tmp_path / 'more'}"]
    with pytest.raises(UserError, match="without a map from words"):
        train(load_run(None, [*more, *added]), progress=False)


@pytest.mark.parametrize("method", ["shared-houlsby", "unipelt"])
def test_every_source_takes_one_more_task_or_says_that_it_owns_none(tiny_bart, method):
    model = TunedModel.build(tiny_bart, method=method, tasks=["a"]).eval()
    rows = {**batch(), "task_ids": torch.zeros(4, dtype=torch.long)}
    with torch.no_grad():
        before = model(**rows).logits
        assert model.add_task("b") == 1
        assert torch.equal(before, model(**rows).logits)
        rows["task_ids"] = torch.ones(4, dtype=torch.long)
        assert torch.equal(before, model(**rows).logits)
    if method == "unipelt":
        model.train_only("embedding", ["b"])
        assert model.num_trainable() * 2 == sum(p.numel() for _, p in model.task_parameters())
    else:
        with pytest.raises(UserError, match="keeps nothing for single tasks"):
            model.train_only("embedding", ["b"])
