"""Metrics that other libraries compute: sacrebleu, rouge-score, evaluate and torchmetrics; weighted F1."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest
from sklearn.metrics import f1_score

from hyperpelt import UserError, metrics

GUESSES = ["the cat sat on the mat", "a dog", "", "nothing alike"]
GOLD = [("the cat sat on a mat", "a cat was on the mat"), "the dog barks", "some words", ("nothing alike", "x")]


def needs(module: str) -> pytest.MarkDecorator:
    return pytest.mark.skipif(importlib.util.find_spec(module) is None, reason=f"{module} is not installed")


@needs("sacrebleu")
@pytest.mark.parametrize(("name", "order"), [("bleu", None), ("chrf", 0), ("chrf++", 2)])
def test_corpus_overlap_is_sacrebleu_s_over_all_references(name: str, order: int | None) -> None:
    from sacrebleu.metrics import BLEU, CHRF

    first = [row if isinstance(row, str) else row[0] for row in GOLD]
    streams = [first, [row[1] if isinstance(row, tuple) else None for row in GOLD]]
    scorer = BLEU() if order is None else CHRF(word_order=order)
    found = metrics.compute([name], GUESSES, GOLD)[name]
    assert found == pytest.approx(scorer.corpus_score(GUESSES, streams).score)
    assert 0 < found < 100


@needs("rouge_score")
def test_rouge_takes_the_best_reference_of_each_row() -> None:
    found = metrics.compute(["rouge1", "rouge2", "rougeL", "rougeLsum"], GUESSES, GOLD)
    # 5/6 of the words, "a dog" shares one word of 2 and 3, nothing, all.
    assert found["rouge1"] == pytest.approx(100 * (5 / 6 + 2 / 5 + 0 + 1) / 4)
    assert found["rouge2"] < found["rougeL"] <= found["rouge1"]


@pytest.mark.parametrize("name", [name for name in metrics.names() if metrics.get(name).row_wise])
def test_a_row_wise_metric_is_the_mean_over_rows(name: str) -> None:
    metric = metrics.get(name)
    if metric.lacking():
        pytest.skip(metric.lacking())
    kind = metric.kinds[0]
    guesses, gold = {
        "classification": ([1, 0, 2, 1], [1, 1, 2, 0]),
        "regression": ([1.0, 2.0, 2.5, 0.0], [1.0, 3.0, 2.0, 0.5]),
        "generation": (GUESSES, GOLD),
    }[kind]
    groups = ["a", "a", "b", "c"]
    rows = [metric.function([g], [y], [k]) for g, y, k in zip(guesses, gold, groups, strict=True)]
    assert sum(rows) / 4 == pytest.approx(metric.function(guesses, gold, groups))


def test_weighted_f1_is_scikit_learn_s_and_no_choice_is_wrong() -> None:
    gold, guess = [0, 0, 0, 1, 2], [0, 1, None, 1, 2]
    wanted = f1_score(gold, [0, 1, -1, 1, 2], average="weighted", labels=[0, 1, 2])
    assert metrics.compute(["weighted_f1"], guess, gold)["weighted_f1"] == pytest.approx(100 * wanted)


@needs("torchmetrics")
def test_a_metric_of_torchmetrics_by_name_with_settings() -> None:
    kappa = "torchmetrics:MulticlassCohenKappa?num_classes=3"
    found = metrics.compute(
        [kappa, "torchmetrics:MulticlassAccuracy?num_classes=3&average=micro"], [0, 1, 2, 2], [0, 1, 2, 1]
    )
    assert list(found.values()) == pytest.approx([0.6363636, 0.75])
    assert metrics.compute(["torchmetrics:WordErrorRate"], ["a b"], ["a c"]) == {"torchmetrics:WordErrorRate": 0.5}
    with pytest.raises(UserError, match="torchmetrics has no metric 'Nonsense'"):
        metrics.compute(["torchmetrics:Nonsense"], [0], [0])
    with pytest.raises(UserError, match="failed with"):
        metrics.compute(["torchmetrics:MulticlassAccuracy"], [0], [0])


METRIC = """
import datasets
import evaluate


class Lengths(evaluate.Metric):
    def _info(self):
        texts = {"predictions": datasets.Value("string"), "references": datasets.Value("string")}
        return evaluate.MetricInfo(description="", citation="", features=datasets.Features(texts))

    def _compute(self, predictions, references):
        shorter = sum(len(p) < len(r) for p, r in zip(predictions, references))
        return {"shorter": float(shorter), "rows": float(len(references))}
"""


@needs("evaluate")
def test_a_metric_of_evaluate_by_name_and_key(tmp_path: Path) -> None:
    (tmp_path / "lengths").mkdir()
    (tmp_path / "lengths" / "lengths.py").write_text(METRIC)
    name = f"evaluate:{tmp_path / 'lengths'}"
    assert metrics.compute([f"{name}#shorter"], ["a", "bcd"], ["aa", "b"]) == {f"{name}#shorter": 1.0}
    with pytest.raises(UserError, match="gives shorter, rows: choose one as"):
        metrics.compute([name], ["a"], ["aa"])


def test_a_library_that_is_not_installed_is_told_in_a_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    for name, words in (
        ("rouge1", r"needs rouge-score, which is not installed: `pip install 'hyperpelt\[metrics\]'`"),
        ("evaluate:meteor", "needs evaluate, which is not installed: `pip install evaluate`"),
    ):
        with pytest.raises(UserError, match=words):
            metrics.compute([name], ["a"], ["a"])
