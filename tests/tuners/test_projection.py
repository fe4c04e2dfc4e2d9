"""LoRA, (IA)^3, biases and norm shifts: a tuned model is a float64 backbone whose weights were changed (promise 9)."""

from __future__ import annotations

import pytest
import torch
from comparison import BACKBONES, assert_agrees, make_batch, make_rough, make_tuned, tensors_of
from reference_backbones import Reference

from hyperpelt.errors import UserError
from hyperpelt.model.tuned import TunedModel
from hyperpelt.operations import list_operations


def norm_paths(backbone) -> dict[str, str]:
    """Operation name -> path of every norm, written by hand for one layer and both kinds of model."""
    reference, found = Reference(backbone), {}
    for stack in ("encoder", "decoder"):
        for layer in range(reference.num_layers(stack)):
            found |= {f"{stack}.{layer}.{site}.norm": norm for site, norm, _, _ in reference.paths(stack, layer)}
        outside = {"final_norm": f"{stack}.final_layer_norm"}
        if not reference.is_t5:
            outside = {
                "embedding_norm": f"model.{stack}.layernorm_embedding",
                "final_norm": f"model.{stack}.layer_norm",
            }
        found |= {f"{stack}.{name}": path for name, path in outside.items() if f"{path}.weight" in reference.weights}
    return found


@pytest.mark.parametrize("alpha", [None, 4.0])
@pytest.mark.parametrize("kind", BACKBONES)
def test_lora_is_the_weight_plus_alpha_over_r_times_a_b(kind, alpha):
    backbone = make_rough(kind)
    model = make_tuned(
        backbone, {"parts": [{"tuner": {"type": "lora", "rank": 3, "alpha": alpha}, "at": "projections"}]}
    )
    references = [Reference(backbone) for _ in range(2)]
    for task, reference in enumerate(references):
        tensors, paths = tensors_of(model, task), reference.projections()
        assert tensors.keys() == paths.keys()
        for name, path in paths.items():
            # Checkpoints keep W^T.
            delta = (tensors[name]["down"] @ tensors[name]["up"]).T * (1 if alpha is None else alpha / 3)
            reference.weights[f"{path}.weight"] = reference.weights[f"{path}.weight"] + delta
    assert_agrees(model, references)


@pytest.mark.parametrize("kind", BACKBONES)
def test_ia3_scales_the_rows_of_k_and_v_and_the_columns_of_wo(kind):
    backbone = make_rough(kind)
    model = make_tuned(backbone, "ia3")
    references = [Reference(backbone) for _ in range(2)]
    for task, reference in enumerate(references):
        tensors, paths = tensors_of(model, task), reference.projections()
        scaled = {n for n in paths if n.endswith((".k", ".v"))} | {
            n[:-2] + "hidden" for n in paths if n.endswith(".wo")
        }
        assert tensors.keys() == scaled
        for name, values in tensors.items():
            if name.endswith("hidden"):
                path = paths[name.replace("hidden", "wo")]
                reference.weights[f"{path}.weight"] = reference.weights[f"{path}.weight"] * (1 + values["shift"])
                continue
            for kept in {f"{paths[name]}.weight", f"{paths[name]}.bias"} & reference.weights.keys():
                scale = 1 + values["shift"]
                scale = scale[:, None] if kept.endswith("weight") else scale
                reference.weights[kept] = reference.weights[kept] * scale
    assert_agrees(model, references)


@pytest.mark.parametrize("kind", BACKBONES)
def test_bitfit_adds_to_every_bias_and_makes_those_that_t5_lacks(kind):
    backbone = make_rough(kind)
    model = make_tuned(backbone, "bitfit")
    references = [Reference(backbone) for _ in range(2)]
    for task, reference in enumerate(references):
        tensors, paths = tensors_of(model, task), reference.projections()
        paths = paths if reference.is_t5 else paths | norm_paths(backbone)
        assert tensors.keys() == paths.keys()
        for name, path in paths.items():
            reference.weights[f"{path}.bias"] = reference.weights.get(f"{path}.bias", 0) + tensors[name]["bias"]
    assert_agrees(model, references)


@pytest.mark.parametrize("kind", BACKBONES)
def test_norm_shift_changes_every_norm_weight_and_bias(kind):
    backbone = make_rough(kind)
    model = make_tuned(backbone, "layer-norm")
    references = [Reference(backbone) for _ in range(2)]
    for task, reference in enumerate(references):
        tensors, paths = tensors_of(model, task), norm_paths(backbone)
        assert tensors.keys() == paths.keys()
        for name, path in paths.items():
            for what, value in tensors[name].items():
                reference.weights[f"{path}.{what}"] = reference.weights[f"{path}.{what}"] + value
    assert_agrees(model, references)


@pytest.mark.parametrize(("method", "kind"), [("bitfit", "bart"), ("layer-norm", "bart"), ("layer-norm", "t5")])
def test_training_gradient_is_that_of_the_backbones_own_parameters(method, kind):
    """Independent implementation: requires_grad on the biases and norms that the model has."""
    backbone, batch = make_rough(kind), make_batch()
    decoder_ids = batch.pop("decoder_input_ids")
    model = TunedModel.build(backbone, method=method, tasks=["a"], seed=0)
    model.sources.double()
    model(batch["input_ids"], batch["attention_mask"], labels=decoder_ids).loss.backward()
    made = {}
    for group in model.sources["per_task"].groups.values():
        gradient = model.sources["per_task"].tensors[group.key.replace(".", "__")].grad[0]
        made |= {(op.name, group.tensor): gradient[i] for i, op in enumerate(group.operations)}

    plain = make_rough(kind)
    shifted = model.shift_right(decoder_ids)
    logits = plain(
        input_ids=batch["input_ids"], attention_mask=batch["attention_mask"], decoder_input_ids=shifted
    ).logits
    torch.nn.functional.cross_entropy(logits.float().flatten(0, 1), decoder_ids.flatten()).backward()
    own = {op.name: plain.get_submodule(op.path) for op in list_operations(plain)}
    assert made
    for (name, what), gradient in made.items():
        wanted = getattr(own[name], what).grad
        torch.testing.assert_close(gradient, wanted, rtol=1e-6, atol=1e-8, msg=f"{name} {what}")
    if method == "bitfit":
        biases = [p for n, p in plain.named_parameters() if n.endswith("bias")]
        assert sum(g.numel() for g in made.values()) == sum(b.numel() for b in biases)


@pytest.mark.parametrize(
    ("tuner", "at", "wants"),
    [("lora", "feed_forward", "a projection"), ("scale", "norms", "a projection or the hidden layer"),
     ("bias", "attention", "a projection or a norm"), ("norm", "q", "a norm")],
)  # fmt: skip
def test_a_tuner_at_a_place_where_it_makes_no_sense_is_refused(tuner, at, wants):
    with pytest.raises(UserError, match=f"works at {wants}"):
        TunedModel.build(make_rough("t5"), method={"parts": [{"tuner": {"type": tuner}, "at": at}]}, tasks=["a"])


@pytest.mark.parametrize("init", ["plain", "fan_in", "normal"])
def test_ia3_starts_near_the_backbone_however_its_hypernetwork_starts(init):
    """What is made is l - 1: a network whose outputs start near zero must not start by erasing keys and values."""
    backbone, batch = make_rough("t5"), make_batch()
    names = ("input_ids", "attention_mask", "decoder_input_ids")
    with torch.no_grad():
        bare = backbone(**{name: batch[name] for name in names}).logits
        model = TunedModel.build(
            backbone, method={"name": "hyper-ia3", "hypernetwork": {"init": init}}, tasks=["a", "b"]
        )
        difference = (model.eval()(**batch).logits - bare).norm() / bare.norm()
    assert difference < (0.3 if init == "normal" else 1e-12), difference
