"""Promises 3 and 4: a row gets in a mixed batch what it gets alone; every way of decoding gives the same answer."""

from __future__ import annotations

import pandas as pd
import pytest
import torch
from small_models import make_bart, make_t5
from support import METHODS, batch, decode_step_by_step, small, tuned

from hyperpelt.errors import UserError
from hyperpelt.model import inference
from hyperpelt.model.tuned import TunedModel


@pytest.mark.parametrize("method", METHODS)
def test_mixed_task_batch_gives_each_row_what_it_gets_alone(backbone, method):
    rows = batch()
    model = tuned(backbone, small(method))
    with torch.no_grad():
        mixed = model(**rows)
        for i in range(len(rows["task_ids"])):
            length = int(rows["attention_mask"][i].sum())
            alone = model(
                rows["input_ids"][i : i + 1, :length],
                rows["attention_mask"][i : i + 1, :length],
                rows["labels"][i : i + 1],
                rows["task_ids"][i : i + 1],
            )
            torch.testing.assert_close(mixed.logits[i : i + 1], alone.logits, atol=2e-5, rtol=1e-4)
            torch.testing.assert_close(mixed.row_loss[i : i + 1], alone.row_loss, atol=1e-4, rtol=1e-4)
        other = model(**{**rows, "task_ids": (rows["task_ids"] + 1) % 3})
    assert (other.logits - mixed.logits).abs().amax(dim=(1, 2)).min() > 1e-4, "the task id of some row plays no part"


def test_losses_alone_are_those_that_come_with_logits(backbone):
    rows = batch()
    rows["labels"] = torch.nn.functional.pad(rows["labels"], (0, 3), value=-100)
    rows["labels"][0, 1:] = -100
    model = tuned(backbone, small("hyperpelt")).train()
    gradients = []
    for keep in (True, False):
        output = model(**rows, smoothing=0.1, keep_logits=keep)
        output.loss.backward()
        gradients.append({name: p.grad.clone() for name, p in model.trainable_parameters()})
        gradients[-1] |= {"loss": output.loss.detach(), "rows": output.row_loss.detach()}
        model.zero_grad(set_to_none=True)
        assert (output.logits is not None) == keep
    torch.testing.assert_close(*gradients, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("method", METHODS)
def test_padding_never_changes_a_row(backbone, method):
    rows = batch()
    model = tuned(backbone, small(method))
    wider = {
        **rows,
        "input_ids": torch.nn.functional.pad(rows["input_ids"], (0, 7), value=0),
        "attention_mask": torch.nn.functional.pad(rows["attention_mask"], (0, 7), value=0),
        "labels": torch.nn.functional.pad(rows["labels"], (0, 3), value=-100),
    }
    with torch.no_grad():
        narrow, padded = model(**rows), model(**wider)
    torch.testing.assert_close(padded.logits[:, : narrow.logits.shape[1]], narrow.logits, atol=2e-5, rtol=1e-4)
    torch.testing.assert_close(padded.row_loss, narrow.row_loss, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("method", METHODS)
def test_cached_beam_and_batched_generation_equal_uncached_decoding(backbone, method):
    rows = batch()
    model = tuned(backbone, small(method))
    inputs = {"attention_mask": rows["attention_mask"], "task_ids": rows["task_ids"]}
    options = {"max_new_tokens": 6, "min_new_tokens": 6, "forced_eos_token_id": None, "forced_bos_token_id": None}
    with torch.no_grad():
        expected = decode_step_by_step(model, rows, 6)
        cached = model.generate(rows["input_ids"], **inputs, **options)
        uncached = model.generate(rows["input_ids"], **inputs, **options, use_cache=False)
        beams = model.generate(rows["input_ids"], **inputs, **options, num_beams=3)
        slow_beams = model.generate(rows["input_ids"], **inputs, **options, num_beams=3, use_cache=False)
        assert torch.equal(cached, expected)
        assert torch.equal(uncached, expected)
        assert torch.equal(beams, slow_beams)
        for i in range(len(expected)):
            length = int(rows["attention_mask"][i].sum())
            row = {
                "attention_mask": rows["attention_mask"][i : i + 1, :length],
                "task_ids": rows["task_ids"][i : i + 1],
            }
            for width, together in ((1, cached), (3, beams)):
                alone = model.generate(rows["input_ids"][i : i + 1, :length], **row, **options, num_beams=width)
                assert torch.equal(alone[0], together[i])


@pytest.mark.parametrize("method", ["hyperpelt", "prompt-tuning", "unipelt"])
def test_candidates_scored_together_equal_forward_losses(backbone, method):
    rows = batch()
    model = tuned(backbone, small(method))
    candidates = torch.tensor([[4, 5, 1], [6, 1, -100], [7, 8, 1], [9, 1, -100], [4, 5, 1], [6, 1, -100]])
    owners = torch.tensor([0, 0, 1, 2, 3, 3])
    scored = model.token_log_probs(rows["input_ids"], rows["attention_mask"], rows["task_ids"], candidates, owners).sum(
        1
    )
    with torch.no_grad():
        each = model(
            rows["input_ids"][owners], rows["attention_mask"][owners], candidates, rows["task_ids"][owners]
        ).row_loss
    torch.testing.assert_close(scored, -each, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("tasks", [["a", "b", "c"], ["a"]], ids=len)
@pytest.mark.parametrize("method", ["lora", small("hyperpelt")], ids=["lora", "hyperpelt"])
@pytest.mark.usefixtures("unchecked_shapes")
def test_task_ids_that_fit_no_row_or_no_task_are_refused(tasks, method):
    model, rows = TunedModel.build(make_bart(), method=method, tasks=tasks).eval(), batch()
    inputs = {"input_ids": rows["input_ids"], "attention_mask": rows["attention_mask"]}
    for given, words in (
        (torch.zeros(2, dtype=torch.long), r"one task id for each of 4 rows, got \[2\]"),
        (torch.zeros(4, 1, dtype=torch.long), r"got \[4, 1\]"),
        (torch.tensor([0, 0, 0, len(tasks)]), rf"task ids from 0 to {len(tasks) - 1}, got"),
        (torch.tensor([0, -1, 0, 0]), "task ids from 0"),
    ):
        with pytest.raises(UserError, match=words):
            model(**inputs, labels=rows["labels"], task_ids=given)
        with pytest.raises(UserError, match=words):
            model.generate(rows["input_ids"], task_ids=given, max_new_tokens=2)


def test_texts_come_in_lists_which_may_be_empty(tiny_tokenizer):
    model = TunedModel.build(make_t5(), method="lora", tasks=["a"], tokenizer=tiny_tokenizer).eval()
    assert model.generate([], task="a") == []
    assert model.score([], ["yes", "no"], task="a") == []
    assert len(model.score(["good"], ["yes", "no"], task="a")[0]) == 2
    for call, words in (
        (lambda: model.score("good", ["yes", "no"], task="a"), "score takes a list of texts"),
        (lambda: model.score(["good"], "yes", task="a"), "score takes a list of choices"),
        (lambda: model.score(["good"], [], task="a"), "1 inputs but 0 lists of choices"),
        (lambda: model.score(["good"], [[]], task="a"), "at least one choice"),
        (lambda: model.generate("good", task="a"), "generate takes a list of texts"),
    ):
        with pytest.raises(UserError, match=words):
            call()


def test_what_is_no_text_is_told_before_it_is_read():
    """The names of a data frame's columns are texts, too, and a table's empty cell is a nan."""
    frame = pd.DataFrame({"text": ["good", "bad"]})
    for given in (frame, {"good": 1}):
        with pytest.raises(UserError, match=rf"got a {type(given).__name__}: give the list of one column"):
            inference._check_list("generate", "texts", given)
    inference._check_list("generate", "texts", frame["text"])
    inference._check_texts("input", frame["text"])
    with pytest.raises(UserError, match=r"Expected texts, got nan \(float\) as input 1, counted from 0"):
        inference._check_texts("input", ["good", float("nan")])


def test_a_text_of_more_tokens_than_positions_is_refused_or_cut(tiny_tokenizer):
    model = TunedModel.build(make_bart(), method="lora", tasks=["a"], tokenizer=tiny_tokenizer).eval()
    limit = model.backbone.config.max_position_embeddings
    long = ["good " * 2 * limit]
    with pytest.raises(UserError, match=rf"this backbone {limit} positions: .*max_source_length={limit}"):
        model.generate(long, task="a", max_new_tokens=2)
    assert len(model.generate(long, task="a", max_source_length=limit, max_new_tokens=2)) == 1
