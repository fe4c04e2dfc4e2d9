"""Evaluation and prediction with real small models: every answer against the same model asked in the plainest way."""

from __future__ import annotations

import copy
import json
import math
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from small_models import make_bart, make_t5

from hyperpelt import Example, Generator, Splits, Task, UserError, cli
from hyperpelt.backbones import encode_targets
from hyperpelt.evaluation import answers, encoded
from hyperpelt.evaluation import run as evaluation
from hyperpelt.evaluation.results import Results, TaskResult, load_results
from hyperpelt.evaluation.settings import Settings
from hyperpelt.model.tuned import TunedModel

WORDS = ("good", "bad", "to be", "not to be", "maybe", "the sentence is true", "no", "a")


def rows(split):
    # The training split has other proportions than the test split: the majority answer comes from training.
    labels = {"train": [1, 1, 1, 0], "validation": [0, 1], "test": [0, 0, 0, 1, 0, 1, 0]}[split]
    return [{"text": WORDS[i % 8] * (1 + i % 3), "label": label, "score": i % 6} for i, label in enumerate(labels)]


def task(name, kind="classification", source=None, **fields):
    renders = {
        "classification": lambda row: Example(input=row["text"], label=row["label"]),
        "regression": lambda row: Example(input=row["text"], label=row["score"]),
        "generation": lambda row: Example(input=row["text"], target="yes"),
    }
    defaults = {
        "classification": {"choices": ("yes", "no maybe"), "metrics": ("accuracy", "f1")},
        "regression": {"choices": ("0", "1", "2.5", "25"), "metrics": ("pearson", "spearman"), "answer": "score"},
        "generation": {"metrics": ("exact_match",)},
    }
    fields = {"render": renders[kind], **defaults[kind], **fields}
    return Task(name=name, kind=kind, source=source or Generator(rows), **fields)


BINARY, NUMBER, OPEN = task("t/binary"), task("t/number", "regression"), task("t/open", "generation")
TASKS = [BINARY, NUMBER, OPEN]


def tuned(backbone, tokenizer, method="hyperpelt"):
    model = TunedModel.build(backbone, method=method, tasks=[one.name for one in TASKS], tokenizer=tokenizer)
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for _, parameter in model.trainable_parameters():  # so that tasks differ, and differ from the backbone
            parameter.add_(torch.randn(parameter.shape, generator=generator) * 0.2)
    return model.eval()


@pytest.fixture(params=["t5", "bart"])
def model(request, tiny_tokenizer):
    return tuned(make_bart() if request.param == "bart" else make_t5(), tiny_tokenizer)


@torch.no_grad()
def plain_scores(model, name, text, choices, normalisation):
    """One forward a choice, nothing batched, padded or shared."""
    ids = torch.tensor([model.tokenizer(text)["input_ids"]])
    found = []
    for choice, target in zip(choices, encode_targets(model.tokenizer, list(choices)), strict=True):
        labels = torch.tensor([target])
        logits = model(ids, labels=labels, task_ids=torch.tensor([model.task_id(name)])).logits
        each = logits.double().log_softmax(-1)[0, torch.arange(len(target)), labels[0]]
        assert target[-1] == model.tokenizer.eos_token_id
        sums = {"sum": each[:-1].sum(), "token": each.mean(), "character": each[:-1].sum() / len(choice)}
        found.append(float(sums[normalisation]))
    return found


@pytest.mark.parametrize("normalisation", ["sum", "token", "character"])
def test_ranking_equals_one_plain_forward_a_choice(model, normalisation):
    examples = list(BINARY.examples("test"))
    settings = Settings(normalisation=normalisation, batch_size=3, decoder_rows=4)
    found = answers.answer(model, BINARY, examples, settings).answers
    for example, one in zip(examples, found, strict=True):
        expected = plain_scores(model, BINARY.name, example.input, BINARY.choices, normalisation)
        assert one.scores == pytest.approx(expected, abs=2e-5)
        assert one.prediction == expected.index(max(expected))
        assert one.text == BINARY.choices[one.prediction]


def test_a_number_lies_between_the_choices_by_their_probabilities(model):
    examples = list(NUMBER.examples("test"))
    expected = answers.answer(model, NUMBER, examples, Settings()).answers
    best = answers.answer(model, NUMBER, examples, Settings(regression="argmax")).answers
    for example, mean, top in zip(examples, expected, best, strict=True):
        scores = plain_scores(model, NUMBER.name, example.input, NUMBER.choices, "sum")
        weights = torch.tensor(scores).softmax(0)
        assert mean.prediction == pytest.approx(float(weights @ torch.tensor([0, 1, 2.5, 25])), abs=1e-3)
        assert top.prediction == float(NUMBER.choices[scores.index(max(scores))])


def test_open_answers_are_what_generate_writes_for_the_row_alone(model):
    examples = list(OPEN.examples("test"))
    found = answers.answer(model, OPEN, examples, Settings(batch_size=4, max_target_length=5)).answers
    for example, one in zip(examples, found, strict=True):
        (alone,) = model.generate([example.input], task=OPEN.name, max_new_tokens=5, do_sample=False)
        assert one.text == one.prediction == alone.strip()
        assert one.scores is None


@pytest.mark.parametrize(("batch_size", "decoder_rows"), [(1, 1), (2, 256), (64, 3), (64, 256)])
def test_the_size_of_batches_changes_no_answer(model, batch_size, decoder_rows):
    examples = list(NUMBER.examples("test"))
    settings = Settings(batch_size=batch_size, decoder_rows=decoder_rows)
    found = answers.answer(model, NUMBER, examples, settings).answers
    alone = [answers.answer(model, NUMBER, [example], Settings()).answers[0] for example in examples]
    assert [one.scores for one in found] == [pytest.approx(one.scores, abs=2e-5) for one in alone]


sizes = st.lists(st.tuples(st.integers(1, 40), st.one_of(st.none(), st.integers(1, 9))), min_size=1, max_size=40)


@given(sizes, st.integers(1, 6), st.integers(1, 12), st.integers(1, 5))
def test_every_row_is_dealt_out_exactly_once_and_all_processes_work_equally_often(
    rows, batch_size, decoder_rows, world
):
    inputs = [encoded.Input([0] * length, None, n and [[5]] * n) for length, n in rows]
    batches = encoded.cut(inputs, batch_size, decoder_rows)
    shares = [list(encoded.deal(batches, rank, world)) for rank in range(world)]
    assert len({len(share) for share in shares}) == 1
    counted = [index for share in shares for batch, counts in share if counts for index in batch]
    assert sorted(counted) == list(range(len(rows)))
    for batch in batches:
        assert len(batch) <= batch_size
        assert len(batch) == 1 or sum(inputs[index].width for index in batch) <= decoder_rows
        assert len({inputs[index].candidates is None for index in batch}) == 1


def test_results_hold_metrics_baselines_and_both_averages(model, tmp_path):
    model.train()
    results = evaluation.evaluate(model, TASKS, batch_size=4, max_target_length=4, frozen=True, progress=False)
    assert model.training, "evaluation leaves the model in the mode it found"
    content = json.loads(json.dumps(results.as_dict()))
    binary, number, text = (content["tasks"][one.name] for one in TASKS)
    # Training says "no maybe" (index 1) three times in four; two of the seven test rows are of it: P 2/7, R 1.
    assert binary["majority"]["metrics"] == {"accuracy": pytest.approx(200 / 7), "f1": pytest.approx(400 / 9)}
    assert number["majority"]["metrics"] == {"pearson": 0.0, "spearman": 0.0}
    assert text["majority"]["metrics"] == {"exact_match": 100.0}
    assert [content["tasks"][one.name]["rows"] for one in TASKS] == [7, 7, 7]
    columns = [value for one in content["tasks"].values() for value in one["metrics"].values()]
    assert content["columns"] == len(columns) == 5
    assert content["average"] == pytest.approx(sum(columns) / 5)
    assert content["average_over_tasks"] == pytest.approx(sum(t["score"] for t in content["tasks"].values()) / 3)
    assert content["majority"]["average"] == pytest.approx((200 / 7 + 400 / 9 + 100) / 5)
    assert (content["split"], content["normalisation"], content["regression"]) == ("test", "sum", "expected")
    assert content["versions"]["torch"] == torch.__version__
    assert content["model"]["trainable"] == model.num_trainable()
    bare = evaluation.evaluate(
        TunedModel.build(model.backbone, method="frozen", tasks=model.tasks, tokenizer=model.tokenizer),
        TASKS, batch_size=4, max_target_length=4, progress=False,
    )  # fmt: skip
    assert {name: dict(task.frozen) for name, task in results.tasks.items()} == {
        name: dict(task.metrics) for name, task in bare.tasks.items()
    }
    (tmp_path / "results.json").write_text(json.dumps(content))
    assert load_results(tmp_path).as_dict() == content


def test_the_frozen_row_leaves_the_tuned_model_as_it_was(model):
    before = evaluation.evaluate(model, [NUMBER], progress=False).tasks[NUMBER.name].metrics
    evaluation.evaluate(model, [NUMBER], frozen=True, progress=False)
    assert evaluation.evaluate(model, [NUMBER], progress=False).tasks[NUMBER.name].metrics == before


@pytest.mark.parametrize("training", [False, True])
def test_the_frozen_row_leaves_the_backbone_in_its_mode_and_to_its_model_alone(model, training):
    """The two models share it: one that is left on it, or in training mode, is noticed only later."""
    model.train(training)
    evaluation.evaluate(model, [NUMBER], frozen=True, progress=False)
    assert {module.training for module in model.modules()} == {training}
    model.detach()
    assert model.backbone.config._attn_implementation != "hyperpelt"
    assert all(parameter.requires_grad for parameter in model.backbone.parameters())


def test_a_task_without_training_rows_takes_its_majority_from_the_split_itself():
    alone = task("t/binary", source=Generator(rows, ("test",)), splits=Splits(train=None, validation=None))
    assert evaluation.majority_answer(alone, "test", None) == 0


def test_a_limit_is_a_sample_of_the_split(model):
    results = evaluation.evaluate(model, [BINARY], limit=3, progress=False)
    assert results.tasks[BINARY.name].rows == 3
    assert results.settings["limit"] == 3


def test_what_lowers_a_score_unseen_is_noted(model):
    cut = task("t/binary", choices=("yes", "yes no"))
    settings = {"max_source_length": 4, "progress": False}
    result = evaluation.evaluate(model, [cut], **settings).tasks[cut.name]
    assert result.num_cut > 0
    assert any("cut at 4 tokens" in note for note in result.notes)
    assert any("begins with another" in note for note in result.notes)
    result = evaluation.evaluate(model, [cut], normalisation="token", **settings).tasks[cut.name]
    assert not any("begins with another" in note for note in result.notes)


def test_mistakes_are_reported_before_anything_is_computed(model):
    with pytest.raises(UserError, match="Did you mean 'token'"):
        evaluation.evaluate(model, [BINARY], normalisation="tokens", progress=False)
    with pytest.raises(UserError, match="Did you mean 'expected'"):
        evaluation.evaluate(model, [BINARY], regression="expect", progress=False)
    with pytest.raises(UserError, match="t/other"):
        evaluation.evaluate(model, [task("t/other")], progress=False)
    with pytest.raises(UserError, match="Did you mean 'accuracy'"):
        evaluation.evaluate(model, [task("t/binary", metrics=("acuracy",))], progress=False)
    with pytest.raises(UserError, match=r"t/binary.*'tset'"):
        evaluation.evaluate(model, [BINARY], split="tset", progress=False)


def test_predict_needs_no_answer_column(model):
    found = evaluation.predict(model, BINARY, [{"text": "good"}, Example(input="bad", choices=("yes", "a", "no"))])
    assert list(found[0]["probabilities"]) == ["yes", "no maybe"]
    assert list(found[1]["probabilities"]) == ["yes", "a", "no"]
    for one in found:
        assert sum(one["probabilities"].values()) == pytest.approx(1.0)
        assert one["answer"] == max(one["probabilities"], key=one["probabilities"].get)
    (number,) = evaluation.predict(model, NUMBER, [{"text": "good"}])
    assert 0 < number["answer"] < 25
    (text,) = evaluation.predict(model, OPEN, [{"text": "good"}], max_target_length=3)
    assert list(text) == ["answer"]
    with pytest.raises(UserError, match=r"row 1.*'text'"):
        evaluation.predict(model, BINARY, [{"text": "good"}, {"txt": "bad"}])


def test_no_rows_have_no_answers(model):
    seen = task("t/binary", modalities=("text", "image"))
    for one in [*TASKS, seen]:
        assert evaluation.predict(model, one, []) == []


def test_a_model_without_a_tokenizer_says_what_it_lacks(tiny_t5):
    bare = TunedModel.build(tiny_t5, method="lora", tasks=[BINARY.name])
    with pytest.raises(UserError, match="no tokenizer"):
        evaluation.evaluate(bare, [BINARY], progress=False)


def test_images_are_refused_by_name(model):
    pictured = task("t/binary", render=lambda row: Example(input=row["text"], label=row["label"], images=(b"png",)))
    with pytest.raises(UserError, match="t/binary has images"):
        evaluation.evaluate(model, [pictured], progress=False)


def test_answers_that_are_no_number_are_counted():
    assert answers._parsed("regression", "3.5") == 3.5
    assert math.isnan(answers._parsed("regression", "three"))
    assert answers._parsed("generation", "three") == "three"


def test_averages_by_hand_and_missing_baselines():
    def result(*values, majority=None):
        metrics = {f"m{index}": value for index, value in enumerate(values)}
        return TaskResult(kind="classification", rows=2, metrics=metrics, majority=majority)

    results = Results(tasks={"a": result(10.0, 20.0, majority={"m0": 1.0}), "b": result(60.0)})
    assert results.average == pytest.approx(30.0)
    assert results.average_over_tasks == pytest.approx(37.5)
    assert results.averages("majority") is None
    assert results.as_dict()["tasks"]["a"]["score"] == pytest.approx(15.0)


def test_a_damaged_results_file_is_one_sentence(tmp_path):
    with pytest.raises(UserError, match="does not exist"):
        load_results(tmp_path)
    (tmp_path / "results.json").write_text('{"average": 3')
    with pytest.raises(UserError, match=r"not a hyperpelt results\.json"):
        load_results(tmp_path)


WRITTEN = {
    "tasks": {
        "a": {
            "metrics": {"accuracy": 50.0, "f1": None}, "score": None, "kind": "classification", "rows": 2, "invalid": 0,
            "majority": None, "frozen": None, "num_cut": 0, "seconds": 0.1, "notes": [],
            "templates": {"x": {"accuracy": 50.0, "f1": 1.0}},
            "confusion": {"choices": ["n", "y"], "counts": [[1, 0], [1, 0]]},
            "worst": [{"row": 0, "input": "text", "gold": "n", "answer": "y", "loss": 1.0, "probability": None}],
        }
    },
    "model": {"method": "lora", "trainable": 5}, "versions": {"python": "3"}, "split": "test",
    "training": {
        "seed": 0, "seconds": 1.0, "task_map": {"tasks": ["a", "b"], "cosines": [[1, 0], [0, 1]], "apart": [1, 2]},
    },
}  # fmt: skip
KINDS = (None, 5, -1, 1e400, 10**400, "x", True, [], {}, [[1]], {"a": 5}, {"a": {"metrics": {"m": "x"}}})


def places(content: Any) -> Iterator[tuple[Any, Any]]:
    """Every container in it with each of its keys."""
    for key, value in list(content.items() if isinstance(content, dict) else enumerate(content)):
        yield content, key
        if isinstance(value, dict | list):
            yield from places(value)


def test_a_results_file_with_a_value_of_another_kind_is_reported_or_refused_by_its_key(tmp_path, monkeypatch, capsys):
    """Everything at which a report may stumble, some kinds each, pictures aside."""
    for name in ("bars", "heatmap", "curves"):
        monkeypatch.setattr(f"hyperpelt.report.plots.{name}", lambda *_, **__: "<svg></svg>")
    path, content, statuses = tmp_path / "results.json", copy.deepcopy(WRITTEN), list[int]()
    for number, (inside, key) in enumerate(places(content)):
        kept = inside[key]
        for value in KINDS[number % 4 :: 4]:
            inside[key] = value
            path.write_text(json.dumps(content))
            statuses.append(cli.run(["report", str(tmp_path)]))
            assert statuses[-1] in (0, 2), (key, value, capsys.readouterr().err)
        inside[key] = kept
    assert 20 < sum(status == 0 for status in statuses) < len(statuses) - 20
    path.write_text(json.dumps(content))
    assert math.isnan(load_results(tmp_path).tasks["a"].metrics["f1"])
    content["tasks"]["a"]["rows"] = "x"
    path.write_text(json.dumps(content))
    with pytest.raises(UserError, match=r"results\.json .*tasks\.a\.rows: "):
        load_results(tmp_path)
