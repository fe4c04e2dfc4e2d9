"""Metrics by name, in points (0-100) as the field's tables print them; higher is always better.

    compute(("f1", "accuracy"), predictions=[1, 0, 1], labels=[1, 0, 0])   # {"f1": 66.67, "accuracy": 66.67}

What a prediction and a label are depends on the task's kind:

    classification   index into the row's choices; a prediction may be None (an answer that is no choice: always wrong)
    regression       float; a prediction may be nan (an answer that is no number)
    generation       str; a label is one reference or a tuple of references, of which the best match counts (VQA and
                     captions: as their own text says)

The arithmetic is scikit-learn's and scipy's where they have it. `register` adds a metric, for tasks that need their
own. The walls: registry, classical (text), questions (VQA, DAQUAR, NLVR2), captions (BLEU, CIDEr-D), overlap
(sacrebleu, rouge-score), foreign (any metric of evaluate or torchmetrics).
"""

from __future__ import annotations

from hyperpelt.metrics.captions import bleu4, caption_words, cider_d
from hyperpelt.metrics.classical import (
    accuracy,
    exact_match,
    f1,
    f1a,
    group_exact_match,
    macro_f1,
    matthews,
    normalise_answer,
    pearson,
    spearman,
    squad_exact_match,
    squad_f1,
    token_f1,
    weighted_f1,
)
from hyperpelt.metrics.overlap import KINDS as _OVERLAP  # noqa: F401  (registers its metrics)
from hyperpelt.metrics.questions import (
    consistency,
    normalise_vqa_answer,
    set_accuracy,
    vqa_accuracy,
    vqa_scores,
    wups,
)
from hyperpelt.metrics.registry import Metric, Values, available, compute, get, names, register, require_any

__all__ = [
    "Metric",
    "Values",
    "accuracy",
    "available",
    "bleu4",
    "caption_words",
    "cider_d",
    "compute",
    "consistency",
    "exact_match",
    "f1",
    "f1a",
    "get",
    "group_exact_match",
    "macro_f1",
    "matthews",
    "names",
    "normalise_answer",
    "normalise_vqa_answer",
    "pearson",
    "register",
    "require_any",
    "set_accuracy",
    "spearman",
    "squad_exact_match",
    "squad_f1",
    "token_f1",
    "vqa_accuracy",
    "vqa_scores",
    "weighted_f1",
    "wups",
]
