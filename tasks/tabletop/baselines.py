"""What counting words achieves on the suite: logistic regression over words, and over words and pairs of neighbours.

    python -m hyperpelt_tasks.tabletop.baselines [--seed 0] [--difficulty default] [--json]

Each task's classifier is trained on all of its training rows, on their input text alone, and judged on the test rows.
The table gives the majority class, and the best of counted and of present-or-absent words (`words`), and the same
with bigrams (`bigrams`). For similarity it is Pearson's r of a ridge regression; for tasks on pictures the text is
the question or statement, so a classifier that beats the majority would answer without looking.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections import Counter
from collections.abc import Sequence
from typing import Any

from hyperpelt import Task
from hyperpelt_tasks.tabletop import tasks

WORD = r"(?u)\b\w+\b"


def inputs(task: Task, split: str) -> tuple[list[str], list[Any]]:
    """Input texts and gold labels of a split; pictures are not drawn."""
    rows = task.rows(split)
    columns = [name for name in task.render.columns if name not in getattr(task.render, "pictures", ())]
    label = getattr(task.render, "label", None) or getattr(task.render, "answers", "label")
    return [" ".join(f"{name}: {row[name]}" for name in columns) for row in rows], [row[label] for row in rows]


def score(task: Task, *, bigrams: bool, binary: bool) -> float:
    """Test accuracy (or Pearson's r) of a linear model on counted or on present words, in points."""
    from scipy.stats import pearsonr
    from sklearn.feature_extraction.text import CountVectorizer
    from sklearn.linear_model import LogisticRegression, Ridge

    (train, gold), (test, wanted) = inputs(task, "train"), inputs(task, "test")
    vectorizer = CountVectorizer(ngram_range=(1, 2 if bigrams else 1), binary=binary, token_pattern=WORD)
    features, unseen = vectorizer.fit_transform(train), vectorizer.transform(test)
    if task.kind == "regression":
        return 100 * float(pearsonr(Ridge(10.0).fit(features, gold).predict(unseen), wanted)[0])
    return 100 * float(LogisticRegression(C=0.3, max_iter=500).fit(features, gold).score(unseen, wanted))


def majority(task: Task) -> float:
    """Accuracy of the most frequent class of the training rows on the test rows; 0 for a regression."""
    if task.kind == "regression":
        return 0.0
    top = Counter(inputs(task, "train")[1]).most_common(1)[0][0]
    wanted = inputs(task, "test")[1]
    return 100 * wanted.count(top) / len(wanted)


def table(chosen: Sequence[Task]) -> list[dict[str, Any]]:
    """One row a task: name, majority, words, bigrams."""
    lines = []
    for task in chosen:
        found = {
            n: max(score(task, bigrams=n == "bigrams", binary=b) for b in (False, True)) for n in ("words", "bigrams")
        }
        lines.append({"name": task.name, "majority": majority(task), **found})
    return lines


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m hyperpelt_tasks.tabletop.baselines", description=__doc__)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--difficulty", default="default")
    parser.add_argument("--json", action="store_true", help="print JSON instead of a table")
    options = parser.parse_args()
    suite = tasks(seed=options.seed, difficulty=options.difficulty)
    lines = table([task for task in suite if task.kind != "generation"])
    if options.json:
        print(json.dumps(lines, indent=1))
        return 0
    print(f"| {'task':28} | majority | words | bigrams |\n|{'-' * 30}|---------:|------:|--------:|")
    for line in lines:
        print(f"| {line['name']:28} | {line['majority']:8.1f} | {line['words']:5.1f} | {line['bigrams']:7.1f} |")
    return 0


if __name__ == "__main__":
    sys.exit(main())
