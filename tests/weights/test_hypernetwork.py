"""The hypernetwork: its equations one operation at a time, how it starts, and what a task is to it."""

from __future__ import annotations

import pytest
import torch
from comparison import TASKS, make_rough
from reference_hypernetwork import hyper_tensors
from small_models import make_bart, make_t5

from hyperpelt.errors import UserError
from hyperpelt.model.tuned import TunedModel
from hyperpelt.tuners import tuner_types

SMALL = {"embedding_dim": 5, "hidden_dim": 7, "hyper_dim": 6}
# Parts that between them have row-wise and other tensors, at several stacks and sites, in one or several widths.
PARTS = [
    {"tuner": {"type": "prefix", "length": 3}, "at": "attention", "source": "hypernetwork"},
    {"tuner": {"type": "adapter", "bottleneck": 4}, "at": ["self_attention", "feed_forward"], "source": "hypernetwork"},
    {"tuner": {"type": "lora", "rank": 2}, "at": ["q", "wi"], "source": "hypernetwork"},
]
# One method a tuner type that starts as a no-op, and the places where it is tried.
NO_OPS = {
    "adapter": ({"type": "adapter", "bottleneck": 4}, ["attention", "feed_forward", "block"]),
    "adapter with norm": ({"type": "adapter", "bottleneck": 4, "norm": True}, ["self_attention", "feed_forward"]),
    "adapter with scale": ({"type": "adapter", "learned_scale": True, "reads": "input"}, ["feed_forward"]),
    "bias": ({"type": "bias"}, ["projections"]),
    "convolution": ({"type": "convolution", "bottleneck": 4}, ["feed_forward"]),
    "delta": ({"type": "delta"}, ["projections"]),
    "entries": ({"type": "entries", "share": 0.05}, ["projections", "norms"]),
    "gate": ({"type": "gate", "tuner": {"type": "lora", "rank": 2}}, ["q", "v"]),
    "kronecker": ({"type": "kronecker"}, ["projections", "feed_forward"]),
    "lora": ({"type": "lora", "rank": 2}, ["projections"]),
    "memory": ({"type": "memory", "length": 3}, ["feed_forward"]),
    "norm": ({"type": "norm"}, ["norms"]),
    "parallel_rows": ({"type": "parallel_rows", "length": 3}, ["attention", "feed_forward", "block"]),
    "parallel_rows tied": ({"type": "parallel_rows", "length": 3, "tied": True}, ["attention", "feed_forward"]),
    "scale": ({"type": "scale"}, ["k", "v", "hidden"]),
    "special_tokens": ({"type": "special_tokens"}, ["encoder.*.block"]),
    "svd": ({"type": "svd", "rank": 2}, ["projections"]),
    "token_rows": ({"type": "token_rows", "ids": [7, 5]}, ["embedding", "head"]),
    "vera": ({"type": "vera", "rank": 3}, ["projections"]),
}
NEVER_NO_OPS = {"code_scale", "prefix", "prompt", "adaptive_prefix", "bottleneck_prefix", "phm_adapter", "self_prompt"}


def method(parts: list[dict], **config: object) -> dict:
    settings = {**SMALL, **config}
    return {"parts": parts, "sources": {"hypernetwork": {"type": "hypernetwork", **settings}}}


def disturb(model: TunedModel, size: float = 0.3) -> TunedModel:
    generator = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for _, parameter in model.trainable_parameters():
            parameter.add_(torch.randn(parameter.shape, generator=generator) * size)
    return model


def batch() -> dict[str, torch.Tensor]:
    ids = torch.tensor([[7, 8, 2, 1], [9, 2, 1, 0]])
    labels = torch.tensor([[5, 6, 1], [7, 8, 1]])
    mask = torch.tensor([[1, 1, 1, 1], [1, 1, 1, 0]])
    return {"input_ids": ids, "attention_mask": mask, "labels": labels, "task_ids": torch.tensor([0, 1])}


@pytest.mark.parametrize(
    ("kind", "config"),
    [
        ("t5", {}),
        ("bart", {"normalise": False, "trunk": "stack"}),
        ("t5", {"trunk": "stack", "heads": {"default": {"shared": "stack"}}}),
        ("bart", {"heads": {"prefix": {"shared": "kind", "hidden": 8}, "default": {"shared": "all"}}}),
        ("t5", {"heads": {"default": {"shared": "operation", "hidden": 4}}, "reads": ["task"]}),
        ("bart", {"expand_rows": False, "heads": {"adapter": {"shared": "kind"}}}),
        ("t5", {"reads": ["layer", "task"], "init": "fan_in"}),
        ("bart", {"reads": ["block", "layer"], "init": "normal"}),
    ],
)
def test_all_tensors_made_at_once_are_those_of_the_equations_one_by_one(kind, config):
    model = TunedModel.build(make_rough(kind), method=method(PARTS, **config), tasks=["a", "b", "c"])
    disturb(model).sources.double()
    # In any order and number, with repetitions.
    for asked in ([2, 0, 2], [1]):
        made = model.sources["hypernetwork"](torch.tensor(asked))
        for place, task in enumerate(asked):
            wanted = hyper_tensors(model, task)
            groups = model.sources["hypernetwork"].groups
            assert len(wanted) == sum(len(group.operations) for group in groups.values())
            for key, group in groups.items():
                assert made[key].shape == (len(asked), len(group.operations), *group.spec.shape)
                for index, op in enumerate(group.operations):
                    torch.testing.assert_close(made[key][place, index], wanted[op.name, key], rtol=1e-10, atol=1e-12)


def test_every_tuner_type_is_tried_with_the_hypernetwork():
    assert {tuner["type"] for tuner, _ in NO_OPS.values()} | NEVER_NO_OPS == set(tuner_types())


@pytest.mark.parametrize("init", ["plain", "fan_in"])
@pytest.mark.parametrize("name", NO_OPS)
def test_a_tuner_that_starts_as_nothing_starts_as_nothing_when_it_is_made(name, init):
    tuner, at = NO_OPS[name]
    rows = batch()
    for backbone in (make_t5(), make_bart()):
        part = {"tuner": tuner, "at": at}
        logits = []
        for spec in ({"parts": []}, {"parts": [part]}, method([{**part, "source": "hypernetwork"}], init=init)):
            with torch.no_grad():
                logits.append(TunedModel.build(backbone, method=spec, tasks=TASKS).eval()(**rows).logits)
        bare, plain, made = logits
        assert torch.equal(plain, bare)
        assert torch.equal(made, bare)


@pytest.mark.parametrize("name", NO_OPS)
def test_embeddings_get_a_gradient_from_the_second_step_on(name):
    """At the very first the weights that they meet are zero; after one step of any optimiser they are not."""
    tuner, at = NO_OPS[name]
    spec = method([{"tuner": tuner, "at": at, "source": "hypernetwork"}])
    model = TunedModel.build(make_t5(), method=spec, tasks=TASKS)
    optimiser = torch.optim.SGD(model.sources.parameters(), lr=0.1)
    for _ in range(2):
        optimiser.zero_grad()
        model(**batch()).loss.backward()
        optimiser.step()
    network = model.sources["hypernetwork"]
    trunk = network.trunks["all"]
    for label, gradient in (
        ("task", network.task_embeddings.grad),
        *((label, embedding.grad) for label, embedding in trunk.embeddings.items()),
    ):
        reached = gradient.flatten(1).abs().amax(1) > 0
        assert reached.all(), f"{label} embeddings without a gradient: {reached.tolist()}"


@pytest.mark.parametrize("name", ["hyper-lora", "hyper-layer-norm", "hyper-ia3"])
def test_no_two_operations_of_a_layer_get_the_same_tensors(name):
    model = disturb(TunedModel.build(make_t5(), method=name, tasks=["a", "b"]))
    for key, made in model.weights_of(torch.arange(2)).items():
        each = made[0].flatten(1)
        alike = torch.cdist(each, each).fill_diagonal_(1.0)
        assert alike.min() > 1e-3, key


def test_equal_embeddings_give_equal_tensors_and_different_ones_do_not():
    model = disturb(TunedModel.build(make_t5(), method=method(PARTS), tasks=["a", "b", "c"]))
    network = model.sources["hypernetwork"]
    with torch.no_grad():
        network.task_embeddings[2] = network.task_embeddings[0]
    for key, made in model.weights_of(torch.arange(3)).items():
        assert torch.equal(made[0], made[2]), key
        assert not torch.equal(made[0], made[1]), key


def test_relabelling_tasks_permutes_embeddings_and_nothing_else():
    order = torch.tensor([2, 0, 1])
    models = [disturb(TunedModel.build(make_t5(), method=method(PARTS), tasks=["a", "b", "c"])) for _ in range(2)]
    state = models[0].method_state()
    changed = {n: v[order] if n.endswith("task_embeddings") else v for n, v in state.items()}
    assert sum(not torch.equal(changed[n], state[n]) for n in state) == 1
    models[1].load_method_state(changed)
    made, relabelled = (model.weights_of(torch.arange(3)) for model in models)
    for key in made:
        assert torch.equal(relabelled[key], made[key][order]), key


@pytest.mark.parametrize(("length", "expand", "rows"), [(3, True, 3), (3, False, 1), (0, True, 1)])
def test_a_new_task_costs_n_times_t_values(length, expand, rows):
    prefix = {"tuner": {"type": "prefix", "length": length}, "at": "attention", "source": "hypernetwork"}
    spec = method([prefix, *PARTS[1:]], expand_rows=expand)
    counts = [TunedModel.build(make_t5(), method=spec, tasks=list("abcdef"[:n])).num_trainable() for n in (1, 2, 6)]
    assert counts[1] - counts[0] == rows * SMALL["embedding_dim"]
    assert counts[2] - counts[0] == 5 * rows * SMALL["embedding_dim"]


@pytest.mark.parametrize("init", ["plain", "fan_in"])
def test_drawn_tensors_start_in_the_deviation_of_their_tuner(init):
    """LoRA's A is uniform of bound 1/sqrt(d_in); a prefix is standard normal before it is scaled like real keys."""
    parts = [{**PARTS[0], "tuner": {"type": "prefix", "length": 64, "init": "normal"}}, PARTS[2]]
    config = {"embedding_dim": 32, "hidden_dim": 64, "hyper_dim": 32, "init": init}
    for heads in ({}, {"heads": {"default": {"shared": "kind", "hidden": 128}}}):
        model = TunedModel.build(make_t5(), method=method(parts, **config, **heads), tasks=["a", "b"])
        made = model.weights_of(torch.arange(2))
        for key, std in (("prefix.keys", 1.0), ("prefix.values", 1.0), ("lora.down", (1 / 32 / 3) ** 0.5)):
            own = [made[k].std().item() for k in made if k.startswith(key)]
            assert all(0.6 * std < s < 1.6 * std for s in own), (key, own, std)


def test_normal_init_is_that_of_hyperformers_code():
    network = TunedModel.build(make_t5(), method=method(PARTS, init="normal"), tasks=["a"]).sources["hypernetwork"]
    for head in network.heads.values():
        assert head.bias.abs().max() == 0
        assert 0.008 < head.weight.std() < 0.012


def test_seed_decides_every_initial_value():
    states = [TunedModel.build(make_t5(), method="hyperpelt", tasks=["a"], seed=s).method_state() for s in (1, 1, 2)]
    assert all(torch.equal(states[0][name], states[1][name]) for name in states[0])
    assert not all(torch.equal(states[0][name], states[2][name]) for name in states[0])


def test_task_embeddings_are_drawn_with_the_deviation_that_is_asked_for():
    plain, small = (
        next(iter(TunedModel.build(make_t5(), method=method(PARTS, **config), tasks=["a", "b"]).sources.values()))
        for config in ({}, {"embedding_std": 0.1})
    )
    assert torch.allclose(small.task_embeddings, 0.1 * plain.task_embeddings)
    assert small.config.to_dict()["embedding_std"] == 0.1


@pytest.mark.parametrize(
    ("config", "words"),
    [
        ({"embeding_dim": 3}, r"setting of a hypernetwork 'embeding_dim'\. Did you mean 'embedding_dim'"),
        ({"heads": {"default": {"shard": "all"}}}, r"head.* 'shard'\. Did you mean 'shared'"),
        (
            {"heads": {"default": {"shared": "kinds"}}},
            r"sharing of a hypernetwork's heads 'kinds'\. Did you mean 'kind'",
        ),
        ({"init": "plan"}, r"init of a hypernetwork 'plan'\. Did you mean 'plain'"),
        ({"trunk": "kind"}, r"trunk of a hypernetwork 'kind'\. Known: all, stack"),
        ({"reads": ["task", "blok"]}, r"'blok'\. Did you mean 'block'"),
        ({"hidden_dim": 0}, r"hidden_dim.*at least 1, got 0"),
        ({"hidden_dim": "wide"}, r"hidden_dim.*int.*'wide'"),
        ({"normalise": "yes"}, r"normalise.*bool.*'yes'"),
        ({"reads": []}, r"at least one of"),
        ({"embedding_std": 0.0}, r"'embedding_std' of a hypernetwork is a deviation above 0, got 0\.0"),
    ],
)
def test_a_bad_setting_is_named_with_what_would_be_right(config, words):
    with pytest.raises(UserError, match=words):
        TunedModel.build(make_t5(), method=method(PARTS, **config), tasks=["a"])


def test_rows_of_different_numbers_need_different_sources():
    long = {"name": "long", "tuner": {"type": "prefix", "length": 4}, "at": "attention", "source": "hypernetwork"}
    with pytest.raises(UserError, match=r"equally many rows, got \[3, 4\]"):
        TunedModel.build(make_t5(), method=method([PARTS[0], long]), tasks=["a"])
    apart = method([PARTS[0], {**long, "source": "other"}])
    apart["sources"]["other"] = {"type": "hypernetwork", **SMALL}
    model = TunedModel.build(make_t5(), method=apart, tasks=["a"])
    assert set(model.sources) == {"hypernetwork", "other"}
    assert model(**{**batch(), "task_ids": torch.tensor([0, 0])}).loss.isfinite()


def test_with_scaled_rates_made_tensors_move_as_fast_as_tensors_of_their_own():
    """The first step of Adam moves a tensor of its own by the rate; one that is made moves some fifty times as far."""
    rate, moved = 1e-3, {}
    for source, scaled in [("per_task", False), ("hypernetwork", False), ("hypernetwork", True)]:
        parts = [
            {"name": "adapter", "tuner": {"type": "adapter", "bottleneck": 8}, "at": "feed_forward", "source": source}
        ]
        sources = {"hypernetwork": {"type": "hypernetwork"}} if source == "hypernetwork" else {}
        model = TunedModel.build(make_t5(), method={"parts": parts, "sources": sources}, tasks=["a", "b"]).train()
        scales = model.learning_rate_scales() if scaled else {}
        named = dict(model.trainable_parameters())
        assert scales.keys() <= named.keys()
        groups = [{"params": [p], "lr": rate * scales.get(name, 1.0)} for name, p in named.items()]
        optimizer = torch.optim.Adam(groups)
        tasks = torch.tensor([0])
        before = {name: t.detach().clone() for name, t in model.weights_of(tasks).items()}
        model(**batch() | {"task_ids": torch.zeros(len(batch()["input_ids"]), dtype=torch.long)}).loss.backward()
        optimizer.step()
        change = {name: (t - before[name]).abs().mean().item() for name, t in model.weights_of(tasks).items()}
        moved[source, scaled] = change["adapter.up"] / rate
    assert 0.7 < moved["per_task", False] < 1.01  # what reads a dead unit stays
    assert 0.5 < moved["hypernetwork", True] < 3
    assert moved["hypernetwork", False] > 15


def test_every_matrix_of_a_hypernetwork_has_its_own_factor():
    model = TunedModel.build(make_bart(), method="hyperpelt", tasks=["a"])
    scales, named = model.learning_rate_scales(), dict(model.trainable_parameters())
    inside = [name for name, p in named.items() if p.dim() > 1 and ("heads" in name or "trunks" in name)]
    unscaled = [name for name in inside if name not in scales]
    assert all("bias" in name or "embeddings" in name for name in unscaled), unscaled
    for name, scale in scales.items():
        assert scale == 1 / named[name].shape[-2]
