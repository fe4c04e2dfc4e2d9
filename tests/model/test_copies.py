"""Copies of backbones compute what their originals do."""

from __future__ import annotations

import pytest
import torch
from small_models import make_bart, make_t5
from transformers import T5ForConditionalGeneration

from hyperpelt.model.copies import copy_of
from hyperpelt.model.tuned import TunedModel


def untied(folder) -> T5ForConditionalGeneration:
    """Like T5 v1.1 and FLAN: a map to the vocabulary of its own in the checkpoint, and so in the loaded model."""
    model = make_t5(tie_word_embeddings=False)
    model.lm_head.weight = torch.nn.Parameter(torch.randn_like(model.lm_head.weight))
    model.save_pretrained(folder)
    return T5ForConditionalGeneration.from_pretrained(folder).eval()


@pytest.mark.parametrize("kind", ["t5", "untied", "bart"])
@torch.no_grad()
def test_a_copy_is_the_same_model_with_tensors_of_its_own(kind, tmp_path):
    backbone = {"t5": make_t5, "bart": make_bart, "untied": lambda: untied(tmp_path)}[kind]()
    twin = copy_of(backbone).eval()
    state, theirs = twin.state_dict(), backbone.state_dict()
    assert all(torch.equal(state[name], value) for name, value in theirs.items())
    assert not {value.data_ptr() for value in state.values()} & {value.data_ptr() for value in theirs.values()}
    tied = twin.get_output_embeddings().weight is twin.get_input_embeddings().weight
    assert tied == (kind != "untied")
    ids = torch.tensor([[5, 6, 1]])
    assert torch.equal(twin(ids, labels=ids).logits, backbone(ids, labels=ids).logits)
    full = TunedModel.build(backbone, method="full", tasks=["a"]).eval()
    assert torch.equal(full(ids, labels=ids).logits, backbone(ids, labels=ids).logits)


@pytest.mark.parametrize("kind", ["t5", "untied", "bart"])
@torch.no_grad()
def test_a_copy_of_more_words_knows_the_old_ones_as_before(kind, tmp_path):
    backbone = {"t5": make_t5, "bart": make_bart, "untied": lambda: untied(tmp_path)}[kind]()
    wider = copy_of(backbone, vocabulary=131).eval()
    ids = torch.tensor([[5, 6, 1]])
    logits = wider(ids, labels=ids).logits
    assert logits.shape[-1] == 131
    torch.testing.assert_close(logits[..., :128], backbone(ids, labels=ids).logits, rtol=1e-5, atol=1e-6)
    assert wider.config.vocab_size == 131
    assert (wider.get_output_embeddings().weight is wider.get_input_embeddings().weight) == (kind != "untied")
