"""Do answers mean the same in every split? A naive Bayes model of train's words, asked about the other splits, tells.

A local copy may be put together from sources that number their classes differently; then a run trains on one meaning
and is measured by another, and nothing fails. With C[g, p] the rows of gold g that the model answers with p, and
D = C - (row sums x column sums) / n what is left when both are independent, answers are suspicious if D gathers more on
an exchange of the answers (the best assignment) than on the answers as they are. D, not C, so that a split of other
class sizes, or words that tell nothing, are no reason.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING

from hyperpelt.tasks.findings import Finding, Numbered
from hyperpelt.tasks.types import Task

if TYPE_CHECKING:
    import numpy as np

LEARNT, ASKED = 4000, 2000  # rows of train, and of each other split: enough to tell
FEWEST = 40


def exchanged(task: Task, splits: Mapping[str, Sequence[Numbered]]) -> Iterator[Finding]:
    """A warning for each split whose fixed answers seem to be exchanged against those of train."""
    names = task.choices
    train = splits.get("train", ())
    if names is None or task.kind != "classification" or len(train) < FEWEST:
        return
    if not any(row.input.strip() for _, row in _evenly(train, LEARNT)):
        return  # another finding says that inputs are empty
    others = {split: _evenly(rows, ASKED) for split, rows in splits.items() if split != "train"}
    for split, counts in _confusions(names, _evenly(train, LEARNT), others).items():
        yield from _judged(names, split, counts)


def _evenly(rows: Sequence[Numbered], most: int) -> Sequence[Numbered]:
    return rows[:: -(-len(rows) // most)]


def _confusions(
    names: Sequence[str], train: Sequence[Numbered], others: Mapping[str, Sequence[Numbered]]
) -> dict[str, np.ndarray]:
    """C of each other split that is large enough."""
    from sklearn.feature_extraction.text import CountVectorizer
    from sklearn.metrics import confusion_matrix
    from sklearn.naive_bayes import MultinomialNB

    counter = CountVectorizer(binary=True, token_pattern=r"\S+")
    golds = [names.index(example.target) for _, example in train]
    model = MultinomialNB(fit_prior=False).fit(counter.fit_transform([row.input for _, row in train]), golds)
    found: dict[str, np.ndarray] = {}
    for split, rows in others.items():
        if len(rows) >= FEWEST:
            answers = model.predict(counter.transform([row.input for _, row in rows]))
            there = [names.index(row.target) for _, row in rows]
            found[split] = confusion_matrix(there, answers, labels=range(len(names))).astype(float)
    return found


def _judged(names: Sequence[str], split: str, counts: np.ndarray) -> Iterator[Finding]:
    from scipy.optimize import linear_sum_assignment

    total = counts.sum()
    beyond = counts - counts.sum(1, keepdims=True) * counts.sum(0, keepdims=True) / total
    golds, answers = linear_sum_assignment(beyond, maximize=True)
    gain = beyond[golds, answers].sum() - beyond.trace()
    # A tenth of the rows, and beyond chance: the sums of D vary by less than the root of their number.
    if gain < 0.1 * total + 3 * total**0.5:
        return
    moved = [(g, p) for g, p in zip(golds, answers, strict=True) if g != p]
    pairs = ", ".join(f"{names[g]!r} there is {names[p]!r} in train" for g, p in moved)
    message = (
        f"answers look exchanged: by train's words {counts.trace() / total:.0%} of {total:.0f} rows are right as they "
        f"stand, {counts[golds, answers].sum() / total:.0%} if {pairs}. Is one split labelled in another order?"
    )
    yield Finding(level="warning", about="answers", split=split, message=message)
