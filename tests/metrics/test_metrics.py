"""Worked examples: every figure here was computed by hand."""

from __future__ import annotations

import math

import pytest

from hyperpelt import UserError, metrics


def test_accuracy_counts_an_answer_that_is_no_choice_as_wrong():
    assert metrics.compute(["accuracy"], [0, 1, None, 1], [0, 1, 0, 0]) == {"accuracy": 50.0}


def test_accuracy_takes_any_of_several_right_answers():
    assert metrics.accuracy([2, 3], [(1, 2), (0,)]) == 50.0


def test_f1_is_that_of_choice_one():
    # choice 1: 2 found and right, 1 found and wrong, 1 missed: P = R = 2/3
    assert metrics.f1([1, 1, 1, 0, 0], [1, 1, 0, 1, 0]) == pytest.approx(200 / 3)
    # choice 0 as the positive one would have given 50
    assert metrics.f1([0, 0, 0], [0, 0, 0]) == 0.0


def test_f1_makes_an_invalid_answer_wrong_in_both_directions():
    # the invalid answer to a negative row is a false positive: P = 1/2, R = 1
    assert metrics.f1([1, None], [1, 0]) == pytest.approx(200 / 3)
    # to a positive row, a miss: P = 1, R = 1/2
    assert metrics.f1([1, None], [1, 1]) == pytest.approx(200 / 3)


def test_macro_f1_weighs_every_class_alike():
    # F1 of class 0: 2*2/(3+2) = 0.8, class 1: 0, class 2: 1
    assert metrics.macro_f1([0, 0, 0, 2], [0, 0, 1, 2]) == pytest.approx(100 * (0.8 + 0 + 1) / 3)


def test_matthews_follows_its_definition():
    # tp 2, tn 1, fp 1, fn 1: (2*1 - 1*1) / sqrt(3*3*2*2)
    assert metrics.matthews([1, 1, 0, 1, 0], [1, 1, 1, 0, 0]) == pytest.approx(100 / 6)
    assert metrics.matthews([1, 1, 1], [1, 0, 1]) == 0.0


def test_correlations():
    predictions, labels = [1.0, 2.0, 3.0, 10.0], [1.0, 2.0, 3.0, 4.0]
    # means 4 and 2.5: 14 / sqrt(50 * 5)
    assert metrics.pearson(predictions, labels) == pytest.approx(1400 / math.sqrt(250))
    assert metrics.spearman(predictions, labels) == pytest.approx(100.0)


@pytest.mark.parametrize("predictions", [[2.0, 2.0, 2.0], [math.nan, math.nan, math.nan], [math.inf, 1.0, 1.0]])
def test_an_undefined_correlation_is_zero(predictions):
    scores = metrics.compute(["pearson", "spearman"], predictions, [1.0, 2.0, 3.0])
    assert scores == {"pearson": 0.0, "spearman": 0.0}


def test_an_answer_that_is_no_number_takes_the_mean():
    assert metrics.pearson([1.0, math.nan, 3.0], [1.0, 2.0, 3.0]) == pytest.approx(100.0)


def test_exact_match_trims_and_takes_the_best_reference():
    assert metrics.exact_match([" red ", "Blue"], ["red", ("green", "blue")]) == 50.0
    assert metrics.squad_exact_match(["The Red one!", "Blue"], ["red one", ("green", "blue")]) == 100.0


def test_word_overlap_f1():
    # "big red square" and "red square": P = 2/3, R = 1; and the better of two references
    assert metrics.squad_f1(["a big red square"], ["the red square"]) == pytest.approx(80.0)
    assert metrics.token_f1(["red"], [("blue", "red")]) == 100.0
    # a word counts as often as both have it
    assert metrics.squad_f1(["red red"], ["red"]) == pytest.approx(200 / 3)
    # an empty answer matches only an empty reference ("the" is empty once normalised)
    assert metrics.squad_f1(["", "the"], ["red", "a"]) == 50.0


def test_multirc_scores_answers_and_whole_questions():
    predictions, labels, groups = [1, 0, 1, 1], [1, 0, 1, 0], ["q1", "q1", "q2", "q2"]
    scores = metrics.compute(["f1a", "group_exact_match"], predictions, labels, groups=groups)
    assert scores == {"f1a": pytest.approx(80.0), "group_exact_match": 50.0}


def test_group_metric_without_groups_says_what_to_set():
    with pytest.raises(UserError, match=r"Example\.group"):
        metrics.compute(["group_exact_match"], [1], [1], groups=[None])


def test_a_misspelt_metric_names_the_nearest():
    with pytest.raises(UserError, match="Did you mean 'accuracy'"):
        metrics.compute(["acuracy"], [1], [1])


def test_no_rows_is_the_users_error():
    with pytest.raises(UserError, match="No rows"):
        metrics.compute(["accuracy"], [], [])


def test_a_metric_can_be_added_once():
    def shouting(predictions, labels, groups=None):
        return 100.0 * sum(prediction.isupper() for prediction in predictions) / len(labels)

    metrics.register("test_shouting", kinds=("generation",), description="share in capitals")(shouting)
    try:
        assert metrics.compute(["test_shouting"], ["HEY", "hey"], ["", ""]) == {"test_shouting": 50.0}
        with pytest.raises(UserError, match="exists already"):
            metrics.register("test_shouting", kinds=(), description="")(shouting)
    finally:
        metrics.registry._METRICS.pop("test_shouting")


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize(
    "name", [n for n in metrics.names() if {"classification", "regression"} & {*metrics.get(n).kinds}]
)
@pytest.mark.parametrize(
    ("predictions", "labels"), [([1], [1]), ([0, 0], [0, 0]), ([1, 1, 1], [1, 1, 1]), ([0, 1], [1, 1])]
)
def test_few_rows_of_one_answer_are_scored_in_silence(name, predictions, labels):
    metric = metrics.get(name)
    values = (
        [[float(v) for v in each] for each in (predictions, labels)]
        if "regression" in metric.kinds
        else [predictions, labels]
    )
    found = metric.function(*values, groups=[(0,)] * len(labels))
    assert math.isfinite(found)
