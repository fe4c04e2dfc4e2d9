"""Promise 9, methods of Kronecker products, triplets, gates and windows: against peft and float64 transcriptions."""

from __future__ import annotations

import copy
from types import MappingProxyType

import peft
import pytest
import torch
from comparison import assert_agrees, make_rough, make_tuned, tensors_of
from reference_backbones import Reference, TensorsByOperation
from reference_hypernetwork import by_operation, instance_tensors
from test_peft_references import PATHS, assert_peft_agrees, wrapped
from test_references import Transcribed, gelu_tanh, relu
from torch import Tensor

from hyperpelt.methods.course import Moment
from hyperpelt.model.tuned import TunedModel

KINDS = ("t5", "bart")
NAMES = {"t5": ["q", "v"], "bart": ["q_proj", "v_proj"]}


def merged(backbone, deltas: dict[str, Tensor], kind: str) -> Reference:
    """The backbone with a change [e d] of each named projection's weight."""
    reference = Reference(backbone)
    for name, delta in deltas.items():
        path = f"{PATHS[kind][name]}.weight"
        reference.weights[path] = reference.weights[path] + delta
    return reference


@pytest.mark.parametrize("kind", KINDS)
def test_adalora_is_that_of_peft(kind):
    model, others = make_tuned(make_rough(kind), {"name": "adalora", "rank": 3, "rank_target": 2, "alpha": 6.0}), []
    for task in range(2):
        config = peft.AdaLoraConfig(
            task_type="SEQ_2_SEQ_LM", init_r=3, target_r=2, lora_alpha=6, target_modules=NAMES[kind], total_step=20,
            tinit=2, tfinal=3,
        )  # fmt: skip
        others.append(wrapped(kind, config))
        with torch.no_grad():
            for name, tensors in tensors_of(model, task).items():
                module = others[-1].base_model.model.get_submodule(PATHS[kind][name])
                module.lora_A.default.copy_(tensors["left"].T)
                module.lora_B.default.copy_(tensors["right"].T)
                module.lora_E.default.copy_(tensors["values"][:, None])
                module.ranknum.default.fill_(3 - 1e-5)  # peft divides by the rank and a hundred thousandth more
    assert_peft_agrees(model, others)


def test_the_rank_budget_is_pefts_allocator_step_by_step():
    """The same gradients give the same importance and leave the same triplets, with a budget that peft computes."""
    total, kind = 24, "t5"
    settings = {"name": "adalora", "rank": 3, "rank_target": 1, "warmup": 4.0, "final": 6.0, "interval": 3}
    model = TunedModel.build(make_rough(kind), method=settings, tasks=["a"])
    model.sources.double()
    config = peft.AdaLoraConfig(
        task_type="SEQ_2_SEQ_LM", init_r=3, target_r=1, target_modules=NAMES[kind], total_step=total, tinit=4,
        tfinal=6, deltaT=3,
    )  # fmt: skip
    other = wrapped(kind, config)
    (course,), state, generator = model.method.courses, {}, torch.Generator().manual_seed(0)
    there = {
        name: entries[0]
        for name, entries in Moment(model.sources, model.backbone, [0], 0, total, 0).trained("triplets").items()
    }
    modules = {op.name: other.base_model.model.get_submodule(op.path) for op in there["values"][0].operations}
    parts = {"left": "lora_A", "values": "lora_E", "right": "lora_B"}
    for step in range(1, total + 1):
        for name, (group, parameter) in there.items():
            with torch.no_grad():
                parameter.add_(torch.randn(parameter.shape, generator=generator, dtype=torch.float64) * 0.1)
            parameter.grad = torch.randn(parameter.shape, generator=generator, dtype=torch.float64)
            for index, op in enumerate(group.operations):
                theirs = getattr(modules[op.name], parts[name]).default
                values = [
                    t[0, index].reshape(-1, 1) if name == "values" else t[0, index].T
                    for t in (parameter, parameter.grad)
                ]
                theirs.data.copy_(values[0])
                theirs.grad = values[1].clone()
        course.after_step(Moment(model.sources, model.backbone, [0], step, total, 0, state))
        other.base_model.peft_config["default"].total_step = total
        allocator = other.base_model.rankallocator
        if step <= total - 6:
            _, final = allocator.update_and_allocate(other.base_model.model, step, force_mask=step == total - 6)
        else:
            allocator.mask_using_rank_pattern(other.base_model.model, final)
        group, parameter = there["values"]
        kept = torch.stack([modules[op.name].lora_E.default[:, 0] for op in group.operations])
        assert torch.equal(parameter[0] != 0, kept != 0), f"step {step}"
    assert (there["values"][1] != 0).sum() == len(modules), "in the end one triplet an operation stays, on average"


@pytest.mark.parametrize("kind", KINDS)
def test_vera_is_that_of_peft(kind):
    model, others = make_tuned(make_rough(kind), {"name": "vera", "rank": 4}), []
    for task in range(2):
        config = peft.VeraConfig(task_type="SEQ_2_SEQ_LM", r=4, target_modules=NAMES[kind])
        others.append(wrapped(kind, config))
        with torch.no_grad():
            for name, tensors in tensors_of(model, task).items():
                module = others[-1].base_model.model.get_submodule(PATHS[kind][name])
                module.vera_A["default"].copy_(tensors["down"].T)
                module.vera_B["default"].copy_(tensors["up"].T)
                module.vera_lambda_d.default.copy_(tensors["inner"])
                module.vera_lambda_b.default.copy_(tensors["outer"])
    trained = sum(p.numel() for p in others[0].parameters() if p.requires_grad)
    assert model.num_trainable() == 2 * trained
    assert_peft_agrees(model, others)


@pytest.mark.parametrize("kind", KINDS)
def test_krona_is_pefts_product_of_its_factors(kind):
    model, others = make_tuned(make_rough(kind), {"name": "krona", "scale": 2.0}), []
    for task in range(2):
        config = peft.LoKrConfig(task_type="SEQ_2_SEQ_LM", r=64, alpha=128, target_modules=NAMES[kind])
        others.append(wrapped(kind, config))
        for name, tensors in tensors_of(model, task).items():
            module = others[-1].base_model.model.get_submodule(PATHS[kind][name])
            module.lokr_w1["default"] = torch.nn.Parameter(tensors["left"])
            module.lokr_w2["default"] = torch.nn.Parameter(tensors["right"])
    assert_peft_agrees(model, others)


class Phm(Transcribed):
    """Sequential adapters whose matrices are sums of Kronecker products, written out."""

    phm: TensorsByOperation = MappingProxyType({})

    def sublayer(self, name, x, h, out):
        t = self.phm.get(name)
        if t is None:
            return out
        down, up = (
            sum(torch.kron(t["rule"][i], t[f"{what}_left"][i] @ t[f"{what}_right"][i]) for i in range(len(t["rule"])))
            for what in ("down", "up")
        )
        return out + gelu_tanh(out @ down + t["down_bias"]) @ up + t["up_bias"]


@pytest.mark.parametrize("kind", KINDS)
def test_compacter_is_a_sum_of_kronecker_products(kind):
    backbone = make_rough(kind)
    model = make_tuned(backbone, {"name": "compacter", "bottleneck": 8, "rank": 2, "train_norms": False})
    tables = [tensors_of(model, task) for task in (0, 1)]
    assert len({t["rule"].data_ptr() for t in tables[0].values()}) >= 1
    assert len({tuple(t["rule"].flatten().tolist()) for t in tables[0].values()}) == 1, "one rule for all adapters"
    assert_agrees(model, [Phm(backbone, phm=table) for table in tables])


@pytest.mark.parametrize("kind", KINDS)
def test_mixphm_answers_with_the_expert_of_averaged_weights(kind):
    backbone = make_rough(kind)
    model = make_tuned(backbone, {"name": "mixphm", "bottleneck": 8, "rank": 2, "experts": 3})
    references = []
    for task in (0, 1):
        table = copy.deepcopy(tensors_of(model, task))
        for tensors in table.values():
            tensors |= {name: tensors[name].mean(0) for name in ("up_left", "up_right", "up_bias")}
        references.append(Phm(backbone, phm=table))
    assert_agrees(model, references)


class Windows(Transcribed):
    """Two convolutions written as loops over positions: centred in the encoder, looking left in the decoder."""

    conv: TensorsByOperation = MappingProxyType({})

    def sublayer(self, name, x, h, out):
        t = self.conv.get(name)
        if t is None:
            return out
        return out + self.over(name, gelu_erf(self.over(name, out, t["down"], t["down_bias"])), t["up"], t["up_bias"])

    def over(self, name, z, weight, bias):
        kernel, made = len(weight), torch.zeros(*z.shape[:2], weight.shape[-1], dtype=torch.float64)
        encoder = name.startswith("encoder")
        z = z * self.mask.unsqueeze(-1) if encoder else z
        for place in range(z.shape[1]):
            for tap in range(kernel):
                source = place + tap - (kernel // 2 if encoder else kernel - 1)
                if 0 <= source < z.shape[1]:
                    made[:, place] += z[:, source] @ weight[tap]
        return made + bias


def gelu_erf(z):
    return z * 0.5 * (1 + torch.erf(z / 2**0.5))


@pytest.mark.parametrize("kind", KINDS)
def test_a_convolutional_adapter_is_two_loops_over_positions(kind):
    backbone = make_rough(kind)
    model = make_tuned(backbone, {"name": "conv-adapter", "bottleneck": 4, "kernel": 3})
    assert_agrees(model, [Windows(backbone, conv=tensors_of(model, task)) for task in (0, 1)])


class Weighted(Transcribed):
    """APT: the rows of a prefix scaled by lam alpha, alpha of what the attention reads at the first position."""

    def attend(self, name, x, q, k, v, bias):
        t = self.weighted[name]
        heads, width = q.shape[1], q.shape[3]
        alpha = t["layer_scale"] / (1 + torch.exp(-(x[:, 0] @ t["row_gate"])))
        keys, values = (
            (rows * alpha[..., None]).reshape(len(q), -1, heads, width).transpose(1, 2)
            for rows in (t["keys"], t["values"])
        )
        scores = torch.cat([q @ keys.transpose(2, 3), q @ k.transpose(2, 3) + bias], dim=-1)
        return scores.softmax(-1) @ torch.cat([values, v], dim=2)


@pytest.mark.parametrize("kind", KINDS)
def test_apt_weights_rows_by_the_first_position(kind):
    backbone = make_rough(kind)
    model = make_tuned(backbone, {"name": "apt", "prefix_length": 3})
    assert_agrees(model, [Weighted(backbone, weighted=tensors_of(model, task)) for task in (0, 1)])


@pytest.mark.parametrize("kind", KINDS)
def test_text_to_lora_is_its_equations_from_description_to_logits(kind):
    backbone = make_rough(kind)
    sizes = {"embedding_dim": 5, "hidden_dim": 7, "hyper_dim": 6, "rank": 2, "alpha": 8.0}
    model = make_tuned(backbone, {"name": "text-to-lora", **sizes})
    read = torch.randn(2, 9, 32, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    model.tell(dict(zip(model.tasks, read, strict=True)))
    values, references = model.sources["text"].state_dict(), []
    t, w = ({n.removeprefix(start): v for n, v in values.items()} for start in ("trunks.all.", "description."))

    def norm(x, name):
        centred = x - x.mean()
        return centred / (centred.square().mean() + 1e-6).sqrt() * t[f"{name}.weight"] + t[f"{name}.bias"]

    sites = ["decoder.cross_attention", "decoder.self_attention", "encoder.self_attention"]
    blocks = [f"{site}.{p}" for site in sites for p in "qv"]
    for task in (0, 1):
        away = read[:, 0] - read[:, 0].mean(0)
        x = away[task] / away.square().mean().sqrt()
        z = w["rows"][0] + torch.tanh(x @ w["inner"] + w["inner_bias"]) @ w["outer"]
        deltas = {}
        for number, name in ((i, n) for i, p in enumerate("qv") for n in PATHS[kind] if n.endswith(f"attention.{p}")):
            stack, layer, site, _ = name.split(".")
            own = (
                t["embeddings.layer"][int(layer), 0],
                t["embeddings.block"][blocks.index(f"{stack}.{site}.{'qv'[number]}"), 0],
            )
            inner = torch.cat([t["inner.task"], t["inner.layer"], t["inner.block"]])
            made = torch.clamp(torch.cat([z, *own]) @ inner + t["inner_bias"], min=0) @ t["outer"] + t["outer_bias"]
            for i in (0, 1):
                b = f"blocks_after.{i}"
                hidden = norm(made, f"{b}.norm") @ t[f"{b}.inner"] + t[f"{b}.inner_bias"]
                made = made + hidden / (1 + torch.exp(-hidden)) @ t[f"{b}.outer"] + t[f"{b}.outer_bias"]
            made = norm(made, "norm")
            down, up = (
                (
                    made @ values[f"heads.lora_{number}__{what}.weight"][0]
                    + values[f"heads.lora_{number}__{what}.bias"][0, 0]
                )
                for what in ("down", "up")
            )
            deltas[name] = 4.0 * (down.reshape(32, 2) @ up.reshape(2, 32)).T
        references.append(merged(backbone, deltas, kind))
    assert len(deltas) == 12
    assert_agrees(model, references)


class SelfPrompted(Transcribed):
    """Self-PT: prompts made of the first position (or the mean), through the attention's own keys and values."""

    prompted: TensorsByOperation = MappingProxyType({})
    mean = False

    def attend(self, name, x, q, k, v, bias):
        t = self.prompted.get(name)
        if t is None:
            return super().attend(name, x, q, k, v, bias)
        n, real = len(t["rule"]), self.mask[..., None].double()
        pooled = (x * real).sum(1) / real.sum(1) if self.mean and name.startswith("encoder") else x[:, 0]

        def layer(z, left, right, b):
            return z @ sum(torch.kron(t["rule"][i], left[i] @ right[i]) for i in range(n)) + b

        hidden = gelu_tanh(layer(pooled, t["down_left"], t["down_right"], t["down_bias"]))
        each = [layer(hidden, t["up_left"][j], t["up_right"][j], t["up_bias"][j]) for j in range(len(t["up_bias"]))]
        rows = []
        for c in t["index"]:
            centred = c - c.mean()
            c = centred / (centred.square().mean() + 1e-6).sqrt() * t["index_gain"] + t["index_shift"]
            rows.append(each[0] + sum(c[j] * each[j + 1] for j in range(len(c))))
        rows, path = torch.stack(rows, dim=1), {n: p for n, p in self.projections().items()}
        keys, values = (
            self.plain(path[f"{name}.{p}"], rows).reshape(len(q), len(t["index"]), q.shape[1], -1).transpose(1, 2)
            for p in "kv"
        )
        scores = torch.cat([q @ keys.transpose(2, 3), q @ k.transpose(2, 3) + bias], dim=-1)
        return scores.softmax(-1) @ torch.cat([values, v], dim=2)

    def plain(self, path, x):
        return x @ self.weights[f"{path}.weight"].T + self.weights.get(f"{path}.bias", 0)


@pytest.mark.parametrize(("kind", "pool"), [("t5", "first"), ("t5", "mean"), ("bart", "first"), ("bart", "mean")])
def test_self_pt_prompts_each_row_with_itself(kind, pool):
    backbone = make_rough(kind)
    settings = {"name": "self-pt", "length": 3, "bottleneck": 8, "rank": 2, "index_dim": 3, "pool": pool}
    model = make_tuned(backbone, settings)
    tables = [tensors_of(model, task) for task in (0, 1)]
    assert_agrees(model, [SelfPrompted(backbone, prompted=table, mean=pool == "mean") for table in tables])


@pytest.mark.parametrize("form", ["share", "separate", "global"])
def test_hyperprompt_sends_one_prompt_through_each_attentions_bottlenecks(form):
    backbone = make_rough("t5")
    model = make_tuned(backbone, {"name": "hyperprompt", "form": form, "length": 3, "bottleneck": 4})
    references = []
    for task in (0, 1):
        rows = {}
        for name, t in tensors_of(model, task).items():
            rows[name] = {
                what: torch.clamp(t["prompt"] @ t[f"{what}_down"], min=0) @ t[f"{what}_up"]
                for what in ("keys", "values")
            }
        references.append(Transcribed(backbone, prefixes=rows))
    assert_agrees(model, references)


class OfEachRow(Transcribed):
    """Hyperdecoders: the decoder's adapters are made of the mean of what the encoder wrote for a row."""

    model: TunedModel

    def decoded(self, states, decoder_ids):
        made = []
        for row, real in zip(states, self.mask, strict=True):
            made.append(by_operation(instance_tensors(self.model, row[real].mean(0)), "decoder_adapter"))
        self.rows = {name: {n: torch.stack([one[name][n] for one in made]) for n in made[0][name]} for name in made[0]}
        return super().decoded(states, decoder_ids)

    def sublayer(self, name, x, h, out):
        t = self.rows.get(name) if name.startswith("decoder") else None
        if t is None:
            return super().sublayer(name, x, h, out)
        hidden = torch.clamp(torch.einsum("bsd,bdk->bsk", x, t["down"]) + t["down_bias"][:, None], min=0)
        return out + torch.einsum("bsk,bkd->bsd", hidden, t["up"]) + t["up_bias"][:, None]


@pytest.mark.parametrize("form", [{}, {"encoder_source": "per_task", "train_norms": True}], ids=["", "per task, norms"])
@pytest.mark.parametrize("kind", KINDS)
def test_hyperdecoders_are_their_equations_from_encoder_states_to_logits(kind, form):
    backbone = make_rough(kind)
    settings = {"bottleneck": 4, "encoder_bottleneck": 3, "embedding_dim": 5, "hidden_dim": 7, "hyper_dim": 6, **form}
    model, references = make_tuned(backbone, {"name": "hyperdecoders", **settings}), []
    for task in (0, 1):
        adapters = tensors_of_tasks(model, task, "encoder_adapter")
        assert len(adapters) == 2
        reference = OfEachRow(backbone, adapters=adapters, phi=relu, sequential=False, model=model, rows={})
        references.append(reference.shifted(tensors_of_tasks(model, task, "norms")))
    assert_agrees(model, references)


def tensors_of_tasks(model: TunedModel, task: int, part: str) -> TensorsByOperation:
    """Of one part whose tensors are tasks', where others are rows'."""
    made = model.weights_of(torch.tensor([task]))
    found: dict[str, dict[str, Tensor]] = {}
    for source in model.sources.of_tasks():
        for key, group in source.groups.items():
            for index, place in enumerate(group.places if group.part == part else ()):
                for op in place:
                    found.setdefault(op.name, {})[group.tensor] = made[key][0, index].double()
    return found
