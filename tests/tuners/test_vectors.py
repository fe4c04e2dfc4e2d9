"""Soft prompts and vectors at special tokens against float64 transcriptions (promise 9)."""

from __future__ import annotations

import pytest
import torch
from comparison import BACKBONES, assert_agrees, make_batch, make_rough, make_tuned, tensors_of
from reference_backbones import Reference

from hyperpelt.errors import UserError
from hyperpelt.model.tuned import TunedModel

PROMPT = {"type": "prompt", "length": 4}


class Prompted(Reference):
    """[P; E(x)] is what the encoder embeds, its mask grown by N ones."""

    def logits(self, ids, mask, decoder_ids):
        rows = self.tensors["encoder.embedding"]["rows"]
        vectors = torch.cat([rows.expand(len(ids), -1, -1), self.typed(ids)], dim=1)
        grown = torch.cat([torch.ones(len(ids), len(rows), dtype=mask.dtype), mask], dim=1)
        ids = torch.cat([torch.full((len(ids), len(rows)), -1), ids], dim=1)
        return self.decoded(self.encoded(vectors, ids, grown), decoder_ids)


class Marked(Reference):
    """PASTA: h_t <- h_t + e[l, i] before encoder layer l, where t is the i-th special token of its row."""

    special = ()

    def block_input(self, name, h, ids):
        if not name.startswith("encoder"):
            return h
        vectors, h = self.tensors[name]["vectors"], h.clone()
        for row, real, tokens in zip(h, self.mask, ids.tolist(), strict=True):
            places = [t for t, token in enumerate(tokens) if token in self.special and real[t]]
            for vector, place in zip(vectors, places, strict=False):
                row[place] += vector
        return h


class PromptedAndMarked(Marked, Prompted):
    pass


def special_ids(kind: str) -> set[int]:
    """EOS for both; BART's BOS is 0; padding (0 on T5, 1 on BART) is not among them."""
    return {1} if kind.startswith("t5") else {0, 2}


@pytest.mark.parametrize("kind", BACKBONES)
def test_prompt_rows_come_before_the_embedded_input(kind):
    backbone = make_rough(kind)
    model = make_tuned(backbone, {"parts": [{"tuner": PROMPT, "at": "encoder.embedding"}]})
    assert_agrees(model, [Prompted(backbone, tensors_of(model, task)) for task in range(2)])


@pytest.mark.parametrize("kind", ["t5", "mbart"])
def test_prompt_of_embedded_tokens_is_the_same_as_typing_them(kind):
    """mBART scales its embeddings: rows are what the first layer norm reads, after that scale."""
    backbone, batch = make_rough(kind), make_batch()
    model = make_tuned(backbone, {"parts": [{"tuner": PROMPT, "at": "encoder.embedding"}]})
    typed = torch.tensor([[7, 8, 9, 10]])
    with torch.no_grad():
        for _, parameter in model.trainable_parameters():
            parameter.copy_(backbone.get_input_embeddings()(typed)[:, None])
        prompted = model(**batch).logits
        ids = torch.cat([typed.expand(4, -1), batch["input_ids"]], dim=1)
        mask = torch.nn.functional.pad(batch["attention_mask"], (4, 0), value=1)
        plain = backbone(input_ids=ids, attention_mask=mask, decoder_input_ids=batch["decoder_input_ids"]).logits
    torch.testing.assert_close(prompted, plain, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("kind", BACKBONES)
def test_pasta_adds_its_vectors_at_the_first_special_tokens_of_each_row(kind):
    backbone = make_rough(kind)
    model = make_tuned(backbone, "pasta")
    assert set(model.special_ids) == special_ids(kind)
    batch = make_batch()
    many = sum(batch["input_ids"] == token for token in special_ids(kind)).sum(1)
    assert many.max() > 2, "no row has more special tokens than vectors"
    assert_agrees(model, [Marked(backbone, tensors_of(model, task), special=special_ids(kind)) for task in range(2)])


def test_prompt_rows_are_no_special_tokens():
    backbone = make_rough("t5")
    parts = [
        {"tuner": PROMPT, "at": "encoder.embedding"},
        {"tuner": {"type": "special_tokens"}, "at": "encoder.*.block"},
    ]
    model = make_tuned(backbone, {"parts": parts})
    assert_agrees(model, [PromptedAndMarked(backbone, tensors_of(model, task), special={1}) for task in range(2)])


def test_rows_without_special_tokens_are_untouched():
    backbone = make_rough("t5")
    batch = make_batch()
    batch["input_ids"] = batch["input_ids"].masked_fill(batch["input_ids"] == 1, 5)
    with torch.no_grad():
        names = ("input_ids", "attention_mask", "decoder_input_ids")
        bare = backbone(**{name: batch[name] for name in names}).logits
        assert torch.equal(make_tuned(backbone, "pasta")(**batch).logits, bare)


@pytest.mark.parametrize(
    ("tuner", "at", "wants"),
    [
        ("prompt", "decoder.embedding", "the encoder's embedded input"),
        ("special_tokens", "decoder.*.block", "an encoder block"),
    ],
)
def test_vectors_at_a_place_where_they_make_no_sense_are_refused(tuner, at, wants):
    with pytest.raises(UserError, match=f"works at {wants}"):
        TunedModel.build(make_rough("t5"), method={"parts": [{"tuner": {"type": tuner}, "at": at}]}, tasks=["a"])


def test_a_prompt_longer_than_the_positions_of_bart_is_refused():
    model = TunedModel.build(make_rough("mbart"), method={"name": "prompt-tuning", "length": 60}, tasks=["a"])
    with pytest.raises(UserError, match=r"9 tokens with the 60 rows .* exceed this backbone's 64 positions"):
        model(**{**make_batch(), "task_ids": torch.zeros(4, dtype=torch.long)})
