"""Sources made of what an operation reads: a float64 transcription, and rows that know nothing of each other."""

from __future__ import annotations

import pytest
import torch
from comparison import assert_agrees, make_rough, make_tuned
from reference_backbones import Reference
from small_models import make_bart, make_t5
from support import TASKS, batch, decode_step_by_step, disturb
from torch import Tensor

from hyperpelt import methods
from hyperpelt.errors import UserError
from hyperpelt.export.baking import bake
from hyperpelt.model.tuned import TunedModel

SIZES = {"embedding_dim": 5, "hidden_dim": 7, "hyper_dim": 6}
SOURCE = {"type": "instance_hypernetwork", "made_of": "input", "reads": ["task", "layer"], **SIZES}
ADAPTER = {"tuner": {"type": "adapter", "bottleneck": 3, "reads": "input"}, "at": ["feed_forward"], "source": "read"}
METHOD = {
    "parts": [
        ADAPTER,
        {"tuner": {"type": "prefix", "length": 2, "init": "normal"}, "at": ["attention"], "source": "read"},
        {"tuner": {"type": "lora", "rank": 2}, "at": ["q", "k"], "source": "read"},
        {"tuner": {"type": "prompt", "length": 2}, "at": ["encoder.embedding"], "source": "read"},
    ],
    "sources": {"read": SOURCE},
}
MAKERS = {"t5": make_t5, "bart": make_bart}


class Read(Reference):
    """Parallel adapters made of the mean of what the network reads; in the decoder, of what it reads first."""

    source: dict[str, Tensor]

    def sublayer(self, name, x, h, out):
        if not name.endswith("feed_forward"):
            return out
        s, stack, layer = self.source, *name.split(".")[:2]
        real = self.mask[..., None].double()
        mean = x[:, 0] if stack == "decoder" else (x * real).sum(1) / real.sum(1)
        centred = mean - mean.mean(-1, keepdim=True)
        m = centred / (centred.pow(2).mean(-1, keepdim=True) + 1e-5).sqrt()
        z = torch.clamp(m @ s["inner"] + s["inner_bias"], min=0) @ s["outer"] + s["outer_bias"]
        trunk = {n.removeprefix("network.trunks.all."): v for n, v in s.items() if "trunks" in n}
        own = trunk["embeddings.layer"][int(layer), 0]
        hidden = torch.clamp(z @ trunk["inner.task"] + own @ trunk["inner.layer"] + trunk["inner_bias"], min=0)
        made = hidden @ trunk["outer"] + trunk["outer_bias"]
        made = made - made.mean(-1, keepdim=True)
        made = made / (made.pow(2).mean(-1, keepdim=True) + 1e-6).sqrt() * trunk["norm.weight"] + trunk["norm.bias"]

        def tensor(which: str, *shape: int) -> Tensor:
            head = f"network.heads.adapter__{which}"
            return (made @ s[f"{head}.weight"][0] + s[f"{head}.bias"][0]).reshape(len(x), *shape)

        d, b = x.shape[-1], 3
        inner = torch.clamp(torch.einsum("bsd,bdk->bsk", x, tensor("down", d, b)) + tensor("down_bias", 1, b), min=0)
        return out + torch.einsum("bsk,bkd->bsd", inner, tensor("up", b, d)) + tensor("up_bias", 1, d)


@pytest.mark.parametrize("kind", ["t5", "bart"])
def test_tensors_made_of_what_a_layer_reads_are_those_of_the_equations(kind):
    backbone = make_rough(kind)
    model = make_tuned(backbone, {"parts": [ADAPTER], "sources": {"read": SOURCE}})
    state = {name: value.double() for name, value in model.sources["read"].state_dict().items()}
    assert_agrees(model, [Read(backbone, source=state)] * 2)


@pytest.fixture(params=MAKERS)
def model(request) -> TunedModel:
    made = TunedModel.build(MAKERS[request.param](), method=METHOD, tasks=TASKS, seed=3).eval()
    disturb(made, size=0.3)
    return made


@pytest.fixture
def exact(model) -> TunedModel:
    """The same in float64, in which moved tensors blow no rounding up."""
    model.backbone.double()
    model.sources.double()
    return model


@torch.no_grad()
def test_rows_depend_on_what_they_hold_and_on_no_other_row(exact):
    model, rows = exact, batch()
    mixed = model(**rows).logits
    for number in range(4):
        length = int(rows["attention_mask"][number].sum())
        alone = {name: values[number : number + 1] for name, values in rows.items()}
        alone |= {name: alone[name][:, :length] for name in ("input_ids", "attention_mask")}
        torch.testing.assert_close(mixed[number : number + 1], model(**alone).logits, atol=1e-6, rtol=1e-6)
    assert torch.equal(model(**{**rows, "task_ids": (rows["task_ids"] + 1) % 3}).logits, mixed), "tasks have no say"
    made = model.sources["read"].at("encoder.1.feed_forward", torch.randn(2, 1, 32, dtype=torch.float64))["adapter.up"]
    assert not torch.allclose(made[0], made[1]), "rows that read something else have other tensors"


@torch.no_grad()
def test_cached_and_beam_generation_equal_uncached_decoding(model):
    rows = batch()
    inputs = {key: rows[key] for key in rows if key != "labels"}
    ids, rest = inputs.pop("input_ids"), {"min_new_tokens": 6, "max_new_tokens": 6, "do_sample": False}
    rest |= {"forced_bos_token_id": None, "forced_eos_token_id": None}
    cached = model.generate(ids, **inputs, **rest)
    assert torch.equal(cached, decode_step_by_step(model, rows, 6)[:, : cached.shape[1]])
    assert torch.equal(*[model.generate(ids, **inputs, **rest, num_beams=3, use_cache=use) for use in (True, False)])


@torch.no_grad()
def test_it_is_saved_and_stays_made_in_a_baked_task(model, tmp_path):
    rows = batch()
    model.save_pretrained(tmp_path)
    kind = "bart" if model.backbone.config.model_type == "bart" else "t5"
    loaded = TunedModel.from_pretrained(tmp_path, backbone=MAKERS[kind]())
    assert torch.equal(loaded(**rows).logits, model(**rows).logits)
    one = {**rows, "task_ids": torch.zeros(4, dtype=torch.long)}
    baked = bake(model, TASKS[0])
    assert torch.equal(baked(**one).logits, model(**one).logits)
    assert baked.num_trainable() == model.num_trainable(), "what differs from row to row is not kept as a task's"
    baked.detach()


def test_all_of_it_learns_and_recomputation_changes_nothing():
    model = TunedModel.build(make_t5(), method=METHOD, tasks=TASKS).train()
    disturb(model)
    model(**batch()).loss.backward()
    gradients = [p.grad.clone() for _, p in model.trainable_parameters()]
    assert all(gradient.abs().max() > 0 for gradient in gradients)
    model.zero_grad()
    model.gradient_checkpointing_enable()
    model(**batch()).loss.backward()
    torch.testing.assert_close([p.grad for _, p in model.trainable_parameters()], gradients)


def test_the_setting_survives_and_what_it_cannot_do_is_refused():
    chosen = methods.get(METHOD)
    assert chosen.to_dict()["sources"]["read"]["made_of"] == "input"
    assert methods.method_from_dict(chosen.to_dict()).source("read") == chosen.source("read")
    with pytest.raises(UserError, match="tensors are made of"):
        methods.get({**METHOD, "sources": {"read": {**SOURCE, "made_of": "inputs"}}})
    for part, words in (
        ({"tuner": {"type": "lora", "rank": 2}, "at": ["wo"]}, "64 wide"),
        ({"tuner": {"type": "phm_adapter", "bottleneck": 8}, "at": ["feed_forward"]}, "'rule' of part 'phm_adapter'"),
    ):
        with pytest.raises(UserError, match=words):
            TunedModel.build(
                make_t5(), method={"parts": [{**part, "source": "read"}], "sources": {"read": SOURCE}}, tasks=["a"]
            )
