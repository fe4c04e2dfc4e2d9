"""A plan tells what a real step takes: bytes kept to the byte, the allocator's peak, the optimiser's state."""

from __future__ import annotations

import json
from types import SimpleNamespace

import pytest
import torch
from small_models import make_bart, make_t5

from hyperpelt import cli, methods
from hyperpelt.config import load_run
from hyperpelt.data.host import OnHost, Targets
from hyperpelt.errors import UserError
from hyperpelt.methods import registry
from hyperpelt.model.tuned import TunedModel
from hyperpelt.planning import Shape, measure, page, plan_run
from hyperpelt.planning.fit import Spread, largest_batch
from hyperpelt.planning.kept import bytes_of, watched
from hyperpelt.planning.live import Live
from hyperpelt.planning.shapes import known, shape_of
from hyperpelt.planning.step import optimizer_bytes
from hyperpelt.planning.work import Work

SHAPE = Shape(rows=4, source=24, target=6, num_tasks=3)
SMALL = {"hyperpelt": {"prefix_length": 5, "bottleneck": 4, "prefix_hidden": 16}, "lora": {}, "full": {}}


@pytest.fixture
def folders(tmp_path):
    """Configurations of small backbones, without weights."""
    for name, model in {"t5": make_t5(dropout_rate=0.1), "bart": make_bart(dropout=0.1)}.items():
        model.config.save_pretrained(tmp_path / name)
    return tmp_path


def real_model(name: str, method: object, num_tasks: int = 3) -> TunedModel:
    shape = shape_of(name, "fp32")
    torch.manual_seed(0)
    backbone = type(shape)(shape.config)
    return TunedModel.build(backbone, method=method, tasks=[str(n) for n in range(num_tasks)]).train()


def real_batch(shape: Shape, vocabulary: int, known: int = 0) -> dict[str, object]:
    ids = torch.randint(3, vocabulary, (shape.rows, shape.source), generator=torch.Generator().manual_seed(1))
    mask = torch.ones_like(ids)
    mask[0, -2:] = 0  # as a batch is: not all rows are equally long
    labels = torch.randint(3, vocabulary, (shape.rows, shape.target), generator=torch.Generator().manual_seed(2))
    tasks = known + torch.arange(shape.rows) % shape.num_tasks
    shared = {"task_ids": OnHost(tasks), "targets": Targets(None), "keep_logits": False}
    return {"input_ids": ids, "attention_mask": mask, "labels": labels, **shared}


def really(model: TunedModel, shape: Shape, known: int = 0) -> tuple[int, int]:
    """(bytes kept for backward, the allocator's peak) of a real step on this machine's CPU."""
    given = real_batch(shape, model.backbone.config.vocab_size, known)
    own = [*model.parameters(), *model.buffers()]
    with watched(own) as saved:
        loss = model(**given).loss
        kept = saved()
    loss.backward()
    model.zero_grad(set_to_none=True)
    del loss
    with torch.profiler.profile(profile_memory=True) as profiler:
        model(**given).loss.backward()
        model.zero_grad(set_to_none=True)
    events = [event for event in profiler.profiler.kineto_results.events() if event.name() == "[memory]"]
    now = peak = 0
    for event in sorted(events, key=lambda event: event.start_ns()):
        now += event.nbytes()
        peak = max(peak, now)
    return kept, peak


@pytest.mark.parametrize("family", ["t5", "bart"])
@pytest.mark.parametrize("method", list(SMALL))
def test_what_is_kept_is_told_to_the_byte_and_the_peak_nearly(folders, family, method):
    spec = {"name": method, **SMALL[method]}
    costs = measure(str(folders / family), methods.get(spec), SHAPE, on_cpu=True)
    model = real_model(str(folders / family), spec)
    kept, peak = really(model, SHAPE)
    assert costs.kept == kept
    assert costs.step == pytest.approx(peak, rel=0.1)
    trained = [parameter for _, parameter in model.trainable_parameters()]
    assert costs.trained == bytes_of(trained)
    assert costs.values == model.num_trainable()
    ours = {id(parameter) for parameter in trained}
    frozen = [tensor for tensor in [*model.parameters(), *model.buffers()] if id(tensor) not in ours]
    # What prefixes are measured in is found with real weights: a few vectors.
    measured = [found for name, found in model.sources.named_buffers() if name.endswith(("__mean", "__std"))]
    assert costs.frozen == bytes_of(frozen) - bytes_of(measured)


@pytest.mark.parametrize("method", ["hyperpelt", "lora"])
def test_where_activations_are_recomputed_the_peak_is_told_nearly(folders, method):
    spec = {"name": method, **SMALL[method]}
    shape = Shape(rows=16, source=64, target=8, num_tasks=3)
    costs = measure(str(folders / "t5"), methods.get(spec), shape, on_cpu=True, checkpointing=True)
    model = real_model(str(folders / "t5"), spec)
    model.gradient_checkpointing_enable()
    kept, peak = really(model, shape)
    assert costs.kept == kept
    assert costs.step == pytest.approx(peak, rel=0.1)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["t5-small", "bart-base"])
def test_published_shapes_keep_what_a_real_step_keeps(name):
    shape = Shape(rows=2, source=16, target=4, num_tasks=2)
    costs = measure(name, methods.get("hyperpelt"), shape, on_cpu=True)
    kept, peak = really(real_model(name, "hyperpelt", 2), shape)
    assert costs.kept == kept
    assert costs.step == pytest.approx(peak, rel=0.1)


@pytest.mark.parametrize("optimizer", ["adamw", "adafactor"])
def test_the_optimisers_bytes_are_those_it_takes(optimizer):
    from hyperpelt.training.optimisation import make_optimizer, optimizer_state

    named = [("tasks", "glue/rte"), ("output_dir", "x"), ("optimizer", optimizer), ("learning_rate", 1e-3)]
    config = load_run(None, named)
    named = [("a", torch.nn.Parameter(torch.ones(5, 7))), ("b", torch.nn.Parameter(torch.ones(3)))]
    made = make_optimizer(config, named)
    for _, parameter in named:
        parameter.grad = torch.ones_like(parameter)
    made.step()
    tensors, _ = optimizer_state(made, named)
    assert optimizer_bytes([p.shape for _, p in named], optimizer) == sum(t.nbytes for t in tensors.values())


def test_checkpointing_keeps_less_and_multiplies_more(folders):
    plain, again = (
        measure(str(folders / "t5"), methods.get("lora"), SHAPE, checkpointing=how) for how in (False, True)
    )
    assert again.kept < 0.7 * plain.kept
    assert again.work["step"].flops > plain.work["step"].flops


def test_products_of_the_backbone_are_those_of_its_matrices(folders):
    """Forward, and the gradient of inputs: two FLOPs a weight and token each; attention's own products beside them."""
    costs = measure(str(folders / "bart"), methods.get("lora"), SHAPE)
    config = shape_of(str(folders / "bart"), "fp32").config
    width, tokens, answers = config.d_model, SHAPE.rows * SHAPE.source, SHAPE.rows * SHAPE.target
    encoder = config.encoder_layers * (4 * width**2 + 2 * width * config.encoder_ffn_dim) * tokens
    inner = 6 * width**2 + 2 * width * config.decoder_ffn_dim  # self-attention, q and out of cross-attention
    decoder = config.decoder_layers * (inner * answers + 2 * width**2 * tokens)  # its k and v read the encoder
    linear = 2 * 2 * (encoder + decoder + config.vocab_size * width * answers)
    backbone = costs.work["backbone"]
    assert backbone.flops - backbone.attention_flops == linear
    parts = [costs.work[part].flops for part in ("backbone", "sources", "tuners")]
    assert sum(parts) == costs.work["step"].flops


def test_tuners_that_take_less_than_they_spare_are_explained():
    def told(tuners: int) -> str:
        return page.spared(SimpleNamespace(costs=SimpleNamespace(work={"tuners": Work(tuners, 0, 0)})))

    assert "spares more there than the tuners take" in told(-5)
    assert told(0) == told(5) == ""


def test_the_largest_batch_is_the_last_that_fits():
    def held(rows: int) -> int:
        return 1000 + 70 * rows

    assert largest_batch(held, 8000, start=8) == largest_batch(held, 8000, start=8, other=32) == 100
    assert largest_batch(held, 1200, start=8) == 2
    assert largest_batch(held, 1000, start=8) == 0


def test_sharding_leaves_each_process_its_share_of_the_frozen_weights(folders):
    costs = measure(str(folders / "t5"), methods.get("hyperpelt"), SHAPE)
    alone, ddp, sharded = Spread(), Spread(8), Spread(8, fsdp=True)
    assert alone.held(costs) == ddp.held(costs) == costs.peak
    assert alone.sent(costs) == 0
    assert ddp.sent(costs) == pytest.approx(2 * costs.gradients * 7 / 8, abs=1)
    # Embeddings, and what stands before and behind the layers, are whole in every process (`_shard_backbone`).
    backbone = shape_of(str(folders / "t5"), "fp32")
    layers = [bytes_of(layer.parameters()) for layer in (*backbone.encoder.block, *backbone.decoder.block)]
    assert sharded.sent(costs) == pytest.approx((2 * costs.gradients + 2 * sum(layers)) * 7 / 8, abs=1)
    left = costs.peak - sum(layers) + sum(layers) // 8
    assert sharded.held(costs) == left + 2 * max(layers)


@pytest.mark.parametrize("method", [name for name in methods.names() if name != "frozen"])
def test_every_method_can_be_planned(folders, method):
    costs = measure(str(folders / "t5"), methods.get(method), SHAPE)
    assert costs.values > 0
    assert costs.step >= costs.kept
    assert costs.work["step"].flops > 0


def test_a_method_that_reads_descriptions_now_and_then_can_be_planned(folders):
    described = methods.get({"name": "hyperpelt", "description_dropout": 0.3})
    assert measure(str(folders / "t5"), described, SHAPE).values > 0


def test_shapes_that_are_known_have_the_published_sizes():
    sizes = {"t5-small": 60.5, "t5-base": 222.9, "t5-large": 737.7, "t5-3b": 2851.6, "t5-11b": 11307.3}
    sizes |= {"bart-base": 139.4, "bart-large": 406.3, "google/flan-t5-base": 247.6, "google/flan-t5-xxl": 11135.3}
    for name, millions in sizes.items():
        count = sum(parameter.numel() for parameter in shape_of(name, "fp32").parameters())
        assert count / 1e6 == pytest.approx(millions, rel=2e-3), name
    assert "google-t5/t5-base" in known()


def settings(folders, *more: str) -> list[str]:
    return [f"backbone={folders / 't5'}", "tasks=tabletop/nli,tabletop/sentiment", "max_source_length=16", *more]


def test_the_command_answers_in_json_and_draws(folders, capsys, tmp_path):
    picture = tmp_path / "memory"  # without an ending, and never of another name
    words = ["plan", *settings(folders), "--memory", "1GB", "--processes", "4", "--picture", str(picture), "--json"]
    assert cli.run(words) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["num_tasks"] == 2
    assert found["largest_batch"]["1GB"] > found["rows"]
    assert found["held_a_process"] >= sum(found["bytes"][part] for part in ("frozen", "trained", "optimizer", "kept"))
    assert found["estimated_seconds_a_step"] > 0
    assert "<svg" in picture.read_text()
    assert not list(tmp_path.glob("memory.*"))
    with pytest.raises(UserError, match=r"Cannot draw .*memory\.xyz: expected an ending such as \.svg"):
        page.picture([plan_run(load_run(None, settings(folders, "output_dir=x")))], tmp_path / "memory.xyz")


def test_the_command_compares_methods(folders, capsys):
    words = ["plan", *settings(folders), "precision=bf16", "batching=one_task", "--methods", "lora,full"]
    assert cli.run([*words, "--memory", "1GB"]) == 0
    said = capsys.readouterr()
    assert "lora" in said.out
    assert "full" in said.out
    assert "\nfull: Counted in fp32" in said.err  # of one alone, though not of the first
    assert "\nCounted for mixed batches" in said.err


METHOD = """
from hyperpelt import Method, Part
from hyperpelt.methods import method
from hyperpelt.tuners import LoRA

@method("NAME", paper="an example")
def planned():
    return Method(name="NAME", parts=(Part(tuner=LoRA(rank=2), at=("q",)),))
"""


@pytest.mark.parametrize("way", ["flag", "setting"])
def test_a_plugin_s_method_is_planned(folders, capsys, tmp_path, way, monkeypatch):
    monkeypatch.setattr(registry, "_METHODS", dict(registry._METHODS))  # it is forgotten afterwards
    name = f"planned-by-{way}"
    plugin = tmp_path / f"{way}.py"
    plugin.write_text(METHOD.replace("NAME", name))
    named = ["--plugin", str(plugin)] if way == "flag" else [f"plugins={plugin}"]
    words = ["plan", *settings(folders), f"method={name}", "--num-tasks", "2", "--memory", "1GB", "--json", *named]
    assert cli.run(words) == 0
    assert json.loads(capsys.readouterr().out)["method"] == name


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["--card", "h10"], "h100"),
        (["--memory", "much"], "--memory"),
        (["--methods", "loraa"], "lora"),
        (["--methods", "frozen"], "'frozen' trains nothing, so it has no step to plan"),
    ],
)
def test_what_is_misspelt_is_named(folders, capsys, words, told):
    assert cli.run(["plan", *settings(folders), *words]) == 2
    assert told in capsys.readouterr().err


def test_a_backbone_out_of_reach_names_those_that_are_known():
    config = load_run(None, [("tasks", "tabletop/nli"), ("output_dir", "x"), ("backbone", "nobody/knows-this")])
    with pytest.raises(UserError, match="t5-11b"):
        plan_run(config)


def test_bytes_alive_are_counted_until_they_go():
    with Live() as live:
        first = torch.zeros(250)
        second = first + 1
        del first
        third = second * 2
    assert live.peak == 2000
    assert live.now == 2000
    del second, third
    assert live.now == 0


def test_what_trains_the_backbone_is_planned_in_the_precision_that_a_run_takes(folders):
    config = load_run(None, [*settings(folders), "precision=bf16", "output_dir=-"])
    full, lora = (plan_run(config, method=method, memory=()) for method in ("full", "lora"))
    assert full.costs.trained == 4 * full.costs.values
    assert full.config.precision == "fp32"
    assert any("Counted in fp32" in note for note in full.notes)
    assert lora.config.precision == "bf16"
    assert not lora.notes


def test_dropout_keeps_a_byte_an_element_on_an_accelerator(folders):
    """As PyTorch's fused kernels do: there a plan was a tenth more than an H200's allocator gave out."""
    folder = folders / "t5-0"
    make_t5(dropout_rate=0.0).config.save_pretrained(folder)
    with_it, without = (measure(str(f), methods.get("lora"), SHAPE) for f in (folders / "t5", folder))
    config = shape_of(str(folder), "fp32").config
    tokens, answers = SHAPE.rows * SHAPE.source, SHAPE.rows * SHAPE.target
    widths = 2 * config.d_model + config.d_ff  # after attention, within and after the feed-forward
    encoder = config.num_layers * widths * tokens + 2 * config.d_model * tokens
    decoder = config.num_decoder_layers * (widths + config.d_model) * answers + 2 * config.d_model * answers
    assert 0 < with_it.kept - without.kept <= encoder + decoder + 4 * SHAPE.rows * (tokens + answers)


def as_a_run(folder, *more):
    """Settings of a run of `SHAPE`, so far as they are settings."""
    sizes = (f"per_device_train_batch_size={SHAPE.rows}", f"max_source_length={SHAPE.source}")
    where = (f"backbone={folder}", "tasks=glue/rte", "output_dir=-", f"max_target_length={SHAPE.target}")
    return load_run(None, [*where, *sizes, *more])


def test_the_runs_own_dropout_is_planned(folders):
    make_t5(dropout_rate=0.0).config.save_pretrained(folders / "t5-0")
    told = plan_run(as_a_run(folders / "t5", "method=lora", "dropout=0"), memory=(), num_tasks=3, on="cpu")
    without, with_it = (measure(str(folders / f), methods.get("lora"), SHAPE, on_cpu=True) for f in ("t5-0", "t5"))
    assert told.costs.kept == without.kept < with_it.kept


def test_what_is_there_between_steps_is_told_whole(folders):
    """Frozen tensors that a method draws are there as the backbone's are."""
    costs = measure(str(folders / "t5"), methods.get("vera"), SHAPE, on_cpu=True)
    model = real_model(str(folders / "t5"), "vera")
    shapes = [parameter.shape for _, parameter in model.trainable_parameters()]
    assert costs.standing == bytes_of([*model.parameters(), *model.buffers()]) + optimizer_bytes(shapes, "adamw")


def test_tasks_that_are_added_to_a_run_are_planned_as_they_are_trained(folders, tiny_tokenizer):
    """With the other run's backbone and method, and all that is not the new task's frozen."""
    backbone = make_t5(vocab_size=128, dropout_rate=0.1)
    backbone.save_pretrained(folders / "whole")
    tiny_tokenizer.save_pretrained(folders / "whole")
    method = {"name": "hyperpelt", **SMALL["hyperpelt"]}
    TunedModel.build(folders / "whole", method=method, tasks=["a", "b"]).save_pretrained(folders / "run")
    config = as_a_run("t5-small", f"from_run={folders / 'run'}")
    plan = plan_run(config, memory=(), on="cpu")
    model = TunedModel.from_pretrained(folders / "run").train()
    model.add_task("glue/rte")
    model.train_only("embedding", ["glue/rte"])
    kept, peak = really(model, Shape(rows=SHAPE.rows, source=SHAPE.source, target=SHAPE.target, num_tasks=1), known=2)
    assert plan.costs.kept == kept
    assert plan.costs.step == pytest.approx(peak, rel=0.1)
    assert plan.costs.values == model.num_trainable()
    assert plan.to_dict()["backbone"] == str(folders / "whole")
    with pytest.raises(UserError, match="leave --methods out"):
        plan_run(config, method="lora", memory=())


def test_images_are_planned_with_the_features_of_the_runs_encoder(folders):
    from hyperpelt.vision import load_image_encoder

    spec = {"name": "vl-hyperpelt", **SMALL["hyperpelt"]}
    plan = plan_run(as_a_run(folders / "t5", f"method={json.dumps(spec)}", "image_grid=2"), memory=())
    shape = shape_of(str(folders / "t5"), "fp32")
    encoder = load_image_encoder("mini-vision", grid=2)
    model = TunedModel.build(type(shape)(shape.config), method=spec, tasks=["a"], image_encoder=encoder)
    assert plan.costs.values == model.num_trainable()
    blind = plan_run(as_a_run(folders / "t5", f"method={json.dumps(spec)}", "blind=true"), memory=())
    assert blind.costs.kept < plan.costs.kept


def test_features_that_would_have_to_be_fetched_are_said(folders):
    config = as_a_run(folders / "t5", "method=vl-hyperpelt", "image_encoder=google/siglip-base-patch16-224")
    assert any("are not fetched" in note for note in plan_run(config, memory=()).notes)


def test_packed_weights_are_not_planned_in_parts(folders):
    with pytest.raises(UserError, match="not sharded"):
        plan_run(as_a_run(folders / "t5", "quantization=int8", "method=lora"), memory=(), processes=2, fsdp=True)
