"""Methods by name, with overrides, as compositions and by strangers; what they become on disk and back."""

from __future__ import annotations

import ast
import importlib
import inspect
import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import pytest
import torch
import yaml
from small_models import make_bart, make_t5
from support import forms, spec_of
from torch import Tensor

from hyperpelt import methods
from hyperpelt.commands.method_rows import as_yaml
from hyperpelt.config import load_run
from hyperpelt.errors import UserError
from hyperpelt.methods import Method, Part
from hyperpelt.methods import registry as methods_registry
from hyperpelt.methods.rates import BY_NAME, suited_rate
from hyperpelt.model.tuned import TunedModel
from hyperpelt.operations import Operation
from hyperpelt.tuners import Adapter, Gate, LoRA, Prefix, Site, TensorSpec, Tuner, tuner_type
from hyperpelt.tuners import base as tuners_base

NAMED = [
    "adalora", "alphatuning", "apt", "bitfit", "compacter", "compacter++", "conv-adapter", "dynamic-subset",
    "frozen", "full", "houlsby", "hyperblock", "hyperdecoders", "hyperformer", "hyperformer++", "hyperpelt",
    "hyperprefix", "hyperprompt", "ia3", "krona", "layer-norm", "lora", "lst", "mam", "memvp", "mixphm",
    "parallel-adapter", "pasta", "pfeiffer", "prefix-tuning", "prefix-tuning-mlp", "prompt-tuning", "self-pt",
    "spt", "taps", "text-to-lora", "u-tuning", "unfreeze-with-care", "unipelt", "vera", "visual-tokens",
    "vl-adapter", "vl-hyperpelt",
]  # fmt: skip


def rows() -> dict[str, Tensor]:
    ids = torch.tensor([[5, 6, 2, 1], [7, 2, 1, 0]])
    return {"input_ids": ids, "attention_mask": (ids != 0).long(), "labels": torch.tensor([[4, 1], [3, 1]])}


def test_the_published_methods_are_all_there_and_each_says_its_paper():
    assert methods.names() == sorted(NAMED)
    for name in NAMED:
        assert methods.get(name).paper, name


@pytest.mark.parametrize("name", [*NAMED, *forms()])
def test_a_method_survives_json_and_yaml_with_every_setting(name):
    made = methods.get(spec_of(name))
    data = made.to_dict()
    assert data["name"] == name
    for text, parse in ((json.dumps(data), json.loads), (yaml.safe_dump(data), yaml.safe_load)):
        again = methods.method_from_dict(parse(text))
        assert again.parts == made.parts
        assert {n: again.source(n) for n in data["sources"]} == {n: made.source(n) for n in data["sources"]}
        assert again.to_dict() == data


@pytest.mark.parametrize("name", [*NAMED, *forms()])
def test_what_methods_show_prints_pasted_into_a_run_is_the_method(name, tmp_path):
    made = methods.get(spec_of(name))
    (tmp_path / "run.yaml").write_text(f"tasks: [toy/mood]\n{as_yaml(made)}output_dir: x\n", encoding="utf8")
    pasted = methods.get(load_run(tmp_path / "run.yaml").method)
    assert pasted.to_dict() == made.to_dict()
    assert suited_rate(pasted) == suited_rate(made)
    if name in NAMED:
        first, second = (TunedModel.build(make_t5(), method=one, tasks=["a", "b"], seed=3) for one in (made, pasted))
        values = dict(second.trainable_parameters())
        assert all(torch.equal(values[key], value) for key, value in first.trainable_parameters())
        assert first.num_trainable() == second.num_trainable()


@pytest.mark.parametrize("name", NAMED)
def test_a_method_of_ours_has_a_family_a_recipe_and_a_reference(name):
    said = methods.about(name)
    assert said.family in methods.FAMILIES[:-1]
    assert said.reference or name in ("frozen", "full")
    own, *tuners = methods.files(methods.get(spec_of(name)))
    assert own.startswith("hyperpelt.methods.")
    assert name in importlib.import_module(own).__doc__
    assert all(module.startswith("hyperpelt.tuners.") for module in tuners)


@pytest.mark.parametrize("name", NAMED)
def test_a_methods_file_fits_on_a_screen(name):
    (own, *_) = methods.files(methods.get(spec_of(name)))
    assert len(inspect.getsource(importlib.import_module(own)).splitlines()) <= 80


def test_what_carries_methods_knows_none_by_name():
    root = Path(methods.__file__).parents[1]
    carrying = [root / "methods" / "course.py", root / "training" / "courses.py"]
    carrying += [path for room in ("attachment", "weights", "methods/courses") for path in (root / room).glob("*.py")]
    assert len(carrying) > 30
    known = set(NAMED) - {"frozen", "full", "hyperpelt"}  # which are words, and the library's name
    for path in carrying:
        constants = (node.value for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.Constant))
        assert not known & {value for value in constants if isinstance(value, str)}, path


def test_hyper_and_shared_forms_move_the_per_task_tensors_only():
    unipelt, hyper, shared = (methods.get(prefix + "unipelt") for prefix in ("", "hyper-", "shared-"))
    for form, source in ((hyper, "hypernetwork"), (shared, "shared")):
        assert [(p.name, p.tuner, p.at) for p in form.parts] == [(p.name, p.tuner, p.at) for p in unipelt.parts]
        assert {form.source(part.source).type for part in form.parts} == {source}
    mixed = methods.get({"name": "hyper-houlsby", "train_norms": True, "hypernetwork": {"hyper_dim": 16}})
    assert {part.name: mixed.source(part.source).type for part in mixed.parts} == {
        "adapter": "hypernetwork",
        "norms": "shared",
    }
    assert mixed.source("hypernetwork").hypernetwork.hyper_dim == 16


def test_overrides_reach_the_tuners():
    chosen = methods.get({"name": "hyperpelt", "prefix_length": 16, "bottleneck": 8, "scale": 4, "train_norms": False})
    prefix, adapter = (part.tuner for part in chosen.parts)
    assert prefix == Prefix(length=16)
    assert (adapter.bottleneck, adapter.scale, adapter.learned_scale) == (8, 4.0, True)
    assert methods.get({"name": "lora", "at": ["q", "wo"]}).parts[0].at == ("q", "wo")
    assert methods.get({"name": "lora", "at": "q"}).parts[0].at == ("q",)


COMPOSITION = """
parts:
  - tuner: {type: prefix, length: 4}
    at: [attention, '!cross_attention']
    source: made
  - name: low_rank
    tuner: {type: gate, tuner: {type: lora, rank: 2, alpha: 4}}
    at: 'decoder.*.[qv]'
  - tuner: {type: norm}
    at: norms
    source: shared
sources:
  made:
    type: hypernetwork
    embedding_dim: 6
    reads: [task, layer]
    heads: {default: {shared: kind, hidden: 8}}
unfreeze: encoder.final_layer_norm.*
"""


def test_a_composition_from_yaml_is_built_trained_and_described(tmp_path):
    spec = yaml.safe_load(COMPOSITION)
    model = TunedModel.build(make_t5(), method=spec, tasks=["a", "b"])
    assert [part.name for part in model.method.parts] == ["prefix", "low_rank", "norm"]
    assert model.method.parts[1].tuner == Gate(tuner=LoRA(rank=2, alpha=4.0))
    assert "decoder.0.cross_attention" not in model.assembly.plan
    assert set(model.sources) == {"made", "per_task", "shared"}
    assert model.unfrozen == {"encoder.final_layer_norm.weight"}
    assert model.method.unfreeze == ("encoder.final_layer_norm.*",)
    model(**rows(), task_ids=torch.tensor([0, 1])).loss.backward()
    assert dict(model.trainable_parameters())["backbone.encoder.final_layer_norm.weight"].grad.abs().max() > 0
    described = methods.describe(spec, backbone=make_t5(), num_tasks=2)
    assert described["trainable"] == model.num_trainable()
    assert described["source"] == "hypernetwork+per_task+shared"
    assert described["parameters"] == {}
    lines = methods.describe_parts(model.method)
    assert lines[1]["at"] == "decoder.*.[qv]"
    model.save_pretrained(tmp_path)
    again = TunedModel.from_pretrained(tmp_path, backbone=make_t5())
    assert again.method.parts == model.method.parts
    assert again.num_trainable() == model.num_trainable()


@pytest.mark.parametrize("name", NAMED)
def test_every_method_is_described_with_its_settings(name):
    row = methods.describe(name, backbone=make_bart(), num_tasks=4)
    assert row["name"] == name
    assert row["paper"]
    assert row["parameters"] == methods.settings(name)
    assert (row["trainable"] == 0) == (name == "frozen")
    assert json.loads(json.dumps(row))["operations"] == row["operations"]


def test_a_method_that_extends_another_takes_its_settings_and_checks_their_types():
    for name, base in (("hyperpelt", "hyperprefix"), ("vl-hyperpelt", "hyperpelt"), ("hyperformer", "hyperformer++")):
        assert methods.settings(base).items() <= methods.settings(name).items()
        with pytest.raises(UserError, match=f"'hidden_dim' of method '{name}' must be int, got 'wide'"):
            methods.get({"name": name, "hidden_dim": "wide"})
        with pytest.raises(UserError, match="Did you mean 'hidden_dim'"):
            methods.get({"name": name, "hiden_dim": 8})
    both = methods.get({"name": "vl-hyperpelt", "hidden_dim": 8, "scale": 2}).sources
    assert both["hypernetwork"].hypernetwork.hidden_dim == both["visual"].visual.network.hidden_dim == 8


# A stranger's tuner and method, in their own file


@pytest.fixture
def stranger():
    """Registered for one test, as an import of their module would."""
    types, named = dict(tuners_base._TYPES), dict(methods_registry._METHODS)

    @tuner_type
    @dataclass(frozen=True, kw_only=True)
    class Rotate(Tuner):
        """Turns pairs of features of what an operation writes by a trained angle; angle 0 is no turn."""

        type_name: ClassVar[str] = "rotate"
        pairs: int = 4
        sign: float = 1.0

        def tensors(self, operation: Operation) -> dict[str, TensorSpec]:
            if operation.kind != "feed_forward":
                raise self.refuse(operation, "a feed-forward network")
            return {"angle": TensorSpec((self.pairs,))}

        def __call__(self, site: Site, tensors: dict[str, Tensor]) -> Tensor:
            a, b = site.output[..., : 2 * self.pairs].unflatten(-1, (self.pairs, 2)).unbind(-1)
            angle = self.sign * tensors["angle"].unsqueeze(1)
            turned = torch.stack([a * angle.cos() - b * angle.sin() - a, a * angle.sin() + b * angle.cos() - b], dim=-1)
            return torch.nn.functional.pad(turned.flatten(-2), (0, site.output.shape[-1] - 2 * self.pairs))

    @methods.method("turning", paper="a stranger's notebook")
    def turning(*, pairs: int = 4) -> Method:
        return Method(name="turning", parts=(Part(tuner=Rotate(pairs=pairs), at=("feed_forward",)),))

    yield Rotate
    for registry, before in ((tuners_base._TYPES, types), (methods_registry._METHODS, named)):
        registry.clear()
        registry.update(before)


def test_a_strangers_tuner_and_method_work_with_every_source_and_on_disk(stranger, tmp_path):
    backbone = make_bart()
    decoder_ids = torch.tensor([[2, 4], [2, 5]])
    with torch.no_grad():
        inputs = {name: rows()[name] for name in ("input_ids", "attention_mask")}
        bare = backbone(**inputs, decoder_input_ids=decoder_ids).logits
    for name in ("turning", "hyper-turning", "shared-turning"):
        model = TunedModel.build(backbone, method={"name": name, "pairs": 3}, tasks=["a", "b"])
        with torch.no_grad():
            assert torch.equal(
                model.eval()(**inputs, decoder_input_ids=decoder_ids, task_ids=torch.tensor([0, 1])).logits, bare
            )
        model(**rows(), task_ids=torch.tensor([0, 1])).loss.backward()
        assert any(p.grad.abs().max() > 0 for _, p in model.trainable_parameters())
        with torch.no_grad():
            for _, parameter in model.trainable_parameters():
                parameter.add_(0.3)
        batch = {**inputs, "decoder_input_ids": decoder_ids, "task_ids": torch.tensor([0, 1])}
        model.save_pretrained(tmp_path / name)
        again = TunedModel.from_pretrained(tmp_path / name, backbone=backbone)
        with torch.no_grad():
            turned = model(**batch).logits
            assert not torch.equal(turned, bare)
            assert torch.equal(again(**batch).logits, turned)
        model.detach()
        again.detach()
    gated = {"type": "gate", "tuner": {"type": "rotate", "pairs": 2, "sign": -1}}
    model = TunedModel.build(backbone, method={"parts": [{"tuner": gated, "at": "feed_forward"}]}, tasks=["a"])
    assert model.method.parts[0].tuner.tuner == stranger(pairs=2, sign=-1)
    assert "turning" in methods.names()
    assert methods.describe("turning", backbone=backbone, num_tasks=2)["trainable"] == 2 * 4 * 4


def test_a_name_that_is_taken_is_refused_with_both_owners(stranger):
    with pytest.raises(UserError, match=r"'adapter' is defined twice: .*hyperpelt\.tuners\.adapter\.Adapter"):
        tuner_type(Adapter)
    with pytest.raises(UserError, match=r"Method 'turning' is defined twice: .*turning"):
        methods.method("turning", paper="another")(lambda: None)


# Mistakes


@pytest.mark.parametrize(
    ("spec", "words"),
    [
        ("lorra", r"Unknown method 'lorra'\. Did you mean 'lora'"),
        ("hyper-lorra", r"Did you mean 'hyper-lora'"),
        ("hiperpelt", r"Did you mean 'hyperpelt'"),
        ("hyper-hyperpelt", r"'hyperpelt' has no per-task tensors.*Use 'hyperpelt'"),
        ("shared-full", r"'full' has no per-task tensors"),
        ({"name": "lora", "rang": 4}, r"setting of method 'lora': 'rang'\. Did you mean 'rank'"),
        ({"name": "lora", "rank": "eight"}, r"'rank' of method 'lora' must be int, got 'eight'"),
        ({"name": "lora", "alpha": "1e-3"}, r"'alpha' of method 'lora' must be float \| None, got '1e-3'"),
        ({"name": "lora", "rank": 0}, r"rank must be at least 1, got 0"),
        ({"name": "houlsby", "train_norms": "no"}, r"'train_norms' of method 'houlsby' must be bool, got 'no'"),
        (
            {"name": "hyper-lora", "hypernetwork": {"hiper_dim": 4}},
            r"setting of a hypernetwork 'hiper_dim'.*'hyper_dim'",
        ),
        ({"name": "lora", "hypernetwork": {}}, r"setting of method 'lora': 'hypernetwork'\. Known: alpha, at, rank"),
        ({"name": "u-tuning", "block": "prefx"}, r"form of u-tuning at block 'prefx'\. Did you mean 'prefix'"),
        ({"name": "u-tuning", "attention": "none", "feed_forward": "none"}, r"use the method 'frozen'"),
        (
            {"name": "hyper-lora", "hypernetwork": {"heads": {"lra": {"hidden": 4}}}},
            r"heads of source 'hypernetwork': 'lra'\. Did you mean 'lora'",
        ),
        ({"name": "shared-prefix-tuning-mlp", "hidden": 7}, r"'hidden' of method 'prefix-tuning-mlp'.*leave it out"),
        ({"name": "hyper-unipelt", "prefix_hidden": 7}, r"'prefix_hidden' of method 'unipelt'.*or use 'unipelt'"),
        ({"rank": 4}, r"needs a `name` or `parts`, got the keys \['rank'\]"),
        (None, r"a Method, got None"),
    ],
)
def test_a_mistake_in_a_named_method_is_one_sentence(spec, words):
    with pytest.raises(UserError, match=words):
        methods.get(spec)


def part(**changes: object) -> dict:
    entry = {"tuner": {"type": "lora"}, "at": "q", **changes}
    return {"parts": [{key: value for key, value in entry.items() if value is not None}]}


@pytest.mark.parametrize(
    ("spec", "words"),
    [
        (part(tuner={"type": "lorra"}), r"tuner type 'lorra'\. Did you mean 'lora'"),
        (part(tuner={"type": "lora", "rnk": 3}), r"setting of tuner 'lora': 'rnk'\. Did you mean 'rank'"),
        (part(tuner={"type": "lora", "rank": 2.5}), r"'rank' of tuner 'lora' must be int, got 2\.5"),
        (part(tuner={"rank": 3}), r"A tuner is a mapping of a `type`"),
        (part(tuner="lora"), r"A tuner is a mapping of a `type` .* got 'lora'"),
        (part(tuner={"type": "gate", "tuner": {"type": "lorra"}}), r"tuner type 'lorra'"),
        (part(tuner={"type": "gate", "tuner": "lora"}), r"'tuner' of tuner 'gate' must be Tuner, got 'lora'"),
        (part(souce="shared"), r"part 0 of a method 'souce'\. Did you mean 'source'"),
        (part(source="shard"), r"weight source of method 'composition': 'shard'\. Did you mean 'shared'"),
        (part(at=None), r"Part 0 of a method needs `tuner` and `at`, got \['tuner'\]"),
        (part(at=3), r"'at' of part 0 of a method must be tuple\[str, \.\.\.\], got 3"),
        (part(at=[]), r"Part 'lora' .* touches no operation"),
        (part(at=["q", "!*"]), r"Part 'lora' .* touches no operation"),
        (part(at="cross_atention"), r"No operation of this backbone matches 'cross_atention'"),
        (part(name="a.b"), r"letters, digits and underscores, got 'a\.b'"),
        ({"parts": part()["parts"] * 2}, r"two parts named 'lora'; give one another `name`"),
        ({"parts": "lora"}, r"`parts` of a method is a list"),
        ({"parts": ["lora"]}, r"Part 0 of a method needs `tuner` and `at`, got 'lora'"),
        ({**part(), "source": {}}, r"setting of a method's composition 'source'\. Did you mean 'sources'"),
        ({**part(), "sources": []}, r"`sources` of a method maps names"),
        (
            {**part(), "sources": {"per_task": {"type": "per_tasks"}}},
            r"weight source 'per_tasks'\. Did you mean 'per_task'",
        ),
        ({**part(), "sources": {"per_task": {"type": "per_task", "hiden": 3}}}, r"'hiden'\. Did you mean 'hidden'"),
        (
            {**part(), "sources": {"x": {"type": "shared", "hidden": 3}}},
            r"Only the weight source 'per_task' has an MLP",
        ),
        (
            {**part(source="hypernetwork"), "sources": {"hypernetwrk": {"type": "hypernetwork"}}},
            r"No part of method 'composition' uses the source 'hypernetwrk': its parts use hypernetwork",
        ),
        (
            {
                **part(source="net"),
                "sources": {"net": {"type": "hypernetwork", "heads": {"lorra": {"hidden": 4}}}},
            },
            r"heads of source 'net': 'lorra'\. Did you mean 'lora'",
        ),
        ({**part(source="values"), "sources": {"values": {"type": "shared"}}}, r"source's name .* got 'values'"),
        ({**part(source="my.net"), "sources": {"my.net": {"type": "shared"}}}, r"source's name .* got 'my\.net'"),
        (
            {**part(), "unfreeze": ["encoder.nothing.*"]},
            r"unfreezes 'encoder\.nothing\.\*', which matches no parameter",
        ),
    ],
)
def test_a_mistake_in_a_composition_is_one_sentence(spec, words):
    with pytest.raises(UserError, match=words):
        TunedModel.build(make_t5(), method=spec, tasks=["a"])


def test_tasks_are_named_once_each():
    for tasks in ([], ["a", "a"]):
        with pytest.raises(UserError, match="at least one task and each task once"):
            TunedModel.build(make_t5(), method="lora", tasks=tasks)
    model = TunedModel.build(make_t5(), method="lora", tasks=["glue/rte", "glue/cola"])
    with pytest.raises(UserError, match=r"task of this model 'glue/rta'\. Did you mean 'glue/rte'"):
        model.task_id("glue/rta")
    with pytest.raises(UserError, match=r"Give `task_ids`, .*: this model knows 2 tasks, glue/rte, glue/cola\."):
        model(**rows())


def test_a_single_task_need_not_be_in_a_list():
    assert TunedModel.build(make_t5(), method="lora", tasks="my/abc").tasks == ("my/abc",)


@pytest.mark.parametrize(
    ("method", "rate"),
    [
        ("hyperpelt", 2e-3),
        ("hyper-lora", 3e-3),
        ("shared-houlsby", 1e-3),
        ("full", 1e-4),
        ({"name": "lora", "rank": 2}, 3e-3),
        ({"name": "mine", "parts": [{"tuner": {"type": "prefix"}, "at": ["*attention"]}]}, 3e-2),
        (
            {
                "name": "both",
                "parts": [
                    {"tuner": {"type": "prefix"}, "at": ["*attention"]},
                    {"tuner": {"type": "adapter"}, "at": ["feed_forward"]},
                ],
            },
            1e-3,
        ),
        (
            {
                "name": "parted",
                "parts": [
                    {"tuner": {"type": "lora"}, "at": ["q"], "source": {"down": "shared", "up": "hypernetwork"}},
                ],
            },
            2e-3,
        ),
    ],
)
def test_a_rate_that_suits_the_method(method, rate):
    assert suited_rate(methods.get(method)) == rate


def test_rates_by_method_are_those_of_the_documents_table():
    text = (Path(__file__).parents[2] / "docs" / "comparing.md").read_text(encoding="utf8")
    found = {}
    for line in text.splitlines():
        cells = [cell.strip() for cell in line.split("|")]
        if len(cells) > 3 and cells[2] and all(sign in "0123456789e-" for sign in cells[2]) and "e" in cells[2]:
            found |= dict.fromkeys(re.findall(r"`([^`]+)`", cells[1]), float(cells[2]))
    assert found
    assert {name: BY_NAME.get(name) for name in found} == found
