"""One example as token ids, what examples are made with, and how pieces of text are drawn."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from pretraining.corpus import Corpus

Row = tuple[list[int], list[int], float]  # source ids, target ids, weight of a target token in the loss


@dataclass(frozen=True, kw_only=True)
class Vocabulary:
    """The ids that objectives need."""

    prefix: tuple[int, ...]  # put before every source: (CLS,) or ()
    end: int  # closes sources and targets
    pad: int
    mask: int | None = None
    questions: tuple[Question, ...] = ()
    words: np.ndarray | None = None  # bool [V]: tokens that may be a word of their own
    inner: np.ndarray | None = None  # bool [V]: tokens that go on with a word


@dataclass(frozen=True, kw_only=True)
class Question:
    """`kind` as `judgements` names it; ids of the question and of its two answers."""

    kind: str
    text: tuple[int, ...]
    yes: tuple[int, ...]
    no: tuple[int, ...]


@dataclass(frozen=True, kw_only=True)
class Noise:
    """How text is made into examples.

    - **density**, **mean_span**: share of the tokens that is masked, and tokens of a span
    - **continuation**: tokens that `continuation` writes
    - **tail**: tokens of continuation that half of the `infill` rows write after their spans
    - **judge_weight**: weight in the loss of one token of a one-word answer
    - **announce_first**: `infill` writes a mask before the first span too
    """

    density: float = 0.3
    mean_span: float = 3.0
    continuation: int = 32
    tail: int = 16
    judge_weight: float = 4.0
    announce_first: bool = False


def noise_spans(rng: np.random.Generator, length: int, *, density: float, mean_span: float) -> list[tuple[int, int]]:
    """T5's random spans: (start, end) of each noise span; the first span never starts the text.

    `random_spans_noise_mask` of the T5 code: noise and non-noise lengths are each split at random into the same number
    of non-empty segments, which alternate, so the number of masked tokens depends on `length` alone.
    """
    num_noise = min(max(round(length * density), 1), length - 1)
    num_spans = min(max(round(num_noise / mean_span), 1), num_noise, length - num_noise)
    noise = _segments(rng, num_noise, num_spans)
    kept = _segments(rng, length - num_noise, num_spans)
    ends = np.cumsum(np.stack([kept, noise], axis=1).reshape(-1))
    return [(int(start), int(end)) for start, end in zip(ends[0::2], ends[1::2], strict=True)]


def _segments(rng: np.random.Generator, total: int, count: int) -> np.ndarray:
    cuts = np.sort(rng.choice(total - 1, count - 1, replace=False)) + 1
    return np.diff(np.concatenate([[0], cuts, [total]]))


def window(corpus: Corpus, rng: np.random.Generator, length: int) -> list[int]:
    start = int(rng.integers(0, len(corpus.tokens) - length))
    return corpus.tokens[start : start + length].tolist()


def article_window(corpus: Corpus, rng: np.random.Generator, length: int) -> list[int]:
    """A piece of one article, as long as the article allows (its end token left out)."""
    while True:
        position = int(rng.integers(0, len(corpus.tokens)))
        article = corpus.article_at(position)
        first, last = int(corpus.starts[article]), int(corpus.starts[article + 1]) - 1
        if last - first >= 16:
            start = int(rng.integers(first, max(last - length, first) + 1))
            return corpus.tokens[start : min(start + length, last)].tolist()
