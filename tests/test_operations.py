"""A backbone as a list of operations: the same list for every family, and every operation of it really runs."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

import pytest
import torch
import transformers
from comparison import make_rough
from small_models import make_bart, make_t5
from tiny_families import CONFIGS, GATED, T5_LIKE, make_tiny

from hyperpelt.backbones.families import FAMILIES
from hyperpelt.errors import UserError
from hyperpelt.model.tuned import TunedModel
from hyperpelt.operations import list_operations, select

# Families whose stacks end in a norm of their own, and those that norm the embedded input.
FINAL_NORM = T5_LIKE | {"mbart", "pegasus", "blenderbot", "m2m_100"}
EMBEDDING_NORM = {"bart", "mbart", "blenderbot-small", "plbart"}
EVERYWHERE = {
    "hyperpelt": {"name": "hyperpelt", "prefix_length": 3, "bottleneck": 4, "prefix_hidden": 8},
    "lora": {"name": "lora", "at": ["projections"]},
    "ia3": "ia3",
    "houlsby": {"name": "houlsby", "bottleneck": 4},
}


def names_in_order(family: str) -> list[str]:
    """The documented order, written out."""
    config, inner = CONFIGS[family](), ["wi_0", "wi_1"] if family in GATED else ["wi"]
    layers = {
        "encoder": getattr(config, "num_layers", 0) if family in T5_LIKE else config.encoder_layers,
        "decoder": config.num_decoder_layers if family in T5_LIKE else config.decoder_layers,
    }
    found = []
    for stack in ("encoder", "decoder"):
        found.append(f"{stack}.embedding")
        found += [f"{stack}.embedding_norm"] * (family in EMBEDDING_NORM)
        for layer in range(layers[stack]):
            found.append(f"{stack}.{layer}.block")
            for site in ("self_attention", "cross_attention")[: 1 if stack == "encoder" else 2]:
                found += [f"{stack}.{layer}.{site}{end}" for end in ("", ".q", ".k", ".v", ".o", ".norm")]
            found += [f"{stack}.{layer}.feed_forward"]
            found += [f"{stack}.{layer}.feed_forward.{end}" for end in (*inner, "hidden", "wo", "norm")]
        found += [f"{stack}.final_norm"] * (family in FINAL_NORM)
    return [*found, "decoder.head"]


def meta(family: str) -> torch.nn.Module:
    with torch.device("meta"):
        return transformers.AutoModelForSeq2SeqLM.from_config(CONFIGS[family]())


@pytest.mark.parametrize("family", CONFIGS)
def test_operations_come_in_the_documented_order_without_weights(family):
    operations = list_operations(meta(family))
    assert [op.name for op in operations] == names_in_order(family)


@pytest.mark.parametrize("family", CONFIGS)
def test_operations_know_their_widths_and_modules(family):
    model = meta(family)
    config = model.config
    for op in list_operations(model):
        module = model.get_submodule(op.path)
        if isinstance(module, torch.nn.Linear) and op.kind not in ("hidden", "feed_forward"):
            assert (op.d_in, op.d_out, op.has_bias) == (
                module.in_features,
                module.out_features,
                module.bias is not None,
            )
        if op.kind == "hidden":
            sizes = {
                "encoder": getattr(config, "encoder_ffn_dim", 48),
                "decoder": getattr(config, "decoder_ffn_dim", 48),
            }
            assert op.d_in == op.d_out == sizes[op.stack]
        if op.kind.endswith("attention"):
            assert op.num_heads * op.d_head == (24 if family in T5_LIKE else 32)
            assert op.num_heads == (4 if family in T5_LIKE or op.stack == "encoder" else 2)
        if op.kind in ("block", "feed_forward", "embedding"):
            assert op.d_in == op.d_out == 32
        pre_norm = family in FINAL_NORM
        if op.kind in ("self_attention", "cross_attention", "feed_forward"):
            assert (op.residual_path is not None) == pre_norm


def test_counts_by_kind_at_the_published_sizes():
    """T5-base has 36 attentions, 24 feed-forward networks and 62 norms; BART-base 18, 12 and 32."""
    with torch.device("meta"):
        t5 = transformers.T5ForConditionalGeneration(
            transformers.T5Config(d_model=768, d_ff=3072, num_layers=12, num_heads=12)
        )
        sizes = {"encoder_layers": 6, "decoder_layers": 6, "encoder_ffn_dim": 3072, "decoder_ffn_dim": 3072}
        bart = transformers.BartForConditionalGeneration(
            transformers.BartConfig(vocab_size=50265, d_model=768, **sizes)
        )
    expected = {
        "self_attention": 24,
        "cross_attention": 12,
        "feed_forward": 24,
        "hidden": 24,
        "block": 24,
        "embedding": 2,
        "head": 1,
    }
    expected |= {"q": 36, "k": 36, "v": 36, "o": 36, "wi": 24, "wo": 24, "norm": 60, "final_norm": 2}
    assert Counter(op.kind for op in list_operations(t5)) == expected
    half = {kind: count // 2 for kind, count in expected.items()} | {"embedding": 2, "embedding_norm": 2, "head": 1}
    del half["final_norm"]
    assert Counter(op.kind for op in list_operations(bart)) == half
    assert sum(len(list(t5.get_submodule(op.path).parameters())) for op in select(list_operations(t5), "norms")) == 62


# Every family end to end


def rows() -> dict[str, torch.Tensor]:
    ids = torch.tensor([[7, 8, 9, 10, 2], [11, 12, 2, 1, 1], [13, 14, 15, 2, 1]])
    mask = torch.tensor([[1, 1, 1, 1, 1], [1, 1, 1, 0, 0], [1, 1, 1, 1, 0]])
    labels = torch.tensor([[5, 6, 2], [7, 2, -100], [8, 9, 2]])
    return {"input_ids": ids, "attention_mask": mask, "labels": labels, "task_ids": torch.tensor([0, 1, 0])}


@pytest.mark.parametrize("method", EVERYWHERE)
@pytest.mark.parametrize("family", CONFIGS)
def test_every_family_is_tuned_at_every_operation_whatever_the_padding(family, method):
    """`build` asserts that each operation is reached exactly once; here each must matter and padding must not."""
    model = TunedModel.build(make_tiny(family), method=EVERYWHERE[method], tasks=["a", "b"]).eval()
    with torch.no_grad():
        for _, parameter in model.trainable_parameters():
            parameter.add_(torch.randn(parameter.shape, generator=torch.Generator().manual_seed(1)) * 0.1)
    batch = rows()
    output = model(**batch)
    output.loss.backward()
    for name, parameter in model.trainable_parameters():
        assert parameter.grad is not None, f"{name} plays no part"
        assert parameter.grad.abs().sum() > 0, f"{name} plays no part"
    tensors = model.sources[next(iter(model.sources))].groups
    if method in ("lora", "ia3", "houlsby"):
        for key in tensors:
            gradient = model.sources["per_task"].tensors[key.replace(".", "__")].grad
            idle = gradient.flatten(2).abs().amax(-1) == 0
            assert not idle.any(), f"{key}: no gradient at {idle.nonzero().tolist()} (task, operation)"
    wider = {**batch}
    for name, value in (("input_ids", 1), ("attention_mask", 0)):
        wider[name] = torch.nn.functional.pad(batch[name], (0, 6), value=value)
    with torch.no_grad():
        torch.testing.assert_close(model(**wider).logits, output.logits, atol=2e-5, rtol=1e-4)


@pytest.mark.parametrize("family", CONFIGS)
def test_encoder_prefix_changes_the_encoders_output_in_every_family(family):
    backbone, batch = make_tiny(family), rows()
    ids, mask = batch["input_ids"], batch["attention_mask"]
    part = {"tuner": {"type": "prefix", "length": 3}, "at": "encoder.*.self_attention"}
    with torch.no_grad():
        bare = backbone.get_encoder()(input_ids=ids, attention_mask=mask).last_hidden_state
        model = TunedModel.build(backbone, method={"parts": [part]}, tasks=["a", "b"]).eval()
        with model.running(batch["task_ids"], ids, mask):
            states = backbone.get_encoder()(input_ids=ids, attention_mask=mask).last_hidden_state
        wide_ids, wide_mask = (torch.nn.functional.pad(t, (0, 4)) for t in (ids, mask))
        with model.running(batch["task_ids"], wide_ids, wide_mask):
            padded = backbone.get_encoder()(input_ids=wide_ids, attention_mask=wide_mask).last_hidden_state
    real = mask.bool()
    assert (states - bare)[real].abs().amax() > 1e-2
    torch.testing.assert_close(padded[:, : ids.shape[1]][real], states[real], atol=2e-5, rtol=1e-4)


@pytest.mark.parametrize("family", ["marian", "umt5", "pegasus"])
def test_families_generate_for_a_batch_of_mixed_tasks(family):
    model = TunedModel.build(make_tiny(family), method=EVERYWHERE["hyperpelt"], tasks=["a", "b"])
    batch = rows()
    del batch["labels"]
    options = {"max_new_tokens": 4, "min_new_tokens": 4}
    cached, uncached = (model.generate(batch.pop("input_ids"), **batch, **options, use_cache=c) for c, batch in
                        ((True, {**batch}), (False, {**batch})))  # fmt: skip
    assert torch.equal(cached, uncached)


def embedded_words(backbone, ids: torch.Tensor) -> torch.Tensor:
    """What an encoder makes of ids before positions join: rows of its table, times sqrt(d) where the family says so."""
    scale = backbone.config.d_model**0.5 if getattr(backbone.config, "scale_embedding", False) else 1.0
    return backbone.get_input_embeddings().weight[ids] * scale


@pytest.mark.parametrize("family", CONFIGS)
@torch.no_grad()
def test_a_prompt_of_words_is_those_words_typed(family):
    backbone, batch, words = make_tiny(family), rows(), torch.tensor([20, 21, 22])
    inputs = {name: batch[name] for name in ("input_ids", "attention_mask")}
    inputs["decoder_input_ids"] = batch["labels"].clamp(min=0)
    typed = {**inputs, "input_ids": torch.cat([words.expand(3, 3), inputs["input_ids"]], dim=1)}
    typed["attention_mask"] = torch.nn.functional.pad(inputs["attention_mask"], (3, 0), value=1)
    expected = backbone(**typed, use_cache=False).logits
    model = TunedModel.build(backbone, method={"name": "prompt-tuning", "length": 3}, tasks=["a"]).eval()
    prompt = model.sources["per_task"].tensors["prompt__rows"]
    real = embedded_words(backbone, torch.arange(96))
    assert 0.7 < prompt.std() / real.std() < 1.4, "a fresh prompt looks like embedded words"
    prompt.copy_(embedded_words(backbone, words))
    torch.testing.assert_close(model(**inputs).logits, expected, atol=2e-5, rtol=1e-4)


@pytest.mark.parametrize("family", ["mbart", "pegasus", "marian", "blenderbot-small"])
@torch.no_grad()
def test_images_of_other_rows_change_nothing_where_embeddings_are_scaled(family):
    backbone, batch = make_tiny(family), rows()
    method = {"name": "visual-tokens", "beside": "lora", "feature_dim": 12, "cells": 4}
    model = TunedModel.build(backbone, method=method, tasks=["a", "b"]).eval()
    alone = model(**batch).logits
    image = torch.randn(1, 4, 12, generator=torch.Generator().manual_seed(0))
    beside = model(**batch, visual=image, visual_rows=torch.tensor([0])).logits
    torch.testing.assert_close(beside[1:], alone[1:], atol=2e-5, rtol=1e-4)
    assert (beside[0] - alone[0]).abs().max() > 1e-2


# What is refused


def long_t5() -> transformers.PreTrainedModel:
    sizes = {"vocab_size": 96, "d_model": 32, "d_ff": 48, "d_kv": 8, "num_layers": 2, "num_heads": 4, "local_radius": 4}
    return transformers.LongT5ForConditionalGeneration(transformers.LongT5Config(**sizes)).eval()


def gpt2() -> transformers.PreTrainedModel:
    return transformers.GPT2LMHeadModel(transformers.GPT2Config(vocab_size=96, n_embd=32, n_layer=1, n_head=2))


def bert() -> transformers.PreTrainedModel:
    sizes = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 48}
    return transformers.BertModel(transformers.BertConfig(vocab_size=96, **sizes))


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (long_t5, r"Unknown backbone family .* 'longt5'. Known: .*'?t5"),
        (gpt2, "Expected an encoder-decoder backbone .* got GPT2LMHeadModel"),
        (bert, "Expected an encoder-decoder backbone .* got BertModel"),
        (lambda: torch.nn.Linear(2, 2), "Expected an encoder-decoder backbone .* got Linear"),
    ],
)
def test_other_models_are_refused_by_name(make, words):
    model = make()
    with pytest.raises(UserError, match=words):
        list_operations(model)


def test_a_family_that_ignores_the_attention_function_is_found_out_when_it_is_built(monkeypatch):
    """LongT5 accepts the name of our attention function and never calls it: were it listed, `build` would refuse it."""
    t5 = next(family for family in FAMILIES if "t5" in family.model_types)
    attention = {**t5.attention, "encoder": {"self_attention": "layer.0.LocalSelfAttention"}}
    listed = replace(t5, model_types=("longt5",), attention=attention)
    monkeypatch.setattr("hyperpelt.backbones.families.FAMILIES", (listed,))
    with pytest.raises(UserError, match=r"LongT5ForConditionalGeneration did not reach \d+ of 6"):
        TunedModel.build(long_t5(), method={"parts": [{"tuner": {"type": "prefix"}, "at": "attention"}]}, tasks=["a"])


# Choosing operations


@pytest.mark.parametrize(
    ("patterns", "expected"),
    [
        (["feed_forward", "!*.1.*"], ["encoder.0.feed_forward", "decoder.0.feed_forward"]),
        ("encoder.*.feed_forward", ["encoder.0.feed_forward", "encoder.1.feed_forward"]),
        (["decoder.1.cross_attention.[qv]"], ["decoder.1.cross_attention.q", "decoder.1.cross_attention.v"]),
        (["*.norm", "!*attention.norm", "!encoder.*", "!decoder.0.*"], ["decoder.1.feed_forward.norm"]),
        (["attention", "!self_attention", "!decoder.1.*"], ["decoder.0.cross_attention"]),
        (["decoder.final_norm", "encoder.embedding"], ["encoder.embedding", "decoder.final_norm"]),
        (["hidden", "!decoder.*", "!nothing.at.all", "!*.1.*"], ["encoder.0.feed_forward.hidden"]),
        (["block", "!*"], []),
    ],
)  # fmt: skip
def test_patterns_choose_operations_in_the_models_own_order(patterns, expected):
    operations = list_operations(make_t5())
    assert [op.name for op in select(operations, patterns)] == expected


def test_families_of_kinds_cover_all_their_kinds():
    operations = list_operations(make_rough("t5-gated"))
    assert {op.kind for op in select(operations, "projections")} == {"q", "k", "v", "o", "wi_0", "wi_1", "wo"}
    assert {op.kind for op in select(operations, "attention")} == {"self_attention", "cross_attention"}
    assert {op.kind for op in select(list_operations(make_bart()), "norms")} == {"norm", "embedding_norm"}


@pytest.mark.parametrize("pattern", ["feedforward", "encoder.7.*", "wi_0", "encoder.*.cross_attention"])
def test_a_pattern_that_matches_nothing_is_an_error_that_shows_the_kinds(pattern):
    with pytest.raises(UserError) as error:
        select(list_operations(make_t5()), pattern)
    assert f"matches {pattern!r}" in str(error.value)
    assert "cross_attention" in str(error.value)
    assert "feed_forward" in str(error.value)
