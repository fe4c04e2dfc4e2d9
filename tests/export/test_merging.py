"""A merged task answers as the baked one does, from a backbone of its own; what cannot be merged stays a tuner."""

from __future__ import annotations

import pytest
import torch
from small_models import make_bart, make_t5
from support import METHODS, batch, small, tuned

from hyperpelt.errors import UserError
from hyperpelt.export.baking import bake
from hyperpelt.export.merging import export_merged, merge, mergeable

LORA_EVERYWHERE = {
    "name": "mixed",
    "parts": [
        {"tuner": {"type": "lora", "rank": 3, "alpha": 6.0}, "at": ["projections"]},
        {"tuner": {"type": "scale"}, "at": ["*.v", "*.hidden", "*.wo"]},
        {"tuner": {"type": "bias"}, "at": ["*.wo", "*.q"]},
    ],
}
GATED_FIRST = {
    "name": "gated-first",
    "parts": [
        {"name": "gate", "tuner": {"type": "gate", "tuner": {"type": "lora", "rank": 2}}, "at": ["*.wi", "*.q"]},
        {"name": "late", "tuner": {"type": "scale"}, "at": ["*.q"]},
        {"name": "wide", "tuner": {"type": "adapter", "reads": "input", "bottleneck": 3}, "at": ["feed_forward"]},
        {"name": "free", "tuner": {"type": "scale"}, "at": ["*.v"]},
    ],
}
LINEAR = [
    {"name": "adalora", "rank": 3, "rank_target": None, "alpha": 6.0, "at": ["projections"]},
    {"name": "vera", "rank": 6, "at": ["projections"]},
    {"name": "krona", "scale": 2.0, "at": ["projections"]},
    {"name": "kronecker", "parts": [{"tuner": {"type": "kronecker", "residual": True}, "at": ["*.q", "*.o"]}]},
]
ROW_BY_ROW = {
    "name": "own",
    "parts": [{"tuner": {"type": "lora"}, "at": ["decoder.*.q"], "source": "instance_hypernetwork"}],
}
CASES = [
    ("t5", ROW_BY_ROW),
    *(("t5", method) for method in [*METHODS, "layer-norm", "parallel-adapter", "hyper-lora"]),
    *(("bart", method) for method in [*METHODS, "layer-norm"]),
    ("t5", LORA_EVERYWHERE),
    ("bart", LORA_EVERYWHERE),
    ("t5", GATED_FIRST),
    *((family, method) for family in ("t5", "bart") for method in LINEAR),
]


def label(value):
    """A name for a parameter that is the same in every process."""
    if isinstance(value, dict):
        return value["name"]
    return "+".join(sorted(value)) or "nothing" if isinstance(value, set) else value


def make(family):
    return make_t5() if family == "t5" else make_bart()


def of_task_b(rows):
    return {**rows, "task_ids": torch.full((4,), 1)}, {**rows, "task_ids": torch.zeros(4, dtype=torch.long)}


@pytest.mark.parametrize(("family", "method"), CASES, ids=label)
def test_a_merged_task_answers_as_the_whole_model_does(family, method):
    backbone = make(family)
    before = {name: tensor.clone() for name, tensor in backbone.state_dict().items()}
    model = tuned(backbone, small(method) if isinstance(method, str) else method)
    theirs, own = of_task_b(batch())
    with torch.no_grad():
        whole = model(**theirs).logits
        merged = merge(model, "b")
        # Sums in another order: how far they round apart depends on the kernels of the machine.
        torch.testing.assert_close(merged(**own).logits, whole, atol=2e-4, rtol=2e-4)
        assert torch.equal(model(**theirs).logits, whole), "merging left the model as it was"
    assert all(torch.equal(before[name], tensor) for name, tensor in backbone.state_dict().items())
    written = merged.generate(own["input_ids"], attention_mask=own["attention_mask"], max_new_tokens=6, num_beams=2)
    options = {"attention_mask": own["attention_mask"], "max_new_tokens": 6, "num_beams": 2}
    assert torch.equal(written, model.generate(own["input_ids"], task="b", **options))


def left(model):
    return {part.name for part in model.method.parts} - mergeable(model.method, model.assembly)


@pytest.mark.parametrize(
    ("family", "method", "kept"),
    [
        ("t5", "lora", set()),
        ("t5", "ia3", set()),
        ("t5", "bitfit", set()),
        ("bart", "layer-norm", set()),
        ("t5", "hyperpelt", {"prefix"}),
        ("bart", "hyperpelt", {"prefix", "adapter"}),  # gelu there, relu in the adapter
        ("bart", {"name": "hyperpelt", "activation": "gelu", "bottleneck": 4}, {"prefix"}),
        ("t5", "pfeiffer", {"adapter"}),
        ("t5", GATED_FIRST, {"gate", "late", "wide"}),
        *(("t5", method, set()) for method in LINEAR),
        ("t5", {"name": "krona", "form": "parallel"}, {"kronecker"}),
        ("t5", ROW_BY_ROW, {"lora"}),
    ],
    ids=label,
)
def test_what_stays_a_tuner(family, method, kept):
    assert left(tuned(make(family), small(method) if isinstance(method, str) else method)) == kept


def test_a_gated_network_is_not_widened():
    assert left(tuned(make_t5(feed_forward_proj="gated-gelu"), small("parallel-adapter"))) == {"adapter"}


@pytest.mark.parametrize("family", ["t5", "bart"])
@pytest.mark.parametrize("method", ["lora", "hyper-ia3", "layer-norm", "full", "hyper-krona", *LINEAR[:2]], ids=label)
def test_plain_weights_give_the_same_answers_in_transformers(tmp_path, family, method):
    from transformers import AutoModelForSeq2SeqLM

    model = tuned(make(family), method)
    theirs, own = of_task_b(batch())
    export_merged(model, "b", tmp_path)
    plain = AutoModelForSeq2SeqLM.from_pretrained(tmp_path).eval()
    with torch.no_grad():
        ids = model.shift_right(own["labels"])
        inputs = {"input_ids": own["input_ids"], "attention_mask": own["attention_mask"]}
        torch.testing.assert_close(
            plain(**inputs, decoder_input_ids=ids).logits, model(**theirs).logits, atol=1e-4, rtol=1e-4
        )


def test_what_plain_weights_cannot_hold_is_refused_by_name(tmp_path):
    with pytest.raises(UserError, match=r"'prefix' \(prefix\), 'adapter' \(adapter\) of method 'hyperpelt'"):
        export_merged(tuned(make_t5(), small("hyperpelt")), "b", tmp_path)
    with pytest.raises(UserError, match=r"'bias' \(bias\)"):  # T5 has none
        export_merged(tuned(make_t5(), "bitfit"), "b", tmp_path)
    assert not list(tmp_path.iterdir())


def test_a_merged_model_is_not_saved(tmp_path):
    with pytest.raises(UserError, match="save `bake"):
        merge(tuned(make_t5(), "lora"), "b").save_pretrained(tmp_path)


def test_sums_are_made_in_float32():
    """In bfloat16 a delta much smaller than its weight is rounded once, not at every step of its making."""
    model = tuned(make_t5().bfloat16(), "lora")
    merged = merge(model, "b")
    path = "encoder.block.0.layer.0.SelfAttention.q"
    placed = bake(model, "b").weights_of(torch.zeros(1, dtype=torch.long))
    ((down, up),) = [(placed[k][0, 0], placed[k.replace("down", "up")][0, 0]) for k in placed if k.endswith("down")]
    wanted = model.backbone.get_submodule(path).weight.float() + (down @ up).T
    assert torch.equal(merged.backbone.get_submodule(path).weight, wanted.bfloat16())


@pytest.mark.parametrize(
    "method", ["full", {"name": "norms", "parts": [], "unfreeze": ["*layer_norm*"]}, "lora"], ids=label
)
def test_a_copy_of_the_backbone_keeps_its_generation_settings(tmp_path, method):
    from transformers import AutoModelForSeq2SeqLM

    backbone = make_t5()
    backbone.generation_config.num_beams, backbone.generation_config.max_new_tokens = 3, 7
    model = tuned(backbone, method)
    for twin in (model.backbone, merge(model, "b").backbone):
        assert (twin.generation_config.num_beams, twin.generation_config.max_new_tokens) == (3, 7)
    export_merged(model, "b", tmp_path)
    assert AutoModelForSeq2SeqLM.from_pretrained(tmp_path).generation_config.num_beams == 3


def test_a_merged_backbone_is_free_of_what_is_attached_to_the_original():
    backbone = make_t5()
    backbone.set_attn_implementation("eager")
    prefixed, model = tuned(backbone, "prefix-tuning"), tuned(backbone, "lora")
    merged = merge(model, "b")
    assert prefixed.backbone.config._attn_implementation == "hyperpelt"
    assert merged.backbone.config._attn_implementation == "eager"


def test_a_merged_network_that_was_widened_is_copied_as_it_is():
    import copy

    merged = merge(tuned(make_t5(), small("parallel-adapter")), "b")
    _, own = of_task_b(batch())
    with torch.no_grad():
        assert torch.equal(copy.deepcopy(merged)(**own).logits, merged(**own).logits)
