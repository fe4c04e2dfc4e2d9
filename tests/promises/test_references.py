"""Promise 9, whole methods against float64 transcriptions of their papers.

Single tuners are compared in tests/tuners, and with peft in test_peft_references.py. Here a method is taken as a user
names it, with its hypernetwork, its sources and all its tuners at once.
"""

from __future__ import annotations

import math
from types import MappingProxyType

import pytest
import torch
from comparison import assert_agrees, make_rough, make_tuned, tensors_of
from reference_backbones import Reference, TensorsByOperation, gelu, gelu_tanh, linear, softmax
from reference_hypernetwork import by_operation, hyper_tensors

from hyperpelt.operations import list_operations

KINDS = ("t5", "bart")
PATHS = {kind: {op.name: op.path for op in list_operations(make_rough(kind))} for kind in KINDS}


class Transcribed(Reference):
    """Prefix at attention, adapters at sub-layers and shifted norms, each from a table of its own."""

    prefixes: TensorsByOperation = MappingProxyType({})
    adapters: TensorsByOperation = MappingProxyType({})
    gates: TensorsByOperation = MappingProxyType({})
    phi = staticmethod(gelu)
    sequential = True
    scale = 1.0

    def attend(self, name, x, q, k, v, bias):
        rows = self.prefixes.get(name)
        if rows is None:
            return super().attend(name, x, q, k, v, bias)
        heads, width = q.shape[1], q.shape[3]
        keys, values = (
            rows[n].reshape(-1, heads, width).transpose(0, 1).expand(len(q), -1, -1, -1) for n in ("keys", "values")
        )
        # One gate a query, [B 1 Q 1], and the prefix as it is seen by that query.
        gate = self.gate(name, x, rows).unsqueeze(1)
        scores = torch.cat(
            [gate * torch.einsum("bhqd,bhnd->bhqn", q, keys), torch.einsum("bhqd,bhnd->bhqn", q, k) + bias], -1
        )
        weights = softmax(scores)
        prefix, own = weights[..., : keys.shape[2]], weights[..., keys.shape[2] :]
        return gate * torch.einsum("bhqn,bhnd->bhqd", prefix, values) + torch.einsum("bhqn,bhnd->bhqd", own, v)

    def gate(self, name, x, t):
        if "gate" not in t:
            return torch.ones(*x.shape[:2], 1, dtype=torch.float64)
        gate = 1 / (1 + torch.exp(-(x @ t["gate"] + t["gate_bias"])))
        if name.startswith("decoder"):
            return gate
        real = self.mask.unsqueeze(-1)
        return ((gate * real).sum(1, keepdim=True) / real.sum(1, keepdim=True)).expand_as(gate)

    def sublayer(self, name, x, h, out):
        t = self.adapters.get(name)
        if t is None:
            return out
        sequential = self.sequential[name] if isinstance(self.sequential, dict) else self.sequential
        z = {True: out, False: x, "with residual": out + h}[sequential]
        made = self.phi(z @ t["down"] + t["down_bias"]) @ t["up"] + t["up_bias"]
        if "gamma" in t:
            centred = made - made.mean(-1, keepdim=True)
            made = t["gamma"] * centred / (centred.pow(2).mean(-1, keepdim=True) + 1e-5).sqrt() + t["beta"]
        return out + made * t.get("scale", self.scale) * self.gate(name, z, t)

    def linear(self, path, x):
        t = self.gates.get(path)
        if t is None:
            return super().linear(path, x)
        name = {p: n for n, p in self.projections().items()}[path]
        # UniPELT: the gate takes the place of LoRA's scaling.
        return super().linear(path, x) + self.gate(name, x, t) * linear(linear(x, t["down"].T), t["up"].T)

    def shifted(self, tensors):
        """The same with its layer norms shifted."""
        paths = PATHS["t5" if self.is_t5 else "bart"]
        for name, shifts in tensors.items():
            for what, value in shifts.items():
                self.weights[f"{paths[name]}.{what}"] = self.weights[f"{paths[name]}.{what}"] + value
        return self


def relu(z):
    return torch.where(z > 0, z, 0.0)


@pytest.mark.parametrize("kind", KINDS)
def test_hyperpelt_is_its_equations_from_embedding_to_logits(kind):
    backbone = make_rough(kind)
    settings = {
        "prefix_length": 3,
        "bottleneck": 4,
        "prefix_hidden": 6,
        "embedding_dim": 5,
        "hidden_dim": 7,
        "hyper_dim": 6,
    }
    model, references = make_tuned(backbone, {"name": "hyperpelt", **settings}), []
    for task in range(2):
        made = hyper_tensors(model, task)
        tables = {"prefixes": by_operation(made, "prefix"), "adapters": by_operation(made, "adapter")}
        reference = Transcribed(backbone, **tables, phi=relu, sequential=False)
        references.append(reference.shifted(tensors_of(model, task, part="norms")))
    assert len(references[0].prefixes) == 6
    assert len(references[0].adapters) == 4
    assert_agrees(model, references)


class SharedThenMade(Transcribed):
    """Adapters that all tasks share, after attentions and beside feed-forward networks; then the made ones."""

    shared: TensorsByOperation = MappingProxyType({})

    def sublayer(self, name, x, h, out):
        t = self.shared[name]
        z = x if "scale" in t else out
        out = out + (relu(z @ t["down"] + t["down_bias"]) @ t["up"] + t["up_bias"]) * t.get("scale", 1.0)
        return super().sublayer(name, x, h, out)


@pytest.mark.parametrize("kind", KINDS)
def test_hyperblock_is_its_equations_from_embedding_to_logits(kind):
    backbone = make_rough(kind)
    settings = {"bottleneck": 4, "shared_bottleneck": 6, "embedding_dim": 5, "hidden_dim": 7, "hyper_dim": 6}
    model, references = make_tuned(backbone, {"name": "hyperblock", **settings}), []
    for task in range(2):
        adapters = by_operation(hyper_tensors(model, task), "adapter")
        shared = {
            **tensors_of(model, task, part="shared_attention"),
            **tensors_of(model, task, part="shared_feed_forward"),
        }
        assert len(adapters) == 8, "self-attention and feed-forward of both stacks"
        assert len(shared) == 10, "cross-attention too"
        reference = SharedThenMade(backbone, adapters=adapters, shared=shared, phi=gelu_tanh)
        references.append(reference.shifted(tensors_of(model, task, part="norms")))
    assert_agrees(model, references)


@pytest.mark.parametrize("name", ["hyperformer", "hyperformer++"])
@pytest.mark.parametrize("kind", KINDS)
def test_hyperformer_is_its_equations_from_embedding_to_logits(kind, name):
    backbone = make_rough(kind)
    settings = {"bottleneck": 4, "embedding_dim": 5, "hidden_dim": 7, "hyper_dim": 6}
    model, references = make_tuned(backbone, {"name": name, **settings}), []
    for task in range(2):
        adapters = by_operation(hyper_tensors(model, task), "adapter")
        assert len(adapters) == 8, "self-attention and feed-forward of both stacks, none at cross-attention"
        reference = Transcribed(backbone, adapters=adapters, phi=gelu_tanh)
        references.append(reference.shifted(tensors_of(model, task, part="norms")))
    assert_agrees(model, references)


@pytest.mark.parametrize("kind", KINDS)
def test_mam_is_an_mlp_prefix_and_a_scaled_parallel_adapter(kind):
    backbone = make_rough(kind)
    model = make_tuned(backbone, {"name": "mam", "prefix_length": 3, "prefix_hidden": 6, "bottleneck": 4})
    tables = [
        {f"{p}s" if p == "adapter" else "prefixes": tensors_of(model, t, part=p) for p in ("prefix", "adapter")}
        for t in (0, 1)
    ]
    assert_agrees(model, [Transcribed(backbone, **table, phi=relu, sequential=False, scale=4.0) for table in tables])


@pytest.mark.parametrize("kind", KINDS)
def test_unipelt_is_three_gated_parts(kind):
    backbone = make_rough(kind)
    model = make_tuned(
        backbone, {"name": "unipelt", "prefix_length": 3, "prefix_hidden": 6, "bottleneck": 4, "rank": 2}
    )
    references = []
    for task in range(2):
        prefixes, adapters, lora = (tensors_of(model, task, part=part) for part in ("prefix", "adapter", "lora"))
        tables = {"prefixes": prefixes, "adapters": adapters, "gates": {PATHS[kind][n]: t for n, t in lora.items()}}
        references.append(Transcribed(backbone, **tables, phi=relu, sequential="with residual"))
    assert_agrees(model, references)


@pytest.mark.parametrize("kind", KINDS)
def test_houlsby_and_pfeiffer_read_what_their_papers_say(kind):
    backbone = make_rough(kind)
    for name, phi, reads, count in (("houlsby", gelu, True, 8), ("pfeiffer", relu, "with residual", 4)):
        model = make_tuned(backbone, {"name": name, "bottleneck": 4})
        assert len(tensors_of(model)) == count
        assert_agrees(
            model, [Transcribed(backbone, adapters=tensors_of(model, t), phi=phi, sequential=reads) for t in (0, 1)]
        )
        model.detach()


@pytest.mark.parametrize("kind", KINDS)
def test_mlp_prefix_is_tanh_between_two_matrices(kind):
    """P = tanh(E W1 + c1) W2 + c2, one for each kind of attention, scaled like real keys and values."""
    model = make_tuned(make_rough(kind), {"name": "prefix-tuning-mlp", "prefix_length": 3, "hidden": 5})
    source, values = (
        model.sources["prefix_mlp"],
        {n: v.double() for n, v in model.sources["prefix_mlp"].state_dict().items()},
    )
    for task in range(2):
        made = tensors_of(model, task)
        for site in ("encoder_self_attention", "decoder_self_attention", "decoder_cross_attention"):
            base = f"bundles.prefix__{site}__3."
            e, w1, c1, w2, c2 = (
                values[base + n][task] for n in ("embedding", "inner", "inner_bias", "outer", "outer_bias")
            )
            flat = torch.tanh(e @ w1 + c1) @ w2 + c2
            assert flat.shape == (3, 2 * 2 * 32)
            stack, kind_of_attention = site.split("_", 1)
            place = 0
            for name in ("keys", "values"):
                operations = [op.name for op in source.groups[f"prefix.{name}"].operations]
                for layer in range(2):
                    op = f"{stack}.{layer}.{kind_of_attention}"
                    mean, std = (values[f"prefix__{name}__{what}"][operations.index(op)] for what in ("mean", "std"))
                    rows = mean + std * flat[:, 32 * place : 32 * (place + 1)]
                    torch.testing.assert_close(made[op][name], rows, rtol=1e-12, atol=1e-12)
                    place += 1


def test_u_tuning_scales_its_parallel_prefix_by_the_width_of_a_head():
    """Attn(x, P_k, P_v) with one head: softmax(x P_k^T / sqrt(d)) P_v, beside an adapter that reads x too."""
    backbone = make_rough("t5")

    class UTuned(Transcribed):
        def sublayer(self, name, x, h, out):
            t = self.rows.get(name)
            if t is None:
                return super().sublayer(name, x, h, out)
            return out + softmax(x @ t["keys"].T / math.sqrt(32)) @ t["values"]

    model = make_tuned(backbone, {"name": "u-tuning", "length": 3, "bottleneck": 4})
    references = []
    for task in range(2):
        rows, adapters = (tensors_of(model, task, part=part) for part in ("attention", "feed_forward"))
        references.append(UTuned(backbone, rows=rows, adapters=adapters, sequential=False))
    assert_agrees(model, references)
