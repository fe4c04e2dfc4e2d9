"""What counting words achieves on the suite: logistic regression over words, and over words and pairs of neighbours.

    python -m hyperpelt_tasks.tabletop.baselines [--seed 0] [--difficulty default] [--json]

Each task's classifier is trained on all of its training rows, on their input text alone, and judged on the test rows.
The table gives the majority class, and the best of counted and of present-or-absent words (`words`), and the same
with bigrams (`bigrams`). For similarity it is Pearson's r of a ridge regression; for tasks on pictures the text is
the question or statement, so a classifier that beats the majority would answer without looking. `picture` is the
other half: what is to be seen (things, their properties and places, the cloth), without the text.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections import Counter
from collections.abc import Sequence
from typing import Any, cast

from hyperpelt import Task
from hyperpelt_tasks.tabletop import tasks

WORD = r"(?u)\b\w+\b"
SCENES = ("scene", "scene2")


def inputs(task: Task, split: str) -> tuple[list[str], list[Any]]:
    """Input texts and gold labels of a split; pictures are not drawn."""
    rows, render = task.rows(split), cast("Any", task.render)
    columns = [name for name in render.columns if name not in getattr(render, "pictures", ())]
    label = getattr(render, "label", None) or getattr(render, "answers", "label")
    return [" ".join(f"{name}: {row[name]}" for name in columns) for row in rows], [row[label] for row in rows]


def pictured(task: Task, split: str) -> tuple[list[str], list[Any]]:
    """What the pictures of a split show, one word a thing, property, place and cloth; and gold labels."""
    rows, (_, labels) = task.rows(split), inputs(task, split)
    return [" ".join(_shown(row[scene], scene) for scene in SCENES if scene in row) for row in rows], labels


def _shown(scene: str, which: str) -> str:
    cloth, *things = scene.split("+")
    parts = [cloth, *things, *(part for thing in things for part in thing.split(":"))]
    return " ".join(f"{which}_{part.replace(':', '_').replace('-', '_')}" for part in parts)


def score(task: Task, *, bigrams: bool = False, binary: bool, picture: bool = False) -> float:
    """Test accuracy (or Pearson's r) of a linear model on counted or on present words, in points.

    picture: of words that say what the pictures show, instead of the input text's.
    """
    from scipy.stats import pearsonr
    from sklearn.feature_extraction.text import CountVectorizer
    from sklearn.linear_model import LogisticRegression, Ridge

    read = pictured if picture else inputs
    (train, gold), (test, wanted) = read(task, "train"), read(task, "test")
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
    """One row a task: name, majority, words, bigrams, picture (None for a task without one)."""
    lines = []
    for task in chosen:
        ways: dict[str, dict[str, bool]] = {"words": {}, "bigrams": {"bigrams": True}}
        if "image" in task.modalities:
            ways["picture"] = {"picture": True}
        found = {name: max(score(task, binary=b, **way) for b in (False, True)) for name, way in ways.items()}
        lines.append({"name": task.name, "majority": majority(task), "picture": None, **found})
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
    columns = ("majority", "words", "bigrams", "picture")
    print(f"| {'task':28} | {' | '.join(f'{name:>8}' for name in columns)} |\n|{'-' * 30}|{'---------:|' * 4}")
    for line in lines:
        figures = (f"{line[name]:8.1f}" if line[name] is not None else f"{'':8}" for name in columns)
        print(f"| {line['name']:28} | {' | '.join(figures)} |")
    return 0


if __name__ == "__main__":
    sys.exit(main())
