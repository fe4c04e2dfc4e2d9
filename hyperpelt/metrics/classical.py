"""Metrics of text tasks: choices (GLUE, SuperGLUE), numbers (STS-B) and answers (SQuAD)."""

from __future__ import annotations

import math
import re
import string
from collections import Counter, defaultdict
from collections.abc import Callable
from typing import Any

from hyperpelt.errors import UserError
from hyperpelt.metrics.registry import Values, register

# Classification ------------------------------------------------------------------------------------------------------


def _right(prediction: Any, label: Any) -> bool:
    return prediction in label if isinstance(label, (tuple, list, set)) else prediction == label


@register("accuracy", kinds=("classification",), description="share of right answers", row_wise=True)
def accuracy(predictions: Values, labels: Values, groups: Values | None = None) -> float:
    """Share of right answers. A label may be a tuple: any of its members is right."""
    return 100.0 * sum(map(_right, predictions, labels)) / len(labels)


@register("f1", kinds=("classification",), description="F1 of the choice with index 1 (GLUE's F1)")
def f1(predictions: Values, labels: Values, groups: Values | None = None) -> float:
    """Binary F1, positive = the choice with index 1. An answer that is no choice counts as the wrong one."""
    from sklearn.metrics import f1_score

    truth = [label == 1 for label in labels]
    guess = [
        not gold if prediction is None else prediction == 1 for prediction, gold in zip(predictions, truth, strict=True)
    ]
    return 100.0 * float(f1_score(truth, guess, zero_division=0))


@register("macro_f1", kinds=("classification",), description="mean over the classes of each class's F1")
def macro_f1(predictions: Values, labels: Values, groups: Values | None = None) -> float:
    """Unweighted mean of the F1 of every class that occurs as a label or as a prediction (CB's F1)."""
    from sklearn.metrics import f1_score

    classes = sorted({*labels, *(prediction for prediction in predictions if prediction is not None)})
    return 100.0 * float(f1_score(labels, _numbered(predictions), labels=classes, average="macro", zero_division=0))


@register("weighted_f1", kinds=("classification",), description="mean of each class's F1, weighed by its rows")
def weighted_f1(predictions: Values, labels: Values, groups: Values | None = None) -> float:
    """Mean of the F1 of every class that occurs as a label, weighed by how often it does."""
    from sklearn.metrics import f1_score

    classes = sorted(set(labels))
    guess = _numbered(predictions)
    return 100.0 * float(f1_score(labels, guess, labels=classes, average="weighted", zero_division=0))


@register("matthews", kinds=("classification",), description="Matthews correlation (CoLA)")
def matthews(predictions: Values, labels: Values, groups: Values | None = None) -> float:
    """Matthews correlation, 0 for constant predictions. An answer that is no choice is a class of its own."""
    from sklearn.metrics import matthews_corrcoef

    guess = _numbered(predictions)
    if len({*labels, *guess}) == 1:  # of which scikit-learn warns
        return 0.0
    return 100.0 * matthews_corrcoef(labels, guess)


@register("f1a", kinds=("classification",), description="F1 over all answers (MultiRC's F1a)")
def f1a(predictions: Values, labels: Values, groups: Values | None = None) -> float:
    """Binary F1 over the answers of all questions together; the questions play no part."""
    return f1(predictions, labels)


@register("group_exact_match", kinds=("classification",), description="share of groups with every answer right")
def group_exact_match(predictions: Values, labels: Values, groups: Values | None = None) -> float:
    """Share of groups whose rows are all right (MultiRC's exact match). Raises UserError without groups."""
    if groups is None or any(group is None for group in groups):
        raise UserError("group_exact_match needs a group for every row: let the task's render set Example.group.")
    right: dict[Any, bool] = defaultdict(lambda: True)
    for group, prediction, label in zip(groups, predictions, labels, strict=True):
        right[group] &= _right(prediction, label)
    return 100.0 * sum(right.values()) / len(right)


def _numbered(predictions: Values) -> list[int]:
    return [-1 if prediction is None else prediction for prediction in predictions]


# Regression ----------------------------------------------------------------------------------------------------------


@register("pearson", kinds=("regression",), description="Pearson correlation (STS-B)")
def pearson(predictions: Values, labels: Values, groups: Values | None = None) -> float:
    """Pearson's r; 0 where it is undefined (one row, or all values equal), as GLUE's tables count it."""
    from scipy.stats import pearsonr

    return _correlation(pearsonr, predictions, labels)


@register("spearman", kinds=("regression",), description="Spearman rank correlation (STS-B)")
def spearman(predictions: Values, labels: Values, groups: Values | None = None) -> float:
    """Spearman's rho; 0 where it is undefined."""
    from scipy.stats import spearmanr

    return _correlation(spearmanr, predictions, labels)


def _correlation(function: Callable[..., Any], predictions: Values, labels: Values) -> float:
    guess = _without_nan([float(prediction) for prediction in predictions])
    if len(labels) < 2 or len(set(guess)) < 2 or len(set(labels)) < 2:
        return 0.0
    value = float(function(guess, labels)[0])
    return 0.0 if math.isnan(value) else 100.0 * value


def _without_nan(values: list[float]) -> list[float]:
    """Answers that are no number take the mean of the others: they neither help nor hurt as an outlier would."""
    known = [value for value in values if math.isfinite(value)]
    mean = sum(known) / len(known) if known else 0.0
    return [value if math.isfinite(value) else mean for value in values]


# Generation ----------------------------------------------------------------------------------------------------------


@register(
    "exact_match",
    kinds=("generation",),
    description="share of answers equal to a reference, spaces trimmed",
    row_wise=True,
)
def exact_match(predictions: Values, labels: Values, groups: Values | None = None) -> float:
    """Equal to a reference after stripping; case and punctuation count."""
    return _best_reference(lambda guess, gold: guess.strip() == gold.strip(), predictions, labels)


@register(
    "squad_exact_match",
    kinds=("generation",),
    description="share of answers equal to a reference, normalised",
    row_wise=True,
)
def squad_exact_match(predictions: Values, labels: Values, groups: Values | None = None) -> float:
    """Equal to a reference after SQuAD's normalisation."""
    return _best_reference(lambda guess, gold: normalise_answer(guess) == normalise_answer(gold), predictions, labels)


@register(
    "squad_f1", kinds=("generation",), description="word overlap with the best reference, normalised", row_wise=True
)
def squad_f1(predictions: Values, labels: Values, groups: Values | None = None) -> float:
    """Mean over rows of the word-overlap F1 with the best reference after SQuAD's normalisation."""
    return _best_reference(_overlap, predictions, labels)


@register("token_f1", kinds=("generation",), description="the same as squad_f1", row_wise=True)
def token_f1(predictions: Values, labels: Values, groups: Values | None = None) -> float:
    """Another name of squad_f1."""
    return squad_f1(predictions, labels)


def normalise_answer(text: str) -> str:
    """SQuAD's normalisation: lower case, no punctuation, no articles, single spaces (Rajpurkar et al. 2016)."""
    bare = "".join(character for character in text.lower() if character not in string.punctuation)
    return " ".join(re.sub(r"\b(a|an|the)\b", " ", bare).split())


def _overlap(prediction: str, reference: str) -> float:
    guess, gold = normalise_answer(prediction).split(), normalise_answer(reference).split()
    if not guess or not gold:
        return float(guess == gold)
    shared = sum((Counter(guess) & Counter(gold)).values())
    return 2 * shared / (len(guess) + len(gold))


def _best_reference(score: Callable[[str, str], float], predictions: Values, labels: Values) -> float:
    total = 0.0
    for prediction, label in zip(predictions, labels, strict=True):
        references = [label] if isinstance(label, str) else label
        total += max(float(score(prediction, reference)) for reference in references)
    return 100.0 * total / len(labels)
