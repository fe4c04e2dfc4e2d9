"""Overlap of written answers with references, as sacrebleu and rouge-score compute it: BLEU, chrF, ROUGE.

- **bleu**: sacrebleu's corpus BLEU (13a tokens), **chrf** and **chrf++**: its chrF2 without and with words (Popovic
  2015, 2017); of several references all count, as the library says
- **rouge1**, **rouge2**, **rougeL**, **rougeLsum** (Lin 2004): mean over rows of the F-measure with the best reference,
  no stemming; rougeLsum splits sentences at line ends

Both packages are optional: `pip install 'hyperpelt[metrics]'`.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

from hyperpelt.metrics.registry import Values, register

KINDS = ("generation",)


def _lacking(module: str, package: str) -> str | None:
    if importlib.util.find_spec(module) is not None:
        return None
    return f"this metric needs {package}, which is not installed: `pip install 'hyperpelt[metrics]'`."


def _references(labels: Values) -> list[Sequence[str]]:
    return [[label] if isinstance(label, str) else label for label in labels]


def _corpus(predictions: Values, labels: Values, groups: Values | None = None, *, name: str, **options: Any) -> float:
    """sacrebleu wants the first reference of every row, then the second, ...; None where a row has fewer."""
    import sacrebleu

    rows = _references(labels)
    streams = [[row[place] if place < len(row) else None for row in rows] for place in range(max(map(len, rows)))]
    function: Callable[..., Any] = getattr(sacrebleu, name)
    return float(function(list(predictions), streams, **options).score)


_CORPUS: tuple[tuple[str, str, dict[str, Any], str], ...] = (
    ("bleu", "corpus_bleu", {}, "sacrebleu's corpus BLEU"),
    ("chrf", "corpus_chrf", {}, "chrF2 of sacrebleu: overlap of characters"),
    ("chrf++", "corpus_chrf", {"word_order": 2}, "chrF2 with words of sacrebleu"),
)
for _name, _function, _options, _description in _CORPUS:
    register(
        _name, kinds=KINDS, description=_description, lacking=partial(_lacking, "sacrebleu", "sacrebleu")
    )(partial(_corpus, name=_function, **_options))  # fmt: skip


def _rouge(predictions: Values, labels: Values, groups: Values | None = None, *, name: str) -> float:
    from rouge_score.rouge_scorer import RougeScorer

    scorer = RougeScorer([name])
    rows = zip(predictions, _references(labels), strict=True)
    return 100.0 * sum(scorer.score_multi(row, guess)[name].fmeasure for guess, row in rows) / len(labels)


for _name in ("rouge1", "rouge2", "rougeL", "rougeLsum"):
    register(
        _name,
        kinds=KINDS,
        description=f"{_name}: F-measure with the best reference (rouge-score)",
        lacking=partial(_lacking, "rouge_score", "rouge-score"),
        row_wise=True,
    )(partial(_rouge, name=_name))
