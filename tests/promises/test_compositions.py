"""Compositions that no method has: a row gets what it gets alone, written with or without a cache, by one beam or by
three; losses alone are those that come with logits; one task baked, merged, saved answers as the model does.

Each was once wrong in one of these.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import ClassVar

import pytest
import torch
from small_models import make_bart, make_t5
from support import TASKS, batch, decode_step_by_step, disturb
from test_every_method import one_row
from torch import Tensor

from hyperpelt.export.baking import bake
from hyperpelt.export.merging import merge
from hyperpelt.model.tuned import TunedModel
from hyperpelt.tuners import base as tuners_base
from hyperpelt.tuners.base import TensorSpec, Tuner

NETWORK = {"embedding_dim": 8, "hidden_dim": 8, "hyper_dim": 8, "init": "fan_in"}
SOURCES = {
    "visual": {"type": "visual_hypernetwork", "feature_dim": 6, "cells": 4, "network": NETWORK},
    "instance": {"type": "instance_hypernetwork", **NETWORK},
}
SELF_PROMPT = {"type": "self_prompt", "length": 3, "bottleneck": 8, "rank": 2}
TOKENS = {"type": "token_rows", "ids": [5, 9, 2]}
HALF = {"down": "per_task", "default": "visual"}
FAMILIES = {"t5": make_t5, "gated": partial(make_t5, feed_forward_proj="gated-gelu", tie_word_embeddings=False)}
FAMILIES["bart"] = make_bart


@dataclass(frozen=True, kw_only=True)
class LogitBias(Tuner):
    """A bias of the map to the vocabulary: a vector that rows pick, at a head that is asked at some positions alone."""

    type_name: ClassVar[str] = "logit_bias_of_tests"

    def tensors(self, operation):
        return {"bias": TensorSpec((operation.d_out,))}

    def __call__(self, site, tensors):
        return tensors["bias"].unsqueeze(1)


@pytest.fixture(autouse=True)
def _known(monkeypatch):
    """A tuner of these tests alone."""
    monkeypatch.setitem(tuners_base._TYPES, LogitBias.type_name, LogitBias)


def part(tuner: dict[str, object], *at: str, source: object = "per_task") -> dict[str, object]:
    return {"name": str(tuner["type"]), "tuner": tuner, "at": list(at), "source": source}


CASES: dict[str, tuple[str, list[dict[str, object]]]] = {
    "first position, rows parted by images": (
        "bart",
        [
            part({"type": "adaptive_prefix", "length": 3}, "attention"),
            part({"type": "prefix", "length": 4}, "attention", source="visual"),
        ],
    ),
    "self-prompts made of images": ("t5", [part(SELF_PROMPT, "self_attention", source="visual")]),
    "windows made of images": (
        "t5",
        [part({"type": "convolution", "bottleneck": 4}, "decoder.*.feed_forward", source="visual")],
    ),
    "half made of images": ("bart", [part({"type": "adapter", "bottleneck": 4}, "feed_forward", source=HALF)]),
    "tokens made of images": ("gated", [part(TOKENS, "embedding", "head", source="visual")]),
    "tokens made of rows": ("gated", [part(TOKENS, "head", source="instance")]),
    "vectors at the head": ("t5", [part({"type": "logit_bias_of_tests"}, "head")]),
    "frozen keys beside changed ones": (
        "t5",
        [part(SELF_PROMPT, "self_attention"), part({"type": "lora", "rank": 2}, "k", "v", "q")],
    ),
    "nothing to make of images": (
        "t5",
        [part({"type": "bias"}, "norms", source="visual"), part({"type": "lora", "rank": 2}, "q")],
    ),
}


def made(case: str) -> tuple[TunedModel, dict[str, Tensor]]:
    family, parts = CASES[case]
    used = {name for one in parts for name in ([one["source"]] if isinstance(one["source"], str) else HALF.values())}
    method = {"parts": parts, "sources": {name: SOURCES[name] for name in SOURCES if name in used}}
    model = TunedModel.build(FAMILIES[family](), method=method, tasks=TASKS, seed=3).eval()
    disturb(model, size=0.3)
    rows = batch()
    rows["labels"][0, 1:] = -100
    if model.visual is not None:
        features = torch.randn(5, 4, 6, generator=torch.Generator().manual_seed(4))
        rows |= {"visual": features, "visual_rows": torch.tensor([1, 2, 2, 3, 3])}
    return model, rows


@pytest.mark.parametrize("case", CASES)
def test_a_row_gets_what_it_gets_alone_however_it_is_asked(case):
    model, rows = made(case)
    beams = {"max_new_tokens": 4, "min_new_tokens": 4, "forced_eos_token_id": None, "num_beams": 3}
    given = {name: values for name, values in rows.items() if name != "labels"}
    together, uncached = model.generate(**given, **beams), model.generate(**given, **beams, use_cache=False)
    assert torch.equal(together, uncached)
    with torch.no_grad():
        assert torch.equal(model.generate(**given, **(beams | {"num_beams": 1})), decode_step_by_step(model, rows, 4))
        mixed = model(**rows)
        scored = model.token_log_probs(
            *(rows[name] for name in ("input_ids", "attention_mask", "task_ids", "labels")), torch.arange(4),
            **{name: rows[name] for name in ("visual", "visual_rows") if name in rows},
        )  # fmt: skip
        for i in range(4):
            one = one_row(rows, i)
            torch.testing.assert_close(mixed.logits[i : i + 1], model(**one).logits, atol=1e-4, rtol=1e-4)
            del one["labels"]
            assert torch.equal(model.generate(**one, **beams)[0], together[i])
    torch.testing.assert_close(-scored.sum(1), mixed.row_loss, atol=1e-3, rtol=1e-4)


@pytest.mark.parametrize("case", CASES)
def test_losses_alone_are_those_that_come_with_logits_and_one_task_goes_elsewhere(case, tmp_path):
    model, rows = made(case)
    with torch.no_grad():
        whole, alone = (model(**rows, keep_logits=keep) for keep in (True, False))
        torch.testing.assert_close(alone.row_loss, whole.row_loss, atol=1e-4, rtol=1e-4)
        model.save_pretrained(tmp_path)
        again = TunedModel.from_pretrained(tmp_path, backbone=model.backbone)
        assert torch.equal(again(**rows).logits, whole.logits)
        one = one_row(rows, 2) | {"task_ids": torch.zeros(1, dtype=torch.long)}
        expected = model(**one_row(rows, 2)).logits
        torch.testing.assert_close(bake(model, TASKS[2])(**one).logits, expected, atol=1e-5, rtol=1e-5)
        torch.testing.assert_close(merge(model, TASKS[2])(**one).logits, expected, atol=1e-3, rtol=1e-3)


@pytest.mark.parametrize("tuner", ["prompt", "special_tokens"])
def test_padding_before_a_row_changes_it_as_little_as_padding_behind_it(tuner):
    """T5 has no places, so rows may be padded on either side; a prompt stands right before its text."""
    settings = {"prompt": {"length": 3}, "special_tokens": {"num_tokens": 2}}
    at = {"prompt": "encoder.embedding", "special_tokens": "encoder.*.block"}
    names = ["prompt"] if tuner == "prompt" else ["prompt", "special_tokens"]
    parts = [part({"type": name, **settings[name]}, at[name]) for name in names]
    model = TunedModel.build(make_t5(), method={"parts": parts}, tasks=TASKS, seed=3).eval()
    disturb(model)
    one = one_row(batch(), 1)
    padded = one | {n: torch.nn.functional.pad(one[n], (4, 0)) for n in ("input_ids", "attention_mask")}
    with torch.no_grad():
        torch.testing.assert_close(model(**padded).logits, model(**one).logits, atol=2e-5, rtol=1e-4)
