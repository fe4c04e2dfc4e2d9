"""Embeddings of named tokens: against a transcription and peft, on tied and untied tables, for tokens that are new."""

from __future__ import annotations

import copy
from types import MappingProxyType

import peft
import pytest
import torch
from comparison import assert_agrees, make_batch, make_rough, make_tuned, tensors_of
from small_models import make_bart, make_t5
from support import TASKS, batch, disturb
from test_references import Transcribed

from hyperpelt.errors import UserError
from hyperpelt.model.tuned import TunedModel

IDS = [7, 2, 40]
METHOD = {"name": "unfreeze-with-care", "prefix_length": 2, "ids": IDS}


class Retold(Transcribed):
    """Other rows for some tokens where they are read, and where they are written."""

    def __init__(self, backbone, read, written, prefixes=MappingProxyType({})):
        super().__init__(backbone, prefixes=prefixes)
        table = "shared.weight" if self.is_t5 else "model.shared.weight"
        for name, rows in ((table, read), ("lm_head.weight", written)):
            if name in self.weights:
                changed = self.weights[name].clone()
                changed[IDS] += rows
                self.weights[name] = changed


@pytest.mark.parametrize("kind", ["t5", "t5-untied", "bart", "mbart"])
def test_unfreeze_with_care_is_a_prefix_and_other_rows(kind):
    backbone = make_rough(kind.removesuffix("-untied"))
    if kind.endswith("untied"):  # as T5 v1.1's, once loaded
        head = backbone.get_output_embeddings()
        head.weight = torch.nn.Parameter(head.weight.detach().flip(0))
    model = make_tuned(backbone, METHOD)
    references = []
    for task in (0, 1):
        prefixes, rows = tensors_of(model, task, part="prefix"), tensors_of(model, task, part="tokens")
        read = rows["encoder.embedding"]["rows"]
        assert torch.equal(rows["decoder.embedding"]["rows"], read), "one row a token for both stacks"
        written = rows["decoder.head"]["head_rows" if kind == "t5-untied" else "rows"]
        assert torch.equal(written, read) == (kind != "t5-untied")
        references.append(Retold(backbone, read, written, prefixes))
    assert_agrees(model, references)


@pytest.mark.filterwarnings("ignore:Model has `tie_word_embeddings")
def test_rows_are_those_of_pefts_trainable_tokens():
    """Where they are read: peft leaves the tied map to the vocabulary as it was."""
    backbone = make_rough("t5")
    part = {"name": "tokens", "tuner": {"type": "token_rows", "ids": IDS}, "at": ["embedding"]}
    model = make_tuned(backbone, {"parts": [part]})
    rows = make_batch()
    names = ("input_ids", "attention_mask", "decoder_input_ids")
    got = model(**rows).logits
    for task in (0, 1):
        shift = tensors_of(model, task)["encoder.embedding"]["rows"]
        other = make_rough("t5")
        config = peft.TrainableTokensConfig(target_modules=["embed_tokens"], token_indices=IDS)
        wrapped = peft.get_peft_model(other, config).eval()
        with torch.no_grad():
            for name, parameter in wrapped.named_parameters():
                if "trainable_tokens_delta" in name:  # whole rows, not what is added to them
                    parameter.copy_(backbone.get_input_embeddings().weight[IDS] + shift)
            wanted = wrapped(**{name: rows[name] for name in names}).logits
        mine = rows["task_ids"] == task
        assert (got[mine] - wanted[mine]).abs().max() / wanted.abs().max() < 1e-10


@pytest.mark.parametrize("make", [make_t5, make_bart])
def test_padding_of_targets_may_be_left_out_in_a_batch_of_several_tasks(make):
    model = TunedModel.build(make(), method=METHOD, tasks=TASKS).train()
    disturb(model)
    found = []
    for keep in (True, False):
        model.zero_grad()
        output = model(**batch(), keep_logits=keep)
        output.loss.backward()
        found.append([output.row_loss.detach(), *(p.grad.clone() for _, p in model.trainable_parameters())])
    torch.testing.assert_close(*found)


def test_a_table_that_both_stacks_share_as_one_module_is_tuned_once():
    torch.manual_seed(0)
    one, apart = make_bart(), make_bart()
    one.set_input_embeddings(one.get_input_embeddings())
    assert one.get_encoder().embed_tokens is one.get_decoder().embed_tokens
    assert apart.get_encoder().embed_tokens is not apart.get_decoder().embed_tokens
    logits = []
    for backbone in (one, apart):
        model = TunedModel.build(backbone, method=METHOD, tasks=TASKS).eval()
        disturb(model)
        with torch.no_grad():
            logits += [model(**batch()).logits, model.generate(batch()["input_ids"], task="a", max_new_tokens=4)]
    torch.testing.assert_close(logits[0], logits[2])
    assert torch.equal(logits[1], logits[3])


NEW = {"name": "unfreeze-with-care", "prefix_length": 2, "tokens": ["<select>", "\u2581good", "<where>"]}


@pytest.mark.parametrize("spare", [0, 1, 8])
def test_new_tokens_get_rows_of_their_own_and_old_ones_keep_every_bit(tiny_tokenizer, tmp_path, spare):
    size = len(tiny_tokenizer)
    backbone, ids = make_t5(vocab_size=size + spare), [size, tiny_tokenizer.get_vocab()["\u2581good"], size + 1]
    before = copy.deepcopy(backbone.state_dict())
    model = TunedModel.build(backbone, method=NEW, tasks=["a", "b"], tokenizer=tiny_tokenizer)
    assert "<select>" not in tiny_tokenizer.get_vocab()
    assert list(model.assembly.plan["encoder.embedding"][0].tuner.ids) == ids
    assert (model.backbone is backbone) == (spare >= 2)
    table = model.backbone.get_input_embeddings().weight
    assert torch.equal(table[: size + spare], before["shared.weight"])
    assert model.backbone.get_output_embeddings().weight.data_ptr() == table.data_ptr(), "tied, as it was"
    if spare == 0:
        assert torch.equal(table[size], before["shared.weight"].median(dim=0).values)
    text, fixed = ["<select> good <where> a"], table.detach().clone()
    encoded = model.tokenizer(text, return_tensors="pt")
    assert {size, size + 1} <= set(encoded.input_ids[0].tolist())
    optimizer = torch.optim.AdamW([p for _, p in model.trainable_parameters()], lr=0.1, weight_decay=0.5)
    labels = torch.tensor([[size, 5, size + 1, 1]])
    model.train()(encoded.input_ids, labels=labels, task_ids=torch.tensor([1])).loss.backward()
    rows = model.sources["per_task"].tensors["tokens__rows"]
    assert (rows.grad[1].abs().amax(-1) > 0).all()
    assert rows.grad[0].abs().max() == 0, "the other task's"
    optimizer.step()
    assert torch.equal(table, fixed)
    assert all(torch.equal(value, before[name]) for name, value in backbone.state_dict().items())
    model.eval().save_pretrained(tmp_path)
    fresh = make_t5(vocab_size=size + spare)
    for given in (tiny_tokenizer, None):
        loaded = TunedModel.from_pretrained(tmp_path, backbone=fresh, tokenizer=given)
        inputs = {"input_ids": encoded.input_ids, "labels": labels, "task_ids": torch.tensor([1])}
        assert torch.equal(loaded(**inputs).logits, model(**inputs).logits)
        loaded.detach()
    assert model.generate(text, task="b", max_new_tokens=3)


def test_tokens_that_make_no_sense_are_refused(tiny_tokenizer):
    for more, words in (
        ({"tokens": ["a", "a"]}, "twice"),
        ({"ids": [3, 3]}, "twice"),
        ({"tokens": ["<x>"]}, "tokenizer"),
    ):
        with pytest.raises(UserError, match=words):
            TunedModel.build(make_t5(), method={"name": "unfreeze-with-care", **more}, tasks=["a"])
    other = {"name": "unfreeze-with-care", "tokens": ["\u2581good"], "ids": [3]}
    with pytest.raises(UserError, match="another one"):
        TunedModel.build(make_t5(), method=other, tasks=["a"], tokenizer=tiny_tokenizer)
