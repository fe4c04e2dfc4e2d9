"""Several tuned models on one backbone, the bare backbone between them, and leaving it as it was found."""

from __future__ import annotations

import copy
import gc
import pickle
import threading
import weakref
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from comparison import make_batch, make_rough
from small_models import make_bart, make_t5
from torch import Tensor

from hyperpelt.errors import UserError
from hyperpelt.export.baking import bake
from hyperpelt.model.tuned import TunedModel

SMALL = {"name": "hyperpelt", "prefix_length": 3, "bottleneck": 4, "prefix_hidden": 8}
# One method for every way of touching a backbone.
METHODS = [
    SMALL,
    "lora",
    "ia3",
    "pasta",
    {"name": "prompt-tuning", "length": 3},
    "bitfit",
    "pfeiffer",
    "unipelt",
    "u-tuning",
]
TOGETHER = [SMALL, "lora", "pasta", {"name": "prompt-tuning", "length": 3}, "unipelt"]
KINDS = {"t5": make_t5, "bart": make_bart}


def tuned(backbone, method: object, seed: int = 0) -> TunedModel:
    model = TunedModel.build(backbone, method=method, tasks=["a", "b"], seed=seed).eval()
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for _, parameter in model.trainable_parameters():
            parameter.add_(torch.randn(parameter.shape, generator=generator) * 0.1)
    return model


@torch.no_grad()
def logits(model) -> Tensor:
    batch = make_batch()
    if not isinstance(model, TunedModel):
        del batch["task_ids"]
        batch["use_cache"] = False
    return model(**batch).logits


def state(backbone) -> dict[str, object]:
    """Everything about a backbone that attachment might leave changed."""
    modules = dict(backbone.named_modules())
    return {
        "attention": {n: m.config._attn_implementation for n, m in modules.items() if hasattr(m, "config")},
        "hooks": {n: (len(m._forward_hooks), len(m._forward_pre_hooks)) for n, m in modules.items()},
        "attributes": {n: set(vars(m)) for n, m in modules.items()},
        "requires_grad": {n: p.requires_grad for n, p in backbone.named_parameters()},
        "training": {n: m.training for n, m in modules.items()},
        "class": type(backbone),
        "recomputes": [name for name, m in backbone.named_modules() if getattr(m, "gradient_checkpointing", False)],
    }


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("method", METHODS, ids=str)
def test_detaching_leaves_the_backbone_exactly_as_it_was(kind, method):
    backbone = KINDS[kind]()
    next(backbone.parameters()).requires_grad_(False)
    before, values, bare = state(backbone), {n: v.clone() for n, v in backbone.state_dict().items()}, logits(backbone)
    model = tuned(backbone, method)
    tuned_logits = logits(model)
    model.gradient_checkpointing_enable()
    assert not torch.equal(tuned_logits, bare)
    assert not any(p.requires_grad for p in backbone.parameters())
    model.detach()
    assert state(backbone) == before
    assert torch.equal(logits(backbone), bare)
    assert all(torch.equal(value, values[name]) for name, value in backbone.state_dict().items())
    model.detach()
    model.attach()
    assert torch.equal(logits(model), tuned_logits)


@pytest.mark.parametrize("kind", KINDS)
def test_tuned_models_on_one_backbone_do_not_see_each_other(kind):
    backbone = KINDS[kind]()
    before, bare = state(backbone), logits(backbone)
    alone = [logits(tuned(KINDS[kind](), method, seed)) for seed, method in enumerate(TOGETHER)]
    models = [tuned(backbone, method, seed) for seed, method in enumerate(TOGETHER)]
    for order in (range(len(models)), reversed(range(len(models)))):
        for index in order:
            assert torch.equal(logits(models[index]), alone[index]), TOGETHER[index]
            assert torch.equal(logits(backbone), bare), f"the bare backbone after {TOGETHER[index]}"
    # They leave in another order than they came; those that stay notice nothing.
    for gone in (2, 0, 4):
        models[gone].detach()
        for index, model in enumerate(models):
            if model.attached:
                assert torch.equal(logits(model), alone[index]), TOGETHER[index]
        assert torch.equal(logits(backbone), bare)
        assert not any(p.requires_grad for p in backbone.parameters())
    for model in models:
        model.detach()
    assert state(backbone) == before


def test_training_one_model_moves_no_other_on_the_same_backbone():
    backbone = make_t5()
    first, second = tuned(backbone, SMALL), tuned(backbone, "lora", seed=1)
    kept = logits(second)
    optimiser = torch.optim.SGD(first.sources.parameters(), lr=0.5)
    batch = make_batch()
    labels = batch.pop("decoder_input_ids")
    changed = logits(first)
    first.train()
    first(**batch, labels=labels).loss.backward()
    optimiser.step()
    assert not torch.equal(logits(first.eval()), changed)
    assert torch.equal(logits(second), kept)
    assert all(p.grad is None for p in backbone.parameters())
    assert all(p.grad is None for p in second.sources.parameters())


def test_generation_of_two_models_in_turn_equals_generation_alone():
    options = {"max_new_tokens": 5, "min_new_tokens": 5, "num_beams": 2}
    batch = make_batch()
    inputs = {"attention_mask": batch["attention_mask"], "task_ids": batch["task_ids"]}
    alone = [tuned(make_bart(), m).generate(batch["input_ids"], **inputs, **options) for m in (SMALL, "lora")]
    backbone = make_bart()
    models = [tuned(backbone, m) for m in (SMALL, "lora")]
    for _ in range(2):
        for model, expected in zip(models, alone, strict=True):
            assert torch.equal(model.generate(batch["input_ids"], **inputs, **options), expected)


def test_a_pass_that_fails_leaves_the_bare_backbone():
    backbone = make_t5()
    bare = logits(backbone)
    model = tuned(backbone, SMALL)
    tuned_logits = logits(model)
    batch = make_batch()
    with pytest.raises(IndexError):
        model(**{**batch, "decoder_input_ids": torch.full((4, 2), 10_000)})
    assert torch.equal(logits(backbone), bare)
    assert torch.equal(logits(model), tuned_logits)


def test_full_training_works_on_a_copy_beside_a_tuned_model():
    backbone = make_bart()
    bare, beside = logits(backbone), tuned(backbone, SMALL)
    kept = logits(beside)
    full = TunedModel.build(backbone, method="full", tasks=["a"]).eval()
    assert full.backbone is not backbone
    assert torch.equal(logits_of_one(full), bare)
    assert all(p.requires_grad for p in full.backbone.parameters())
    with torch.no_grad():
        for parameter in full.backbone.parameters():
            parameter.add_(0.1)
    assert torch.equal(logits(backbone), bare)
    assert torch.equal(logits(beside), kept)


@torch.no_grad()
def logits_of_one(model: TunedModel) -> Tensor:
    return model(**{**make_batch(), "task_ids": None}).logits


@pytest.mark.parametrize("collecting", [True, False])
def test_a_backbone_that_nobody_holds_any_more_is_freed(collecting):
    """A notebook that loads one model after another must not keep them all, nor wait for a collector to come by."""
    gc.collect()
    gc.disable()
    try:
        backbone = make_t5()
        projection = backbone.encoder.block[0].layer[0].SelfAttention.q.weight
        seen = [weakref.ref(backbone), weakref.ref(projection)]
        model = tuned(backbone, SMALL)
        logits(model)
        if collecting:  # both at once, in a circle
            model.itself = [model]
        del backbone, model, projection
        if collecting:
            gc.collect()
        assert [held() for held in seen] == [None, None]
    finally:
        gc.enable()


def test_a_model_that_nobody_holds_any_more_has_left_its_backbone():
    backbone = make_t5()
    model = tuned(backbone, SMALL)
    bake(model, "a")  # as exports do, and let go
    model.detach()
    tuned(backbone, "lora")
    assert all(parameter.requires_grad for parameter in backbone.parameters())
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in backbone.modules())
    assert backbone.config._attn_implementation == "sdpa"


def test_a_backbone_may_be_copied_while_a_model_is_attached():
    backbone = make_t5()
    bare = logits(backbone)
    tuned_model = tuned(backbone, SMALL)
    assert torch.equal(logits(copy.deepcopy(backbone)), bare)
    assert not torch.equal(logits(tuned_model), bare)


def test_calls_from_several_threads_answer_as_one_after_the_other():
    """Two models over one backbone, in eight threads: a server's."""
    backbone = make_t5(dropout_rate=0.5)
    models = [tuned(backbone, SMALL), tuned(backbone, "lora", seed=1)]
    ids, start = make_batch()["input_ids"], threading.Barrier(8)
    calls = [(model, task) for model in models for task in ("a", "b")] * 2

    def answer(call) -> torch.Tensor:
        model, task = call
        start.wait()
        return model.generate(ids, task=task, max_new_tokens=6, min_new_tokens=6)

    expected = [model.generate(ids, task=task, max_new_tokens=6, min_new_tokens=6) for model, task in calls]
    models[1].train()
    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(answer, calls))
    assert all(torch.equal(a, b) for a, b in zip(found, expected, strict=True))
    assert [model.training for model in models] == [False, True]


def test_the_attention_function_itself_computes_what_sdpa_computes():
    """No tuned model at all: setting our attention on a backbone changes no bit."""
    for kind in ("t5", "bart"):
        backbone = make_rough(kind).float()
        bare = logits(backbone)
        assert backbone.config._attn_implementation == "sdpa"
        model = TunedModel.build(backbone, method={"name": "prefix-tuning"}, tasks=["a", "b"])
        assert backbone.config._attn_implementation == "hyperpelt"
        assert torch.equal(logits(backbone), bare)
        model.detach()
        assert backbone.config._attn_implementation == "sdpa"


def test_a_backbone_loaded_with_eager_attention_gets_it_back():
    backbone = make_t5()
    backbone.set_attn_implementation("eager")
    bare = logits(backbone)
    model = tuned(backbone, SMALL)
    model.detach()
    assert backbone.config._attn_implementation == "eager"
    assert torch.equal(logits(backbone), bare)


@pytest.mark.parametrize("method", [SMALL, "bitfit", "unipelt"], ids=str)
def test_activation_checkpointing_keeps_every_bit_on_t5(method):
    """transformers would ask for a gradient of T5's constant position bias, and SDPA take another kernel for it."""
    model = tuned(make_t5(), method).train()
    batch = make_batch()
    labels = batch.pop("decoder_input_ids")
    found = []
    for _ in range(2):
        loss = model(**batch, labels=labels).loss
        loss.backward()
        found.append((loss.detach(), [p.grad.clone() for _, p in model.trainable_parameters()]))
        model.zero_grad()
        model.gradient_checkpointing_enable()
        assert all(block.gradient_checkpointing for block in model.backbone.encoder.block)
    (plain, gradients), (loss, recomputed) = found
    assert torch.equal(loss, plain)
    assert all(torch.equal(a, b) for a, b in zip(gradients, recomputed, strict=True))


# Copies, modes, and models that were taken off


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("method", [*TOGETHER, "full"], ids=str)
def test_a_deep_copy_is_a_model_of_its_own(kind, method):
    model = tuned(KINDS[kind](), method)
    expected = logits(model)
    twin = copy.deepcopy(model)
    assert torch.equal(logits(twin), expected)
    with torch.no_grad():
        for parameter in twin.parameters():
            parameter.mul_(1.5)
    assert torch.equal(logits(model), expected)
    assert not torch.equal(logits(twin), expected)
    assert [n for n, _ in twin.trainable_parameters()] == [n for n, _ in model.trainable_parameters()]
    model.detach()
    assert twin.attached
    with torch.no_grad():
        for parameter, theirs in zip(twin.parameters(), model.parameters(), strict=True):
            parameter.copy_(theirs)
    assert torch.equal(logits(twin), expected), "what the first one does with its backbone is nothing to the copy"


def test_a_deep_copy_trains_as_its_original_does():
    model = tuned(make_t5(dropout_rate=0.1), SMALL).train()
    model.gradient_checkpointing_enable()
    batch, found = make_batch(), []
    labels = batch.pop("decoder_input_ids")
    for each in (model, copy.deepcopy(model)):
        torch.manual_seed(0)
        each(**batch, labels=labels).loss.backward()
        assert each.backbone.encoder.block[0].gradient_checkpointing
        assert all(p.grad is None for p in each.backbone.parameters())
        found.append([p.grad for _, p in each.trainable_parameters()])
    assert all(torch.equal(a, b) for a, b in zip(*found, strict=True))


def test_copies_of_models_that_share_a_backbone_share_its_copy():
    backbone = make_bart()
    models = [tuned(backbone, "lora"), tuned(backbone, SMALL, seed=1)]
    twins = copy.deepcopy(models)
    assert twins[0].backbone is twins[1].backbone is not backbone
    assert all(torch.equal(logits(a), logits(b)) for a, b in zip(models, twins, strict=True))


def test_pickling_is_refused_with_the_way_to_do_it():
    with pytest.raises(UserError, match=r"cannot be pickled.*save_pretrained.*deepcopy"):
        pickle.dumps(tuned(make_t5(), "lora"))


def test_each_model_runs_in_its_own_mode_on_a_shared_backbone():
    """Dropout of the backbone acts in the model that is trained, and in no other."""
    backbone = make_t5(dropout_rate=0.5)
    first = tuned(backbone, "lora")
    expected = logits(first)
    second = TunedModel.build(backbone, method=SMALL, tasks=["a", "b"], seed=1).train()
    assert not first.training
    for _ in range(2):
        assert torch.equal(logits(first), expected)
        assert not torch.equal(logits(second), logits(second))
    baked = bake(second, "a")
    assert (second.training, second.backbone.training) == (True, True)
    batch = {**make_batch(), "task_ids": None}
    with torch.no_grad():
        assert torch.equal(baked(**batch).logits, baked(**batch).logits)
    assert not torch.equal(logits(second), logits(second))


def test_a_layer_is_computed_again_in_the_mode_of_its_forward():
    """Whoever used the backbone in between left it in a mode of its own."""
    backbone = make_t5(dropout_rate=0.5)
    model, other = tuned(backbone, SMALL).train(), tuned(backbone, "lora", seed=1)
    model.gradient_checkpointing_enable()
    batch, found = make_batch(), []
    labels = batch.pop("decoder_input_ids")
    for between in (False, True):
        torch.manual_seed(0)
        loss = model(**batch, labels=labels).loss
        if between:
            logits(other)
        loss.backward()
        found.append([p.grad.clone() for _, p in model.trainable_parameters()])
        model.zero_grad()
    assert all(torch.equal(a, b) for a, b in zip(*found, strict=True))


def test_a_detached_model_does_not_answer_as_the_bare_backbone():
    model = tuned(make_bart(), "lora")
    model.detach()
    batch = make_batch()
    for call in (lambda: model(**batch), lambda: model.generate(batch["input_ids"], task="a", max_new_tokens=2)):
        with pytest.raises(UserError, match=r"detached.*`attach\(\)`"):
            call()
    model.attach()
    logits(model)
