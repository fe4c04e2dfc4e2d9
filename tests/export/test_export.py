"""A task written as a PEFT adapter gives, under PEFT, what it gives here; what PEFT cannot hold is refused."""

from __future__ import annotations

import pytest
import torch
from small_models import make_bart, make_t5
from support import TASKS, batch, disturb, small, tuned

from hyperpelt.errors import UserError
from hyperpelt.export.baking import bake, export_baked, export_peft
from hyperpelt.export.merging import export_merged, merge
from hyperpelt.model.tuned import TunedModel


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
    torch.testing.assert_close(logits, ours, atol=3e-4, rtol=3e-4)


def test_what_peft_cannot_hold_is_refused_by_name(tmp_path):
    model = tuned(make_t5(), small("hyperpelt"))
    with pytest.raises(UserError, match="adapter, norm, prefix"):
        export_peft(model, "b", tmp_path)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("made_of", ["encoder", "input"])
def test_tensors_that_are_made_for_each_row_are_none_of_a_task_for_peft(tmp_path, made_of):
    source = {"type": "instance_hypernetwork", "made_of": made_of, "embedding_dim": 4, "hidden_dim": 4, "hyper_dim": 4}
    part = {"tuner": {"type": "lora", "rank": 2}, "at": ["decoder.*.cross_attention.q"], "source": {"up": "rows"}}
    model = tuned(make_t5(), {"parts": [part], "sources": {"rows": source}})
    with pytest.raises(UserError, match="part 'lora' of method 'composition' makes its own for every row"):
        export_peft(model, "b", tmp_path)


@pytest.mark.parametrize("export", [export_baked, export_peft, export_merged])
def test_a_folder_may_be_named_by_a_text_and_from_home(tmp_path, monkeypatch, export):
    monkeypatch.setenv("HOME", str(tmp_path))
    assert export(tuned(make_t5(), small("lora")), "b", "~/out") == tmp_path / "out"
    assert any((tmp_path / "out").iterdir())


def in_training(method: str) -> TunedModel:
    """A model in the middle of training whose tasks are known by their words alone, half of which are drawn."""
    spec = {"name": method, "hypernetwork": {"description_dropout": 1.0}}
    model = TunedModel.build(make_t5(), method=spec, tasks=TASKS)
    vectors = torch.randn(len(TASKS), 9, 32, generator=torch.Generator().manual_seed(0))
    model.tell(dict(zip(TASKS, vectors, strict=True)))
    disturb(model)
    return model.train()


def test_a_task_written_during_training_has_the_weights_of_evaluation(tmp_path):
    from safetensors.torch import load_file

    model = in_training("hyper-lora")
    with torch.no_grad():
        settled = model.eval().weights_of(torch.tensor([1]))
        model.train()
        assert not torch.equal(model.weights_of(torch.tensor([1]))["lora.up"], settled["lora.up"])
        for _ in range(3):
            made = bake(model, "b").weights_of(torch.tensor([0]))
            assert all(torch.equal(made[key], settled[key]) for key in settled)
            merged = merge(model, "b").backbone.state_dict()
            assert all(
                torch.equal(value, merged[name])
                for name, value in merge(model.eval(), "b").backbone.state_dict().items()
            )
            export_peft(model.train(), "b", tmp_path)
            written = load_file(tmp_path / "adapter_model.safetensors")
            name = "base_model.model.encoder.block.0.layer.0.SelfAttention.q.lora_B.weight"
            assert torch.equal(written[name], settled["lora.up"][0, 0].T)
            assert model.training
            assert model.backbone.training, "baking leaves the shared backbone in the model's mode"


@pytest.mark.parametrize(
    ("parts", "words"),
    [
        ([("lora", "q"), ("lora", "q")], r"two tuners of method 'composition' meet at '.*SelfAttention\.q'"),
        ([("scale", "hidden"), ("scale", "wo")], r"two tuners .* meet at '.*DenseReluDense\.wo'"),
        ([("prompt", "encoder.embedding"), ("prompt", "encoder.embedding")], "two prompts .* 'encoder.embedding'"),
    ],
)
def test_two_tuners_where_peft_keeps_one_are_refused(tmp_path, parts, words):
    entries = [{"name": f"part{i}", "tuner": {"type": kind}, "at": at} for i, (kind, at) in enumerate(parts)]
    with pytest.raises(UserError, match=words):
        export_peft(tuned(make_t5(), {"parts": entries}), "b", tmp_path)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    "method", ["full", {"name": "x", "parts": [], "unfreeze": ["encoder.*"]}], ids=["full", "some"]
)
def test_baking_a_method_that_trains_the_backbone_says_what_to_do_instead(method):
    with pytest.raises(UserError, match=r"trains \d+ of its parameters: save the model whole.*--to merged"):
        bake(tuned(make_t5(), method), "b")
