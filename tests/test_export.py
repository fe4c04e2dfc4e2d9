"""A task written as a PEFT adapter gives, under PEFT, what it gives here; what PEFT cannot hold is refused."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch
from small_models import make_bart, make_t5

from hyperpelt.errors import UserError
from hyperpelt.export import export_peft

sys.path.insert(0, str(Path(__file__).parent / "promises"))
from support import batch, small, tuned


@pytest.mark.parametrize("make", [make_t5, make_bart], ids=["t5", "bart"])
@pytest.mark.parametrize("method", ["lora", "hyper-lora", "ia3", "hyper-ia3"])
def test_a_task_exported_to_peft_gives_the_same_logits_there(tmp_path, make, method):
    from peft import PeftModel

    model = tuned(make(), small(method))
    rows = {**batch(), "task_ids": torch.full((4,), 1)}
    export_peft(model, "b", tmp_path)
    theirs = PeftModel.from_pretrained(make(), tmp_path).eval()
    with torch.no_grad():
        ours = model(**rows).logits
        inputs = {"input_ids": rows["input_ids"], "attention_mask": rows["attention_mask"]}
        logits = theirs(**inputs, decoder_input_ids=model.shift_right(rows["labels"])).logits
    torch.testing.assert_close(logits, ours, atol=1e-4, rtol=1e-4)


def test_what_peft_cannot_hold_is_refused_by_name(tmp_path):
    model = tuned(make_t5(), small("hyperpelt"))
    with pytest.raises(UserError, match="adapter, norm, prefix"):
        export_peft(model, "b", tmp_path)
    assert not list(tmp_path.iterdir())
