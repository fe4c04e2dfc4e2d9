"""Promise 9 for changes of the weights themselves, whole or at positions: float64 transcriptions and the frozen model's
own parameters; and what their courses promise."""

from __future__ import annotations

import copy

import pytest
import torch
from comparison import assert_agrees, make_batch, make_rough, make_tuned, tensors_of
from reference_backbones import Reference
from safetensors.torch import load_file
from small_models import make_bart, make_t5
from small_runs import forget_tasks, write_run
from support import TASKS, batch, disturb
from torch import Tensor
from transformers import PreTrainedModel

from hyperpelt import methods
from hyperpelt.config import load_run
from hyperpelt.errors import UserError
from hyperpelt.export.merging import merge
from hyperpelt.files import sparse
from hyperpelt.methods.course import Moment
from hyperpelt.model.tuned import TunedModel
from hyperpelt.operations import NORMS, list_operations, select
from hyperpelt.training import train
from hyperpelt.training.courses import Courses

KINDS = ("t5", "bart")


def changed(backbone: PreTrainedModel, tables: dict[str, dict[str, Tensor]]) -> Reference:
    """The backbone with a change of each named operation's weight [d e] or [e] and bias."""
    reference = Reference(backbone)
    paths = {op.name: op.path for op in list_operations(backbone)}
    for name, change in tables.items():
        for what, values in change.items():
            key = f"{paths[name]}.{what}"
            reference.weights[key] = reference.weights[key] + (values.T if values.ndim == 2 else values)
    return reference


@pytest.mark.parametrize("kind", KINDS)
def test_taps_counts_the_change_of_layers_whose_score_is_high_enough(kind):
    backbone = make_rough(kind)
    model, references = make_tuned(backbone, "taps", size=0.1), []
    for task in (0, 1):
        tables = tensors_of(model, task)
        scores = [float(t.pop("score")) for t in tables.values()]
        assert 0 < sum(score >= 0.1 for score in scores) < len(scores), "some layers are open, some are not"
        open_ = {name: t for (name, t), score in zip(tables.items(), scores, strict=True) if score >= 0.1}
        references.append(changed(backbone, open_))
    assert_agrees(model, references)


@pytest.mark.parametrize("kind", KINDS)
def test_dynamic_subset_adds_its_change_to_the_weights(kind):
    backbone = make_rough(kind)
    model = make_tuned(backbone, "dynamic-subset", size=0.1)
    assert_agrees(model, [changed(backbone, tensors_of(model, task)) for task in (0, 1)])


@pytest.mark.parametrize("kind", KINDS)
def test_entries_are_changes_at_their_positions(kind):
    backbone = make_rough(kind)
    parts = [{"tuner": {"type": "entries", "share": 0.2}, "at": ["projections", "norms"]}]
    model, references = make_tuned(backbone, {"parts": parts}), []
    generator = torch.Generator().manual_seed(9)
    for group, positions in Moment(model.sources, backbone, [0], 0, 1, 0).states("entries")["positions"]:
        for task in positions:  # other places for each task
            for place, (operation,) in zip(task, group.places, strict=True):
                size = operation.d_out * (1 if "norm" in operation.kind else operation.d_in)
                size += operation.d_out * operation.has_bias
                place.copy_(torch.randperm(size, generator=generator)[: len(place)])
    for task in (0, 1):
        tables = {}
        for name, t in tensors_of(model, task).items():
            operation = next(op for op in model.operations if op.name == name)
            shape = (operation.d_out,) if "norm" in operation.kind else (operation.d_in, operation.d_out)
            flat = torch.zeros(torch.Size(shape).numel() + operation.d_out * operation.has_bias).double()
            for position, value in zip(t["positions"].long().tolist(), t["values"].tolist(), strict=True):
                flat[position] = value
            whole = flat[: torch.Size(shape).numel()].view(shape)
            tables[name] = {"weight": whole} | ({"bias": flat[whole.numel() :]} if operation.has_bias else {})
        references.append(changed(backbone, tables))
    assert_agrees(model, references)


def test_the_gradient_of_entries_is_that_of_the_whole_change_at_their_positions():
    part = {"name": "x", "at": ["q", "wo"]}
    backbone = make_rough("bart")
    models = [
        TunedModel.build(copy.deepcopy(backbone), method={"parts": [{**part, "tuner": tuner}]}, tasks=["a", "b"])
        for tuner in ({"type": "entries", "share": 0.1}, {"type": "delta"})
    ]
    found = []
    for model in models:
        model.sources.double()
        rows = make_batch()
        model(**rows, labels=rows["decoder_input_ids"]).loss.backward()
        there = Moment(model.sources, model.backbone, [0, 1], 0, 1, 0).trained("x")
        found.append({
            op.name + name: p.grad[:, i] for name, each in there.items() for group, p in each
            for i, (op,) in enumerate(group.places)
        })  # fmt: skip
    for group, positions in Moment(models[0].sources, models[0].backbone, [0], 0, 1, 0).states("x")["positions"]:
        for index, (op,) in enumerate(group.places):
            whole = torch.cat([found[1][f"{op.name}weight"].flatten(1), found[1][f"{op.name}bias"]], dim=1)
            torch.testing.assert_close(found[0][f"{op.name}values"], whole.gather(1, positions[:, index]))


def test_with_share_one_dynamic_subset_is_full_fine_tuning_of_what_it_touches():
    """Three steps of SGD on the change, and on the backbone's own weights."""
    names = [f"{op.path}.*" for op in list_operations(make_bart()) if op.kind in ("q", "wo", *NORMS)]
    parts = {"name": "own", "parts": [], "unfreeze": names}
    subset = {"name": "shared-dynamic-subset", "share": 1.0, "at": ["q", "wo"]}
    logits = []
    for method in (parts, subset):
        model = TunedModel.build(make_bart().double(), method=method, tasks=TASKS).train()
        model.sources.double()
        optimiser = torch.optim.SGD([p for _, p in model.trainable_parameters()], lr=0.1)
        for step in range(1, 4):
            optimiser.zero_grad()
            model(**batch()).loss.backward()
            optimiser.step()
            for course in model.method.courses:
                course.after_step(Moment(model.sources, model.backbone, [0, 1, 2], step, 3, 0))
        logits.append(model.eval()(**batch()).logits)
    torch.testing.assert_close(*logits, atol=1e-9, rtol=1e-9)
    assert (logits[0] - make_bart().double()(**_bare()).logits).abs().max() > 1e-3


def _bare() -> dict[str, Tensor]:
    rows = batch()
    shifted = torch.cat([torch.full((4, 1), 2), rows["labels"][:, :-1].masked_fill(rows["labels"][:, :-1] < 0, 1)], 1)
    return {"input_ids": rows["input_ids"], "attention_mask": rows["attention_mask"], "decoder_input_ids": shifted}


@pytest.fixture
def run(tiny_tokenizer, tmp_path, monkeypatch):
    """Settings of a short run without a method."""
    monkeypatch.setenv("HYPERPELT_CACHE", str(tmp_path / "cache"))
    common = [s for s in write_run(tmp_path, tiny_tokenizer) if not s.startswith(("method=", "max_steps="))]
    yield [*common, "max_steps=4", "save_steps=1", "save_total_limit=9", "eval_limit=2", "test_limit=2"]
    forget_tasks()


def test_after_every_step_no_more_than_the_share_differs_and_which_changes(run, tmp_path, monkeypatch):
    monkeypatch.setattr(sparse, "SMALLEST", 1024)
    settings = [*run, "method={name: dynamic-subset, share: 0.03}", "warmup_steps=0", f"output_dir={tmp_path}/run"]
    train(load_run(None, settings), progress=False)
    places = []
    for step in range(1, 5):
        saved = load_file(tmp_path / "run" / "checkpoints" / f"step-{step}" / "model.safetensors")
        for name, values in saved.items():
            allowed = int(0.03 * values.flatten(2).shape[-1])
            assert ((values.flatten(2) != 0).sum(-1) <= allowed).all(), (step, name)
        places.append(saved["per_task.tensors.weights__weight__32x32"] != 0)
    assert places[0].any()
    assert not torch.equal(places[0], places[-1]), "the subset is dynamic"
    file = load_file(tmp_path / "run" / "model.safetensors")
    assert "per_task.tensors.weights__weight__32x32|positions" in file
    assert sum(t.numel() for t in file.values()) < sum(t.numel() for t in saved.values()) / 10
    again = TunedModel.from_pretrained(tmp_path / "run").method_state()
    assert all(torch.equal(again[name], values) for name, values in saved.items())


def test_a_strong_penalty_leaves_no_layer_open(run, tmp_path):
    settings = ["method={name: taps, sparsity: 1000.0}", "learning_rate=0.06", "warmup_steps=0"]
    train(load_run(None, [*run, *settings, f"output_dir={tmp_path}/run"]), progress=False)
    model = TunedModel.from_pretrained(tmp_path / "run")
    state = model.method_state()
    scores = torch.cat([values.flatten() for name, values in state.items() if name.endswith("score")])
    assert scores.max() < 0.1
    assert any(values.abs().max() > 0 for name, values in state.items() if "weight" in name), "there is a change"
    rows = _bare() | {"task_ids": torch.tensor([0, 1, 0, 1])}
    frozen = TunedModel.build(copy.deepcopy(model.backbone), method="frozen", tasks=list(model.tasks)).eval()
    assert torch.equal(model(**rows).logits, frozen(**rows).logits)


@pytest.mark.parametrize("make", [make_t5, make_bart])
@pytest.mark.parametrize("method", ["taps", "dynamic-subset", "entries"])
@torch.no_grad()
def test_a_change_of_weights_merges_into_plain_weights(make, method):
    entries = {"parts": [{"tuner": {"type": "entries", "share": 0.2}, "at": ["projections", "norms"]}]}
    model = TunedModel.build(make(), method=entries if method == "entries" else method, tasks=TASKS).eval()
    disturb(model, size=0.05)
    rows = {**batch(), "task_ids": torch.ones(4, dtype=torch.long)}
    merged = merge(model, TASKS[1], plain=True)
    assert not merged.method.parts
    alone = {**rows, "task_ids": torch.zeros(4, dtype=torch.long)}
    torch.testing.assert_close(merged(**alone).logits, model(**rows).logits, atol=2e-4, rtol=1e-3)


def test_what_is_mostly_zero_is_packed_without_losing_a_bit(monkeypatch):
    monkeypatch.setattr(sparse, "SMALLEST", 8)
    values = torch.zeros(3, 40)
    values[0, 3], values[2, 39], values[1, 1] = 1.5, -0.0, torch.finfo(torch.float32).tiny
    whole = {"a": values, "b": torch.ones(9), "c": values.bfloat16(), "few": torch.zeros(2), "none": torch.zeros(8)}
    packed, about = sparse.pack(whole)
    assert set(packed) == {"a|positions", "a|values", "b", "c|positions", "c|values", "few", "none|positions",
                           "none|values"}  # fmt: skip
    again = sparse.unpack(packed, about)
    for name, tensor in whole.items():
        assert again[name].dtype == tensor.dtype
        assert torch.equal(again[name], tensor)
        assert torch.equal(again[name].signbit(), tensor.signbit())


def test_mistakes_are_one_sentence():
    for tuner, words in (
        ({"type": "delta", "sparsity": 1.0}, "give it a threshold"),
        ({"type": "entries", "share": 2.0}, "between 0 and 1, got 2"),
        ({"type": "entries", "counts": {"encoder.0.self_attention.q": 9999}}, "has 1024 weights of its own"),
    ):
        with pytest.raises(UserError, match=words):
            TunedModel.build(make_t5(), method={"parts": [{"tuner": tuner, "at": ["q"]}]}, tasks=["a"])


def sensitivities(backbone: PreTrainedModel, batches: list[dict[str, Tensor]]) -> dict[str, Tensor]:
    """Sums of squared gradients of the frozen model's own parameters."""
    model = TunedModel.build(backbone, method="full", tasks=TASKS)
    sums = {name: torch.zeros_like(p) for name, p in model.backbone.named_parameters()}
    for rows in batches:
        model.zero_grad()
        model(**rows).loss.backward()
        for name, p in model.backbone.named_parameters():
            sums[name] += p.grad**2
    return sums


def chosen_one_by_one(sums: dict[str, Tensor], operations, budget: int, rank: int):
    """SPT's choice as its paper tells it: weights in the order of their sensitivity, until the budget is spent."""
    owners = []  # (sensitivity, tensor, place), the place as y = x D + b counts it
    sizes, low_costs = {}, {}
    for op in operations:
        for what in ("weight", "bias") if op.has_bias else ("weight",):
            name = f"{op.path}.{what}"
            values = (sums[name].T if sums[name].ndim == 2 else sums[name]).flatten().tolist()
            sizes[op.name, what] = len(values)
            if op.kind not in NORMS and what == "weight":
                low_costs[op.name, what] = rank * (op.d_in + op.d_out)
            owners += [(value, (op.name, what), place) for place, value in enumerate(values)]
    owners.sort(key=lambda one: -one[0])
    taken = {key: [] for key in sizes}

    def cost(key):
        other = low_costs.get(key, sizes[key])
        return other if taken[key] and len(taken[key]) >= other / 5 else len(taken[key])

    for _, key, place in owners:
        taken[key].append(place)
        if sum(map(cost, taken)) > budget:
            taken[key].pop()
            break
    low = {name for (name, what) in low_costs if cost((name, what)) != len(taken[name, what])}
    entries = {}
    for op in operations:
        found = [] if op.name in low else sorted(taken[op.name, "weight"])
        if op.kind in NORMS and cost((op.name, "weight")) == sizes[op.name, "weight"]:
            found = list(range(sizes[op.name, "weight"]))
        start = sizes[op.name, "weight"]
        if op.has_bias:
            whole = cost((op.name, "bias")) == sizes[op.name, "bias"]
            bias = range(sizes[op.name, "bias"]) if whole else sorted(taken[op.name, "bias"])
            found += [start + place for place in bias]
        if found:
            entries[op.name] = found
    return entries, low


def made(rows: dict[str, Tensor]) -> dict[str, object]:
    """A batch as training makes it."""
    tokens = int((rows["labels"] != -100).sum())
    totals = {"num_global_tokens": tokens, "num_read_tokens": tokens, "num_global_rows": len(rows["labels"])}
    return {**rows, "row_weights": torch.ones(len(rows["labels"])), **totals}


@pytest.mark.parametrize("make", [make_t5, make_bart])
def test_spt_chooses_what_counting_one_by_one_chooses(make):
    backbone = make().double()
    model = TunedModel.build(backbone, method={"name": "spt", "share": 0.01, "rank": 1, "batches": 2}, tasks=TASKS)
    model.sources.double()
    batches = [batch(seed=1), batch(seed=7)]
    courses = Courses(model, total=4, seed=0, first=lambda count: ([made(rows)] for rows in batches[:count]))
    method, there = courses.compose(), select(model.operations, model.method.parts[0].at)
    budget = model.num_trainable() // 3
    entries, low = chosen_one_by_one(sensitivities(make().double(), batches), there, budget, rank=1)
    assert low
    assert entries
    parts = {part.name: part for part in method.parts}
    assert set(parts["entries_low"].at) == low
    assert dict(parts["entries"].tuner.counts) == {name: len(places) for name, places in entries.items()}
    assert not method.courses
    model.detach()
    trained = TunedModel.build(make(), method=methods.method_from_dict(method.to_dict()), tasks=TASKS)
    courses.settle(trained)
    for task in range(3):
        found = tensors_of(trained, task, part="entries")
        assert {name: t["positions"].long().tolist() for name, t in found.items()} == entries
    assert 0.8 * budget <= trained.num_trainable() // 3 <= budget
    with pytest.raises(UserError, match="decides before a run what is trained"):
        courses.begin()
