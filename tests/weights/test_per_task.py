"""Tensors that are kept, one set a task or one for all; the MLP that folds away; prefixes that start like real rows."""

from __future__ import annotations

import math

import pytest
import torch
from comparison import make_rough, tensors_of
from reference_backbones import Reference
from small_models import make_bart, make_t5

from hyperpelt.attachment.calibration import LENGTH, ROWS, TARGET_LENGTH
from hyperpelt.export.baking import bake
from hyperpelt.model.tuned import TunedModel
from hyperpelt.operations import list_operations
from hyperpelt.weights import PerTask

LORA = {"tuner": {"type": "lora", "rank": 2}, "at": ["q", "wo"]}
PREFIX = {"tuner": {"type": "prefix", "length": 3}, "at": "attention"}


def disturb(model: TunedModel, size: float = 0.3) -> TunedModel:
    generator = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for _, parameter in model.trainable_parameters():
            parameter.add_(torch.randn(parameter.shape, generator=generator) * size)
    return model


def build(parts: list[dict], tasks: str = "abc", backbone=None, **spec: object) -> TunedModel:
    return TunedModel.build(backbone or make_t5(), method={"parts": parts, **spec}, tasks=list(tasks))


def test_per_task_keeps_one_tensor_a_task_and_operation():
    model = build([LORA, PREFIX])
    shapes = {name: tuple(p.shape) for name, p in model.trainable_parameters()}
    assert shapes == {
        "per_task.tensors.lora__down__32x2": (3, 6, 32, 2),
        "per_task.tensors.lora__down__64x2": (3, 4, 64, 2),
        "per_task.tensors.lora__up": (3, 10, 2, 32),
        "per_task.tensors.prefix__keys": (3, 6, 3, 32),
        "per_task.tensors.prefix__values": (3, 6, 3, 32),
    }


def test_every_task_starts_from_the_same_values():
    for name, parameter in build([LORA, PREFIX]).trainable_parameters():
        assert torch.equal(parameter[0], parameter[1]), name
        assert torch.equal(parameter[0], parameter[2]), name
        if not name.endswith("lora__up"):
            assert parameter[0].std() > 0, name


def test_rows_of_the_asked_tasks_come_in_the_asked_order():
    model = disturb(build([LORA, PREFIX]))
    whole, some = model.weights_of(torch.arange(3)), model.weights_of(torch.tensor([2, 0, 2]))
    for key in whole:
        assert torch.equal(some[key], whole[key][[2, 0, 2]]), key


def test_only_the_tasks_of_a_batch_get_a_gradient():
    model = disturb(build([LORA, PREFIX]))
    rows = {"input_ids": torch.tensor([[5, 6, 1], [7, 8, 1]]), "labels": torch.tensor([[4, 1], [3, 1]])}
    model(**rows, task_ids=torch.tensor([0, 2])).loss.backward()
    for name, parameter in model.trainable_parameters():
        used = parameter.grad.flatten(1).abs().amax(1) > 0
        assert used.tolist() == [True, False, True], name


def test_shared_keeps_one_set_whatever_the_task():
    model = disturb(build([{**LORA, "source": "shared"}]))
    assert {p.shape[0] for _, p in model.trainable_parameters()} == {1}
    assert all(made.shape[0] == 1 for made in model.weights_of(torch.tensor([2, 0])).values())
    ids = torch.tensor([[5, 6, 1]] * 3)
    with torch.no_grad():
        logits = model(ids, labels=ids, task_ids=torch.tensor([0, 1, 2])).logits
    assert torch.equal(logits[0], logits[1])
    assert torch.equal(logits[0], logits[2])


def test_one_method_may_share_some_tensors_and_keep_others_apart():
    """VL-Adapter's half-shared adapter: what tasks share is moved by every task, the rest by its own alone."""
    shared = {**LORA, "name": "shared_part", "source": "shared"}
    model = disturb(build([shared, PREFIX]))
    rows = {"input_ids": torch.tensor([[5, 6, 1]]), "labels": torch.tensor([[4, 1]])}
    model(**rows, task_ids=torch.tensor([1])).loss.backward()
    for name, parameter in model.trainable_parameters():
        used = parameter.grad.flatten(1).abs().amax(1) > 0
        assert used.tolist() == ([True] if name.startswith("shared") else [False, True, False]), name


# The MLP reparametrisation


def mlp(tasks: str = "abc", **settings: object) -> TunedModel:
    spec = {"name": "unipelt", "prefix_length": 3, "prefix_hidden": 5, "bottleneck": 4, **settings}
    return disturb(TunedModel.build(make_bart(), method=spec, tasks=list(tasks)))


def test_mlp_makes_row_wise_tensors_only_one_network_a_kind_of_attention():
    source = mlp().sources["prefix_mlp"]
    assert set(source.bundles) == {
        f"prefix__{kind}__3" for kind in ("encoder_self_attention", "decoder_self_attention", "decoder_cross_attention")
    }
    # The gate of the gated prefix has no rows: it stays flat.
    assert set(source.flat.tensors) == {"prefix__gate", "prefix__gate_bias"}
    bundle = source.bundles["prefix__decoder_cross_attention__3"]
    sizes = {name: tuple(p.shape) for name, p in bundle.named_parameters()}
    assert sizes == {
        "embedding": (3, 3, 32),
        "inner": (3, 32, 5),
        "inner_bias": (3, 1, 5),
        "outer": (3, 5, 2 * 2 * 32),
        "outer_bias": (3, 1, 2 * 2 * 32),
    }


def test_baking_folds_the_mlp_away_and_changes_no_bit():
    model = mlp().eval()
    baked = bake(model, "b")
    assert isinstance(baked.sources["baked"], PerTask)
    assert len(baked.sources) == 1
    ids, tasks = torch.tensor([[5, 6, 2], [7, 8, 2]]), torch.tensor([1, 1])
    with torch.no_grad():
        assert torch.equal(baked(ids, labels=ids).logits, model(ids, labels=ids, task_ids=tasks).logits)


# Starting like real rows


class Recording(Reference):
    """Keeps the keys and values of every attention, heads joined again."""

    def attend(self, name, x, q, k, v, bias):
        self.seen[name] = {"keys": k, "values": v, "queries": q}
        return super().attend(name, x, q, k, v, bias)


def real_rows(backbone, seed: int) -> dict[str, dict[str, torch.Tensor]]:
    """Keys and values [M Hk] of the words that calibration reads, computed by the float64 reference."""
    generator, reference = torch.Generator().manual_seed(seed), Recording(backbone, seen={})
    ids, targets = (torch.randint(0, 128, (ROWS, n), generator=generator) for n in (LENGTH, TARGET_LENGTH))
    reference.logits(ids, torch.ones_like(ids), targets)
    return {
        name: {what: t.transpose(1, 2).flatten(2).flatten(0, 1) for what, t in rows.items()}
        for name, rows in reference.seen.items()
    }


@pytest.mark.parametrize("kind", ["t5", "bart"])
@pytest.mark.parametrize("source", ["per_task", "prefix_mlp", "hypernetwork"])
def test_prefix_starts_at_the_mean_and_deviation_of_real_keys_and_values(kind, source):
    backbone = make_rough(kind)
    part = {"tuner": {"type": "prefix", "length": 1000, "init": "activations"}, "at": "attention", "source": source}
    sources = {
        "prefix_mlp": {"type": "per_task", "hidden": 512},
        "hypernetwork": {"type": "hypernetwork", "embedding_dim": 32, "hyper_dim": 64},
    }
    model = TunedModel.build(
        backbone,
        method={"parts": [part], "sources": {n: s for n, s in sources.items() if n == source}},
        tasks=["a"],
        seed=11,
    )
    made, real = tensors_of(model), real_rows(backbone, 11)
    assert made.keys() == real.keys()
    for name, rows in real.items():
        for what in ("keys", "values"):
            values = rows[what]
            standard = (made[name][what] - values.mean(0)) / values.std(0)
            size = standard.square().mean().sqrt()
            if source == "per_task":
                # Drawn rows are standard normal, feature by feature.
                assert standard.mean(0).abs().max() < 0.15, (name, what)
                assert (standard.std(0) - 1).abs().max() < 0.15, (name, what)
            # Rows that a network makes share part of their noise; their size is right.
            assert 0.6 < size < 1.6, (name, what, size)


@pytest.mark.parametrize("kind", ["t5", "bart"])
def test_quiet_keys_are_real_ones_moved_away_from_real_queries(kind):
    """By log N times the w of ridge regression of 1 on the (scaled) queries, head by head (float64)."""
    backbone, length = make_rough(kind), 1000
    part = {"tuner": {"type": "prefix", "length": length, "init": "quiet"}, "at": "attention"}
    made = tensors_of(TunedModel.build(backbone, method={"parts": [part]}, tasks=["a"], seed=11))
    operations = {op.name: op for op in list_operations(backbone)}
    for name, rows in real_rows(backbone, 11).items():
        operation, moved = operations[name], []
        for q in rows["queries"].unflatten(1, (operation.num_heads, -1)).unbind(1):
            gram = q.T @ q / len(q)
            ridge = 0.05 * gram.trace() / len(gram) * torch.eye(len(gram), dtype=q.dtype)
            moved.append(torch.linalg.solve(gram + ridge, q.mean(0)))
        expected = rows["keys"].mean(0) - math.log(length) * torch.cat(moved)
        standard = (made[name]["keys"].double() - expected) / rows["keys"].std(0)
        assert standard.mean(0).abs().max() < 0.15, name
        assert (standard.std(0) - 1).abs().max() < 0.15, name


@pytest.mark.parametrize("kind", ["t5", "mbart"])
def test_prompt_starts_like_the_rows_that_the_encoder_embeds(kind):
    """mBART multiplies its embeddings by sqrt(d), and so must a prompt that stands beside them."""
    backbone = make_rough(kind)
    model = TunedModel.build(
        backbone, method={"name": "prompt-tuning", "length": 400 if kind == "t5" else 60}, tasks=["a"]
    )
    rows = tensors_of(model)["encoder.embedding"]["rows"]
    real = Reference(backbone).typed(torch.arange(128))
    assert 0.8 < rows.std() / real.std() < 1.25


def test_calibration_leaves_the_backbone_as_it_was():
    backbone = make_rough("bart").train()
    before = {name: value.clone() for name, value in backbone.state_dict().items()}
    model = TunedModel.build(backbone, method="prefix-tuning", tasks=["a"])
    assert backbone.training
    assert model.training
    assert all(torch.equal(value, before[name]) for name, value in backbone.state_dict().items())
    model.detach()
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in backbone.modules())
