"""Promise 9 for networks that run beside the backbone: float64 transcriptions of their equations and of their start,
and what they promise: no gradient in the backbone, and nothing kept for one."""

from __future__ import annotations

import copy
from types import SimpleNamespace

import pytest
import torch
from comparison import assert_agrees, make_rough, make_tuned
from reference_backbones import Reference, linear
from small_models import make_bart, make_t5
from support import TASKS, batch, disturb
from test_sparse_references import made, sensitivities
from torch import Tensor

from hyperpelt import methods
from hyperpelt.errors import UserError
from hyperpelt.export.merging import export_merged, merge
from hyperpelt.model.tuned import TunedModel
from hyperpelt.operations import NORMS, PROJECTIONS, list_operations
from hyperpelt.planning.kept import watched
from hyperpelt.training.courses import Courses

KINDS = ("t5", "t5-gated", "bart", "mbart")
LAYERS = {"t5": "block", "bart": "layers", "mbart": "layers"}


class Watched(Reference):
    """The backbone, which tells what its first layers read and all of them wrote."""

    def __init__(self, backbone):
        super().__init__(backbone)
        self.read, self.wrote = {}, {}

    def block_input(self, name, h, ids):
        if name.split(".")[1] == "0":
            self.read[name.split(".")[0]] = h
        return h

    def block(self, name, read, written):
        self.wrote[name] = written
        return written


class Beside(Reference):
    """LST: h_i = Block_i(mu_i h_{i-1} + (1 - mu_i) Down_i(H_i)), its weights those of a model's side network."""

    def __init__(self, model: TunedModel, main: Watched) -> None:
        self.state = {name: value.double() for name, value in model.sources.state_dict().items()}
        layers, weights = LAYERS[model.backbone.config.model_type], {}
        for name, value in self.state.items():
            if ".stack." in name:
                stack = name.split(".")[2]
                path = name.split(".stack.")[1]
                if path.startswith(f"{layers}."):  # side.ladders.encoder.stack.block.0.layer.(the layer's own name)
                    words = path.split(".")
                    if words[2] != "layer":
                        continue
                    path = ".".join([*words[:2], *words[3:]])
                weights[f"{stack}.{path}" if main.is_t5 else f"model.{stack}.{path}"] = value
        config = copy.deepcopy(model.sources.side_network.ladder("encoder").stack.config)
        if main.is_t5:
            config.num_decoder_layers = len(model.sources.side_network.ladder("decoder").rungs)
        super().__init__(SimpleNamespace(config=config, state_dict=lambda: weights))
        self.main, self.layers = main, layers
        self.rungs = {stack: model.sources.side_network.ladder(stack).rungs for stack in ("encoder", "decoder")}

    def named(self, stack: str, name: str) -> Tensor:
        return self.state[f"side.ladders.{stack}.{name}"]

    def embedded(self, stack, vectors):
        return linear(vectors, self.named(stack, "first.weight"), self.named(stack, "first.bias"))

    def block_input(self, name, h, ids):
        stack, number = name.split(".")[:2]
        rung = f"stack.{self.layers}.{number}"
        mu = 1 / (1 + torch.exp(-self.named(stack, f"{rung}.gate") / 0.1))
        written = self.main.wrote[f"{stack}.{self.rungs[stack][int(number)]}.block"]
        down = linear(written, self.named(stack, f"{rung}.down.weight"), self.named(stack, f"{rung}.down.bias"))
        return mu * h + (1 - mu) * down


class Together:
    """Both: the logits are made of the side network's last states by the backbone's head."""

    def __init__(self, model: TunedModel) -> None:
        self.main = Watched(model.backbone)
        self.side, self.weights = Beside(model, self.main), self.main.weights

    def logits(self, ids: Tensor, mask: Tensor, decoder_ids: Tensor) -> Tensor:
        main, side = self.main, self.side
        states = main.encoded(main.typed(ids), ids, mask)
        made = side.encoded(main.read["encoder"], ids, mask)
        length = decoder_ids.shape[1]
        future = torch.full((length, length), -torch.inf, dtype=torch.float64).triu(1)
        unseen = torch.where(mask.bool(), 0.0, -torch.inf).double()[:, None, None, :]

        def decode(one: Reference, vectors: Tensor, states: Tensor) -> Tensor:
            biases = {"self_attention": one.position_bias("decoder", length) + future, "cross_attention": unseen}
            return one.stack("decoder", one.embedded("decoder", vectors), decoder_ids, biases, states)

        written = decode(main, main.typed(decoder_ids), states)
        h = decode(side, main.read["decoder"], made)
        h = linear(h, side.state["side.up.weight"], side.state["side.up.bias"])
        if "side.last_gate" in side.state:
            g = 1 / (1 + torch.exp(-side.state["side.last_gate"] / 0.1))
            h = g * h + (1 - g) * written
        if main.is_t5:
            h = h * main.config.d_model**-0.5 if main.config.scale_decoder_outputs else h
            return linear(h, self.weights["lm_head.weight"])
        return linear(h, self.weights["model.shared.weight"]) + self.weights["final_logits_bias"]


@pytest.mark.parametrize("last_gate", [None, 0.05])
@pytest.mark.parametrize("kind", KINDS)
def test_lst_is_its_equations_beside_the_backbone(kind, last_gate):
    backbone = make_rough(kind)
    reduction = 2 if kind == "t5-gated" else 4  # which divides 6
    model = make_tuned(backbone, {"name": "lst", "reduction": reduction, "last_gate": last_gate})
    assert_agrees(model, [Together(model)] * 2)


@pytest.mark.parametrize("make", [make_t5, make_bart])
@pytest.mark.parametrize("batches", [2, 0])
def test_the_side_network_starts_as_the_backbone_without_its_least_important_dimensions(make, batches):
    rows = [batch(seed=1), batch(seed=7)]
    model = TunedModel.build(make(), method={"name": "lst", "reduction": 4, "batches": batches}, tasks=TASKS)
    Courses(model, total=4, seed=0, first=lambda count: ([made(one)] for one in rows[:count])).begin()
    own = dict(model.backbone.named_parameters())
    weigh = sensitivities(make(), rows) if batches else {name: p.abs() for name, p in own.items()}
    there = [op for op in list_operations(model.backbone) if op.kind in PROJECTIONS and op.layer == 1]
    hidden, inner = torch.zeros(32), {}
    for op in there:
        value, network = weigh[f"{op.path}.weight"].detach(), op.name.rsplit(".", 1)[0]
        writes = op.kind in ("o", "wo")
        hidden += value.sum(1 if writes else 0)
        inner[network] = inner.get(network, 0) + value.sum(0 if writes else 1)
    kept = sorted(hidden.argsort(descending=True)[:8].tolist())
    side = dict(model.sources.side_network.named_parameters())
    layers = LAYERS[model.backbone.config.model_type]
    for op in there:
        network = op.name.rsplit(".", 1)[0]
        scores, heads = inner[network], 1 if op.site == "feed_forward" else 4
        width = len(scores) // heads
        within = [
            head * width + i
            for head in range(heads)
            for i in sorted(scores[head * width :][:width].argsort(descending=True)[: width // 4].tolist())
        ]
        rows_, columns = (kept, within) if op.kind in ("o", "wo") else (within, kept)
        name = f"ladders.{op.stack}.stack.{layers}.0.layer.{op.path.split(f'{layers}.1.')[1]}"
        torch.testing.assert_close(side[f"{name}.weight"], own[f"{op.path}.weight"][rows_][:, columns])
        if op.has_bias:
            assert torch.equal(side[f"{name}.bias"], own[f"{op.path}.bias"][rows_])
    norms = [op for op in list_operations(model.backbone) if op.kind in NORMS and op.layer == 1]
    for op in norms:
        name = f"ladders.{op.stack}.stack.{layers}.0.layer.{op.path.split(f'{layers}.1.')[1]}"
        assert torch.equal(side[f"{name}.weight"], own[f"{op.path}.weight"][kept])
    if make is make_t5:
        table = "encoder.block.0.layer.0.SelfAttention.relative_attention_bias.weight"
        inside = "ladders.encoder.stack.block.0.layer.layer.0.SelfAttention.relative_attention_bias.weight"
        assert torch.equal(side[inside], own[table])


@pytest.mark.parametrize("make", [make_t5, make_bart])
def test_nothing_of_the_backbone_s_layers_is_kept_for_a_gradient(make):
    """Of width 64 are the backbone's feed-forward networks alone (48 in BART's decoder); a tuner in it keeps these."""
    kept = {}
    for method in ({"name": "lst", "reduction": 4}, "lora"):
        model, seen = TunedModel.build(make(), method=method, tasks=TASKS).train(), set()

        def note(tensor, seen=seen):
            seen.add(tensor.shape[-1] if tensor.ndim else 0)
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
            model(**batch()).loss.backward()
        kept[model.method.name] = seen
        assert all(p.grad is None for p in model.backbone.parameters())
        with watched([*model.parameters(), *model.buffers()]) as told:
            loss = model(**batch()).loss
            kept[f"{model.method.name} bytes"] = told()
        del loss
    assert not kept["lst"] & {64, 48}
    assert kept["lora"] & {64, 48}
    assert kept["lst bytes"] < kept["lora bytes"]


def test_what_a_side_network_allows_and_refuses(tmp_path):
    model = TunedModel.build(make_t5(), method={"name": "lst", "reduction": 4}, tasks=TASKS).eval()
    disturb(model)
    model.add_task("another")
    rows = batch()
    twin = copy.deepcopy(model)
    with torch.no_grad():
        logits = model(**rows).logits
        next(iter(model.sources.side_network.parameters())).add_(1.0)
        assert torch.equal(twin(**rows).logits, logits), "a copy has a side network of its own"
        assert not torch.equal(model(**rows).logits, logits)
        alone = merge(model, TASKS[0])
        assert torch.equal(alone(**{**rows, "task_ids": torch.zeros(4, dtype=torch.long)}).logits, model(**rows).logits)
    with pytest.raises(UserError, match="Plain weights cannot hold the side network"):
        export_merged(model, TASKS[0], tmp_path / "plain")
    model.detach()
    alone.detach()
    assert not model.switch.beside_handles
    for spec, words in (
        ({"name": "lst", "reduction": 5}, "5 times narrower needs a d_model that it divides, got 32"),
        ({"name": "lst", "skip": 1}, "skips every layer"),
        ("hyper-lst", "has no per-task tensors"),
        ({"parts": [{"tuner": {"type": "lora"}, "at": ["q"]}], "side": {}}, "needs no gradient through the backbone"),
        ({"parts": [], "side": {"reductoin": 4}}, "Did you mean 'reduction'"),
        ({"parts": [], "courses": [{"type": "pruned_start"}]}, "is for a side network"),
    ):
        with pytest.raises(UserError, match=words):
            TunedModel.build(make_t5(), method=spec, tasks=["a"])
    composed = methods.get({"parts": [], "side": {"reduction": 4, "skip": 0}, "courses": [{"type": "pruned_start"}]})
    assert methods.method_from_dict(composed.to_dict()) == composed
