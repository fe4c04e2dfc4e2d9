"""The visual path: image features change the rows they belong to, exactly as the equations say, and no other row."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from small_models import make_t5
from support import batch

from hyperpelt import TunedModel, UserError, methods
from hyperpelt.export.baking import bake, export_peft
from hyperpelt.methods.assemble import count_trainable
from hyperpelt.operations import list_operations
from hyperpelt.tuners import Adapter, Prefix
from hyperpelt.vision import VisualSpec
from hyperpelt.weights import VisualSource

SPEC = VisualSpec(dim=10, grid=(2, 2), encoder="mini-vision", fingerprint="f" * 64)
SMALL = {"prefix_length": 3, "bottleneck": 4, "visual_bottleneck": 4, "prefix_hidden": 6, "visual_prefix_hidden": 6}
METHODS = {
    "vl-hyperpelt": {"name": "vl-hyperpelt", **SMALL},
    "visual-tokens": {"name": "visual-tokens", "beside": "prompt-tuning"},
    "memvp": {"name": "memvp", "beside": "lora", "hidden": 6, "projector_scale": 1.0, "scale": 1.0},
    "images alone": {
        "parts": [
            {"tuner": {"type": "gate", "tuner": {"type": "adapter"}}, "at": "feed_forward", "source": "v"},
            {"tuner": {"type": "lora", "rank": 2}, "at": ["q", "wo"], "source": "v"},
            {"tuner": {"type": "scale"}, "at": "hidden", "source": "v"},
            {"tuner": {"type": "prefix", "length": 4}, "at": "encoder.*.self_attention", "source": "v"},
            {"tuner": {"type": "special_tokens"}, "at": "encoder.*.block", "source": "v"},
        ],
        "sources": {"v": {"type": "visual_hypernetwork", "network": {"init": "fan_in"}}},
    },
}  # fmt: skip
# Two images for row 2, one for rows 0 and 1, none for row 3; named in no order of rows.
OWNERS = torch.tensor([2, 0, 2, 1])


def _named(method):
    return METHODS.get(method, method) if isinstance(method, str) else method


def seeing(backbone, method, *, size=0.1):
    """A tuned model of three tasks, its tensors moved away from where they start."""
    model = TunedModel.build(backbone, method=_named(method), tasks=["a", "b", "c"], image_encoder=SPEC)
    generator = torch.Generator().manual_seed(9)
    with torch.no_grad():
        for _, parameter in model.trainable_parameters():
            parameter.add_(torch.randn(parameter.shape, generator=generator) * size)
    return model.eval()


def pictures(count=4, seed=0):
    return torch.randn(count, 4, 10, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("method", METHODS)
def test_a_row_without_images_keeps_every_bit_beside_rows_with_images(backbone, method):
    rows, model = batch(), seeing(backbone, method)
    with torch.no_grad():
        blind = model(**rows)
        seen = model(**rows, visual=pictures(), visual_rows=OWNERS)
        others = model(**rows, visual=pictures(seed=1), visual_rows=OWNERS)
    assert torch.equal(seen.logits[3], others.logits[3])
    assert torch.equal(seen.row_loss[3], others.row_loss[3])
    if method == "visual-tokens":  # tokens widen the batch, which is padding for the others
        torch.testing.assert_close(seen.logits[3], blind.logits[3], atol=2e-5, rtol=1e-4)
    else:
        assert torch.equal(seen.logits[3], blind.logits[3])
    for changed in (seen.logits - blind.logits, seen.logits - others.logits):
        assert changed[:3].abs().amax(dim=(1, 2)).min() > 1e-4, "some row does not see its image"


@pytest.mark.parametrize("method", METHODS)
def test_a_row_with_images_gets_in_a_batch_what_it_gets_alone(backbone, method):
    rows, model, features = batch(), seeing(backbone, method), pictures()
    with torch.no_grad():
        together = model(**rows, visual=features, visual_rows=OWNERS)
        for i in range(4):
            length = int(rows["attention_mask"][i].sum())
            alone = model(
                rows["input_ids"][i : i + 1, :length],
                rows["attention_mask"][i : i + 1, :length],
                rows["labels"][i : i + 1],
                rows["task_ids"][i : i + 1],
                visual=features[i == OWNERS],
                visual_rows=torch.zeros(int((i == OWNERS).sum()), dtype=torch.long),
            )
            torch.testing.assert_close(together.logits[i : i + 1], alone.logits, atol=5e-5, rtol=1e-4)
        swapped = model(**rows, visual=features[[2, 1, 0, 3]], visual_rows=OWNERS)
        interleaved = model(**rows, visual=features[[1, 3, 0, 2]], visual_rows=OWNERS[[1, 3, 0, 2]])
    assert (swapped.logits[2] - together.logits[2]).abs().max() > 1e-4, "which image comes first plays no part"
    torch.testing.assert_close(interleaved.logits, together.logits, atol=5e-5, rtol=1e-4)


def test_a_norm_that_images_tune_is_the_plain_one_without_any(backbone):
    part = {"tuner": {"type": "norm"}, "at": "encoder.*.self_attention.norm", "source": "v"}
    sources = {"v": {"type": "visual_hypernetwork", "network": {"init": "fan_in"}}}
    rows, model = batch(), seeing(backbone, {"parts": [part], "sources": sources})
    with torch.no_grad():
        blind = model(**rows).logits
        seen = model(**rows, visual=pictures(), visual_rows=OWNERS).logits
    assert torch.equal(seen[3], blind[3])
    assert (seen - blind)[:3].abs().amax(dim=(1, 2)).min() > 1e-4


def test_one_image_a_row_needs_no_rows_named(backbone):
    rows, model = batch(), seeing(backbone, "vl-hyperpelt")
    with torch.no_grad():
        short, named = (model(**rows, visual=pictures(), visual_rows=r).logits for r in (None, torch.arange(4)))
    assert torch.equal(short, named)


# Identity and blindness


@pytest.mark.parametrize("method", ["vl-hyperpelt", "memvp"])
def test_fresh_visual_adapters_and_silent_memories_change_no_bit(backbone, method):
    """With images in sight: what is added starts at exactly nothing, and a prefix of no rows is no prefix."""
    settings = {
        "vl-hyperpelt": {"name": method, **SMALL, "prefix_length": 0, "visual_prefix": False},
        "memvp": {"name": method, "scale": 0.0},
    }
    rows = {**batch(), "task_ids": torch.zeros(4, dtype=torch.long)}
    ids, mask, labels = (rows[name] for name in ("input_ids", "attention_mask", "labels"))
    model = TunedModel.build(backbone, method=settings[method], tasks=["a"], image_encoder=SPEC).eval()
    with torch.no_grad():
        tuned = model(**rows, visual=pictures(), visual_rows=OWNERS).logits
        model.detach()
        bare = backbone(ids, attention_mask=mask, decoder_input_ids=model.shift_right(labels)).logits
    assert torch.equal(tuned, bare)


def test_blind_is_the_text_part_bit_for_bit(backbone):
    rows, model = batch(), seeing(backbone, "vl-hyperpelt")
    text = {key: value for key, value in METHODS["vl-hyperpelt"].items() if not key.startswith("visual")}
    with torch.no_grad():
        blind = model(**rows).logits
        model.detach()
        other = TunedModel.build(backbone, method={**text, "name": "hyperpelt"}, tasks=["a", "b", "c"]).eval()
        names = other.method_state().keys()
        other.load_method_state({name: value for name, value in model.method_state().items() if name in names})
        assert torch.equal(other(**rows).logits, blind)
        other.detach()
    with pytest.raises(UserError, match="'hyperpelt' reads no images, got features of 4: choose a method"):
        other.forward(**rows, visual=pictures(), visual_rows=OWNERS)


def test_without_images_what_reads_them_gets_a_gradient_of_zero(backbone):
    """So that with several processes one whose share is text alone still takes part in the sum."""
    model = seeing(backbone, "vl-hyperpelt").train()
    model(**batch()).loss.backward()
    visual = {name: p.grad for name, p in model.trainable_parameters() if name.startswith("visual.")}
    assert visual
    assert all(grad is not None and not grad.any() for grad in visual.values())
    model.zero_grad()
    model(**batch(), visual=pictures(), visual_rows=OWNERS).loss.backward()
    assert all(p.grad.abs().max() > 0 for name, p in model.trainable_parameters() if name in visual)
    assert all(p.grad is None for p in model.backbone.parameters())


# Decoding and scoring


@pytest.mark.parametrize("method", METHODS)
def test_cached_and_beam_generation_with_images_equal_uncached_decoding(backbone, method):
    rows, model = batch(), seeing(backbone, method)
    shown = {"visual": pictures(), "visual_rows": OWNERS}
    inputs = {"attention_mask": rows["attention_mask"], "task_ids": rows["task_ids"], **shown}
    options = {"max_new_tokens": 5, "min_new_tokens": 5, "forced_eos_token_id": None, "forced_bos_token_id": None}
    config = model.backbone.config
    ids = torch.full((4, 1), config.decoder_start_token_id)
    with torch.no_grad():
        for _ in range(5):
            logits = model(rows["input_ids"], **inputs, decoder_input_ids=ids).logits[:, -1]
            logits[:, config.eos_token_id] = -torch.inf
            ids = torch.cat([ids, logits.argmax(-1, keepdim=True)], dim=1)
    assert torch.equal(model.generate(rows["input_ids"], **inputs, **options), ids)
    beams, slow = (
        model.generate(rows["input_ids"], **inputs, **options, num_beams=3, use_cache=cache) for cache in (True, False)
    )
    assert torch.equal(beams, slow)
    for i in range(4):
        mine = {
            "visual": pictures()[i == OWNERS],
            "visual_rows": torch.zeros(int((i == OWNERS).sum()), dtype=torch.long),
        }
        row = {name: rows[name][i : i + 1] for name in ("attention_mask", "task_ids")}
        alone = model.generate(rows["input_ids"][i : i + 1], **row, **mine, **options, num_beams=3)
        assert torch.equal(alone[0], beams[i])


@pytest.mark.parametrize("method", METHODS)
def test_candidates_are_scored_under_the_images_of_their_row(backbone, method):
    rows, model, features = batch(), seeing(backbone, method), pictures()
    candidates = torch.tensor([[4, 5, 1], [6, 1, -100], [7, 8, 1], [9, 1, -100], [4, 5, 1], [6, 1, -100]])
    owners = torch.tensor([2, 2, 1, 0, 3, 3])
    shown = {"visual": features, "visual_rows": OWNERS}
    inputs = (rows["input_ids"], rows["attention_mask"], rows["task_ids"])
    scored = model.token_log_probs(*inputs, candidates, owners, **shown).sum(1)
    with torch.no_grad():
        whole = {
            row: model(*(t[row : row + 1].expand(6, -1) for t in inputs[:2]), candidates, inputs[2][row].expand(6),
                       visual=features[row == OWNERS].repeat(6, 1, 1),
                       visual_rows=torch.arange(6).repeat_interleave(int((row == OWNERS).sum()))).row_loss
            for row in range(4)
        }  # fmt: skip
    each = torch.stack([whole[int(row)][i] for i, row in enumerate(owners)])
    torch.testing.assert_close(scored, -each, atol=2e-4, rtol=1e-4)


# Training


@pytest.mark.parametrize("method", METHODS)
def test_activation_checkpointing_with_images_changes_nothing(backbone, method):
    model = seeing(backbone, method).train()

    def run():
        loss = model(**batch(), visual=pictures(), visual_rows=OWNERS).loss + model(**batch(seed=2)).loss
        loss.backward()
        gradients = {name: p.grad.clone() for name, p in model.trainable_parameters()}
        model.zero_grad()
        return loss.detach(), gradients

    plain_loss, plain = run()
    model.gradient_checkpointing_enable()
    loss, recomputed = run()
    assert torch.equal(loss, plain_loss)
    for name, gradient in plain.items():
        assert (recomputed[name] - gradient).abs().max() <= 1e-5 * gradient.abs().max() + 1e-9, name


COMPILED = """
import sys, torch
sys.path[:0] = [{tests!r}, {promises!r}]
from small_models import make_t5
from support import batch, disturb
from hyperpelt import TunedModel
from hyperpelt.vision import VisualSpec
from hyperpelt.weights import VisualSource

spec = VisualSpec(dim=10, grid=(2, 2))
method = {{"name": "vl-hyperpelt", "prefix_length": 3, "bottleneck": 4, "prefix_hidden": 6}}
model = TunedModel.build(make_t5(), method=method, tasks=["a", "b", "c"], image_encoder=spec).train()
disturb(model)
compiled = torch.compile(model, fullgraph=True, backend="aot_eager", dynamic=False)
for seed in range(2):
    pictures, grads = torch.randn(4, 4, 10, generator=torch.Generator().manual_seed(seed)), []
    for run in (model, compiled):
        output = run(**batch(seed=seed), visual=pictures)
        output.loss.backward()
        grads.append((output.loss.detach(), [p.grad.clone() for _, p in model.trainable_parameters()]))
        model.zero_grad(set_to_none=True)
    (plain_loss, plain), (loss, made) = grads
    torch.testing.assert_close(loss, plain_loss, atol=1e-6, rtol=1e-6)
    for a, b in zip(plain, made):
        torch.testing.assert_close(a, b, atol=1e-6, rtol=1e-4)
print("graphs", torch._dynamo.utils.counters["stats"]["unique_graphs"])
"""


def test_one_image_a_row_compiles_into_one_graph():
    """In a process of its own, without the checks of shapes that the tests install."""
    here = Path(__file__).parent
    code = COMPILED.format(tests=str(here.parent), promises=str(here))
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-3000:]
    assert done.stdout.strip().endswith("graphs 1"), done.stdout


def test_features_are_measured_in_the_units_that_were_given_and_saved(tmp_path):
    model = seeing(make_t5(), "vl-hyperpelt")
    many = pictures(50, seed=4) * 30 + 7
    many[..., 3] = 5.0  # never varies
    model.standardise_features(many)
    measured = model.sources["visual"].measured(many)
    varied = [i for i in range(10) if i != 3]
    assert measured[..., varied].mean((0, 1)).abs().max() < 1e-5
    torch.testing.assert_close(measured[..., varied].std((0, 1)), torch.ones(9), atol=1e-2, rtol=1e-2)
    assert not measured[..., 3].any()
    before = model(**batch(), visual=many[:4], visual_rows=OWNERS).logits
    model.backbone_name = ""
    model.save_pretrained(tmp_path)
    model.detach()
    again = TunedModel.from_pretrained(tmp_path, backbone=make_t5())
    assert torch.equal(again(**batch(), visual=many[:4], visual_rows=OWNERS).logits, before)


@pytest.mark.parametrize(("method", "mapping"), [("vl-hyperpelt", "visual.mapping"), ("memvp", "projector.projectors")])
def test_matrices_that_read_features_take_the_rate_over_their_width(method, mapping):
    model = seeing(make_t5(), method)
    scales, trained = model.learning_rate_scales(), dict(model.trainable_parameters())
    assert scales.keys() <= trained.keys()
    assert next(scale for name, scale in scales.items() if name.startswith(mapping)) == 1 / SPEC.dim
    if method == "vl-hyperpelt":
        text = {name.removeprefix("hypernetwork.") for name in scales if name.startswith("hypernetwork.")}
        seen = {name.removeprefix("visual.network.") for name in scales if name.startswith("visual.network.")}
        assert {name.split(".")[0] for name in text} == {name.split(".")[0] for name in seen}


# Adapting


@pytest.mark.parametrize(
    "method",
    [METHODS["vl-hyperpelt"], {"name": "visual-tokens", "beside": {"name": "hyperpelt", "prefix_length": 3}}],
    ids=["vl-hyperpelt", "visual-tokens"],
)
def test_adapting_the_hypernetwork_adapts_what_makes_tensors_of_images_too(backbone, method):
    model = seeing(backbone, method)
    (seer,) = [source for source in model.sources.values() if isinstance(source, VisualSource)]
    visual = {id(parameter) for parameter in seer.parameters()}

    def trained() -> set[int]:
        return {id(parameter) for _, parameter in model.trainable_parameters()}

    model.train_only("hypernetwork", ["b"])
    assert visual
    assert visual <= trained() < {id(p) for p in model.sources.parameters()}, "norms stay as they are"
    before = {name: value.clone() for name, value in seer.named_parameters()}
    model(**batch(), visual=pictures(), visual_rows=OWNERS).loss.backward()
    torch.optim.SGD([p for _, p in model.trainable_parameters()], lr=1.0).step()
    for name, value in seer.named_parameters():
        assert not torch.equal(value, before[name]), name
    model.train_only("embedding", ["b"])
    assert not visual & trained()


def test_a_projector_alone_is_no_hypernetwork(backbone):
    with pytest.raises(UserError, match="has no hypernetwork"):
        seeing(backbone, "visual-tokens").train_only("hypernetwork", ["b"])


# Files


@pytest.mark.parametrize("method", METHODS)
def test_a_saved_model_knows_its_features_and_encoder(tmp_path, method):
    model = seeing(make_t5(), method)
    expected = model(**batch(), visual=pictures(), visual_rows=OWNERS).logits
    model.save_pretrained(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    assert config["visual"] == SPEC.to_dict()
    again = TunedModel.from_pretrained(tmp_path, backbone=make_t5())
    assert again.visual == SPEC
    assert torch.equal(again(**batch(), visual=pictures(), visual_rows=OWNERS).logits, expected)
    with pytest.raises(UserError, match=r"4 cells of width 10 .* got 4 cells of width 338"):
        again.image_encoder()  # the encoder of that name gives other features than the model was trained on


def test_a_baked_task_still_sees(tmp_path):
    model, rows = seeing(make_t5(), "vl-hyperpelt"), batch()
    one = {**rows, "task_ids": torch.full((4,), 1)}
    expected = model(**one, visual=pictures(), visual_rows=OWNERS).logits
    baked = bake(model, "b")
    got = baked(**{**one, "task_ids": torch.zeros(4, dtype=torch.long)}, visual=pictures(), visual_rows=OWNERS).logits
    assert torch.equal(got, expected)
    assert set(baked.sources) == {"baked", "visual"}
    with pytest.raises(UserError, match="PEFT cannot hold the visual part"):
        export_peft(model, "b", tmp_path)


def test_an_encoder_by_name_shapes_the_method(tmp_path):
    model = TunedModel.build(make_t5(), method=METHODS["vl-hyperpelt"], tasks=["a"], image_encoder="mini-vision")
    assert (model.visual.encoder, model.visual.cells, model.visual.dim) == ("mini-vision", 49, 338)
    encoder = model.image_encoder()
    assert encoder.spec == model.visual
    assert TunedModel.build(make_t5(), method="lora", tasks=["a"], image_encoder="mini-vision").visual is None


@pytest.mark.usefixtures("unchecked_shapes")
def test_what_does_not_fit_is_said():
    model = seeing(make_t5(), "vl-hyperpelt")
    for shown, message in (
        ({"visual": pictures()[:, :, :9]}, r"Expected image features of shape \[images, 4, 10\] .* got \[4, 4, 9\]"),
        ({"visual": pictures()[:3]}, "Give `visual_rows`: 3 images for 4 rows"),
        ({"visual": pictures(), "visual_rows": torch.tensor([0, 1, 2, 4])}, "Expected a row from 0 to 3 for each of 4"),
        ({"visual": pictures(), "visual_rows": torch.tensor([0, 1, 2])}, "Expected a row from 0 to 3 for each of 4"),
        ({"visual": pictures(), "visual_rows": torch.tensor([1, 1, 1, 2])}, "A row has 3 images, the method takes 2"),
    ):
        with pytest.raises(UserError, match=message):
            model(**batch(), **shown)
    for tuner, place, source, message in (
        (Adapter(), "feed_forward", "visual_projector", r"'visual_projector' makes rows .* not the tensor 'down'"),
        (Prefix(length=3), "attention", "visual_hypernetwork", "has length 3, but an image has 49 grid cells"),
    ):
        parts = [{"tuner": tuner.to_dict(), "at": place, "source": source}]
        with pytest.raises(UserError, match=message):
            TunedModel.build(make_t5(), method={"parts": parts}, tasks=["a"])
    with pytest.raises(UserError, match="text-only method that keeps the backbone frozen, got 'full'"):
        methods.get({"name": "memvp", "beside": "full"})


# Counts


def test_counts_on_t5_base(t5_base):
    def count(spec, tasks=8):
        return count_trainable(methods.get(spec), t5_base, list_operations(t5_base), tasks)

    # MemVP as published: 320 slots of CLIP-L's 1024 features through 128: 721,792.
    assert count({"name": "memvp", "cells": 320, "max_images": 1}, 1) == 721_792
    text, whole = count("hyperpelt"), count("vl-hyperpelt")
    t, h, e, g, d, m, b = 64, 128, 64, 49, 768, 512, 16
    mapping = 2048 * t + t + 2 * t
    trunk = 3 * t * h + h + h * e + e + 2 * e + g * t * (12 + 5)
    # Heads for keys and values of encoder-self, decoder-self and cross-attention.
    prefix = 3 * 2 * (e * m + m + m * d + d)
    adapter = (e + 1) * (2 * d * b + b + d + 1)
    assert whole - text == mapping + trunk + prefix + adapter
    assert (text, whole) == (4_371_153, 8_800_866)
    assert count("visual-tokens") == 6_021_585
    assert count("visual-tokens") - text == 2048 * d + d + 2 * d + 2 * g * d


@pytest.fixture(scope="module")
def t5_base():
    from transformers import T5Config, T5ForConditionalGeneration

    sizes = {"d_model": 768, "d_ff": 3072, "num_layers": 12, "num_heads": 12, "vocab_size": 32128}
    with torch.device("meta"):
        return T5ForConditionalGeneration(T5Config(**sizes))
