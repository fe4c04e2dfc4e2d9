"""Self-supervised examples out of plain text. Every function is pure: the random generator is an argument.

* `infill`: text infilling as in BART (Lewis et al. 2020, section 2.2: a whole span becomes one mask), with T5's idea
  of a target (Raffel et al. 2020, section 3.1.4): only what is missing is written, the spans separated by masks. It
  costs a fraction of rewriting the whole text, and the output softmax is the dearest part of a small model. No mask
  stands before the first span (unless `announce_first`), so that the decoder's very first token already has to be
  read out of the encoder: that is where an answer of one word will stand.
* `rewrite`: BART's own target for the same noise, the whole text. Most of it can be copied, which is what teaches an
  untrained cross-attention soonest where in the encoder to read.
* `continuation`: prefix language modelling (Raffel et al. 2020, section 3.2.2): read a piece, write what follows.
* `judge`: a question about the text, answered by one word. The answers come from the text's own order: are these two
  pieces from the same article (next sentence prediction, Devlin et al. 2019), in their right order (Lan et al. 2020),
  are the words unscrambled (Wang et al. 2020, StructBERT), does a word occur. No data set's labels are involved.
* `corruption`: T5's span corruption, one sentinel a span, as T5 is trained.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from pretraining.corpus import Corpus

IGNORED = -100
Row = tuple[list[int], list[int], float]  # source ids, target ids, weight of a target token in the loss


@dataclass(frozen=True, kw_only=True)
class Vocabulary:
    """The ids that objectives need."""

    prefix: tuple[int, ...]  # put before every source: (CLS,) or ()
    end: int  # closes sources and targets
    pad: int
    mask: int | None = None
    sentinels: tuple[int, ...] = ()
    questions: tuple[Question, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Question:
    """`kind` as in `_JUDGES`; ids of the question and of its two answers."""

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


@dataclass(frozen=True, slots=True)
class Batch:
    """source [B, S], source_mask [B, S], labels [B, T] (-100 = ignored), weights [B] of a row's target tokens."""

    source: Tensor
    source_mask: Tensor
    labels: Tensor
    weights: Tensor
    full: bool  # no padding in the sources
    candidates: Candidates | None = None  # None: the softmax is over the whole vocabulary

    def to(self, device: torch.device | str) -> Batch:
        moved = (tensor.to(device) for tensor in (self.source, self.source_mask, self.labels, self.weights))
        return Batch(*moved, self.full, self.candidates.to(device) if self.candidates else None)


@dataclass(frozen=True, slots=True)
class Candidates:
    """Words among which a step's softmax chooses: ids [C], ascending, and how many draws of the text yielded them.

    The output softmax is the dearest part of a small model. Sampled (Jean et al. 2015, section 3) it costs a fraction:
    the step's own targets and the words at random places of the text. A word of probability p is among them with
    probability 1 - (1 - p)^draws, whose logarithm the loss takes off its logit, so that the sum over the candidates
    estimates the sum over all words and rare words are not favoured for being there.
    """

    ids: Tensor
    draws: int

    def to(self, device: torch.device | str) -> Candidates:
        return Candidates(self.ids.to(device), self.draws)

    def positions(self, labels: Tensor) -> Tensor:
        """Where each label [N], which is always a candidate, stands in `ids`."""
        return torch.searchsorted(self.ids, labels)

    def log_inclusion(self, log_probabilities: Tensor) -> Tensor:
        """Logarithm [C] of each candidate's chance to be one, from the unigram distribution [V]."""
        probability = log_probabilities[self.ids].double().exp()
        return (-torch.expm1(self.draws * torch.log1p(-probability))).log().to(log_probabilities.dtype)


def draw_candidates(labels: Tensor, corpus: Corpus, draws: int, rng: np.random.Generator) -> Candidates:
    """The targets of a batch and the words at `draws` random places of the text."""
    targets = labels[labels != IGNORED]
    places = rng.integers(0, len(corpus.tokens), size=draws)
    drawn = torch.from_numpy(corpus.tokens[places].astype(np.int64))
    return Candidates(torch.cat([targets, drawn]).unique(), len(targets) + draws)


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


def _window(corpus: Corpus, rng: np.random.Generator, length: int) -> list[int]:
    start = int(rng.integers(0, len(corpus.tokens) - length))
    return corpus.tokens[start : start + length].tolist()


def infill(corpus: Corpus, rng: np.random.Generator, length: int, vocabulary: Vocabulary, noise: Noise) -> Row:
    """One row; with probability 1/2 a last mask stands for what follows the text.

    That tail makes two uses of one encoding. It stops because its budget does, so no end token is taught after it.
    """
    assert vocabulary.mask is not None
    tail = noise.tail if rng.integers(2) else 0
    tokens = _window(corpus, rng, length + tail)
    source, target, position = [*vocabulary.prefix], [], 0
    for start, end in noise_spans(rng, length, density=noise.density, mean_span=noise.mean_span):
        source += [*tokens[position:start], vocabulary.mask]
        target += [vocabulary.mask, *tokens[start:end]]
        position = end
    source += tokens[position:length]
    target = target if noise.announce_first else target[1:]
    if tail:
        return [*source, vocabulary.mask, vocabulary.end], [*target, vocabulary.mask, *tokens[length:]], 1.0
    return [*source, vocabulary.end], [*target, vocabulary.end], 1.0


def rewrite(corpus: Corpus, rng: np.random.Generator, length: int, vocabulary: Vocabulary, noise: Noise) -> Row:
    assert vocabulary.mask is not None
    tokens = _window(corpus, rng, length)
    source, position = [*vocabulary.prefix], 0
    for start, end in noise_spans(rng, length, density=noise.density, mean_span=noise.mean_span):
        source += [*tokens[position:start], vocabulary.mask]
        position = end
    return [*source, *tokens[position:], vocabulary.end], [*tokens, vocabulary.end], 1.0


def corruption(corpus: Corpus, rng: np.random.Generator, length: int, vocabulary: Vocabulary, noise: Noise) -> Row:
    tokens = _window(corpus, rng, length)
    source, target, position = [*vocabulary.prefix], [], 0
    spans = noise_spans(rng, length, density=noise.density, mean_span=noise.mean_span)
    for sentinel, (start, end) in zip(vocabulary.sentinels, spans, strict=False):
        source += [*tokens[position:start], sentinel]
        target += [sentinel, *tokens[start:end]]
        position = end
    return [*source, *tokens[position:], vocabulary.end], [*target, vocabulary.end], 1.0


def continuation(corpus: Corpus, rng: np.random.Generator, length: int, vocabulary: Vocabulary, noise: Noise) -> Row:
    tokens = _window(corpus, rng, length + noise.continuation)
    # The target stops because the piece does, not because the text does: no end token is taught here.
    return [*vocabulary.prefix, *tokens[:length], vocabulary.end], tokens[length:], 1.0


def judge(corpus: Corpus, rng: np.random.Generator, length: int, vocabulary: Vocabulary, noise: Noise) -> Row:
    question = vocabulary.questions[int(rng.integers(len(vocabulary.questions)))]
    truth = bool(rng.integers(2))
    body = _JUDGES[question.kind](corpus, rng, max(length - len(question.text) - 2, 16), vocabulary, truth)
    source = [*vocabulary.prefix, *question.text, *body, vocabulary.end]
    return source, [*(question.yes if truth else question.no), vocabulary.end], noise.judge_weight


def _article_window(corpus: Corpus, rng: np.random.Generator, length: int) -> list[int]:
    """A piece of one article, as long as the article allows (its end token left out)."""
    while True:
        position = int(rng.integers(0, len(corpus.tokens)))
        article = corpus.article_at(position)
        first, last = int(corpus.starts[article]), int(corpus.starts[article + 1]) - 1
        if last - first >= 16:
            start = int(rng.integers(first, max(last - length, first) + 1))
            return corpus.tokens[start : min(start + length, last)].tolist()


def _same_article(
    corpus: Corpus, rng: np.random.Generator, length: int, vocabulary: Vocabulary, truth: bool
) -> list[int]:
    piece = _article_window(corpus, rng, length)
    half = len(piece) // 2
    second = piece[half:] if truth else _article_window(corpus, rng, len(piece) - half)
    return [*piece[:half], vocabulary.end, *second]


def _right_order(
    corpus: Corpus, rng: np.random.Generator, length: int, vocabulary: Vocabulary, truth: bool
) -> list[int]:
    piece = _article_window(corpus, rng, length)
    half = int(rng.integers(len(piece) // 3, 2 * len(piece) // 3 + 1))
    first, second = piece[:half], piece[half:]
    return [*first, vocabulary.end, *second] if truth else [*second, vocabulary.end, *first]


def _unscrambled(
    corpus: Corpus, rng: np.random.Generator, length: int, vocabulary: Vocabulary, truth: bool
) -> list[int]:
    piece = _article_window(corpus, rng, min(length, int(rng.integers(12, 49))))
    if truth:
        return piece
    # Few swaps near one another: a bag of words cannot tell.
    for _ in range(max(len(piece) // 8, 1)):
        at = int(rng.integers(0, len(piece) - 4))
        piece[at : at + 4] = [piece[at + i] for i in rng.permutation(4)]
    return piece


def _contains(corpus: Corpus, rng: np.random.Generator, length: int, vocabulary: Vocabulary, truth: bool) -> list[int]:
    piece = _article_window(corpus, rng, length)
    other = piece if truth else _article_window(corpus, rng, length)
    at = int(rng.integers(0, len(other) - 2))
    return [*other[at : at + 2], vocabulary.end, *piece]


_JUDGES: Mapping[str, Callable[..., list[int]]] = {
    "same": _same_article,
    "order": _right_order,
    "scrambled": _unscrambled,
    "contains": _contains,
}
OBJECTIVES: Mapping[str, Callable[..., Row]] = {
    "infill": infill,
    "rewrite": rewrite,
    "continuation": continuation,
    "judge": judge,
    "corruption": corruption,
}

# Question, right answer, wrong answer: several wordings, so that no word is bound to one meaning.
QUESTIONS = (
    ("same", "same topic?", "yes", "no"),
    ("same", "are these related: true or false?", "true", "false"),
    ("same", "similar or different?", "similar", "different"),
    ("order", "in order?", "yes", "no"),
    ("order", "does the second part follow: right or wrong?", "right", "wrong"),
    ("scrambled", "correct sentence?", "yes", "no"),
    ("scrambled", "good or bad?", "good", "bad"),
    ("contains", "contained?", "yes", "no"),
    ("contains", "is it there: true or false?", "true", "false"),
)


def make_questions(encode: Callable[[str], Sequence[int]]) -> tuple[Question, ...]:
    return tuple(
        Question(kind=kind, text=tuple(encode(text)), yes=tuple(encode(yes)), no=tuple(encode(no)))
        for kind, text, yes, no in QUESTIONS
    )


def make_batch(
    corpus: Corpus,
    shares: Mapping[str, float],
    *,
    lengths: Sequence[int],
    tokens: int,
    vocabulary: Vocabulary,
    noise: Noise,
    seed: Sequence[int],
    draws: int = 0,
) -> Batch:
    """One batch as a function of its seed alone, which is what makes resuming exact.

    All windows of a batch have one length, drawn from `lengths`; `tokens` source tokens a batch. Rows are dealt to
    the objectives by `shares` (largest remainders at random). `draws` > 0 samples the softmax (`Candidates`).
    """
    rng = np.random.default_rng(list(seed))
    length = int(lengths[int(rng.integers(len(lengths)))])
    count = max(tokens // length, len(shares))
    names = list(shares)
    total = sum(shares.values())
    exact = np.asarray([shares[name] / total * count for name in names])
    counts = np.floor(exact).astype(int)
    left = count - counts.sum()
    if left:
        remainders = (exact - counts) / (exact - counts).sum()
        counts += np.bincount(rng.choice(len(names), left, p=remainders, replace=True), minlength=len(names))
    rows = [
        OBJECTIVES[name](corpus, rng, length, vocabulary, noise)
        for name, amount in zip(names, counts, strict=True)
        for _ in range(amount)
    ]
    batch = collate(rows, pad=vocabulary.pad)
    return replace(batch, candidates=draw_candidates(batch.labels, corpus, draws, rng)) if draws else batch


def collate(rows: Sequence[Row], *, pad: int) -> Batch:
    source = _pad([row[0] for row in rows], pad)
    lengths = torch.tensor([len(row[0]) for row in rows])
    mask = torch.arange(source.shape[1]) < lengths[:, None]
    labels = _pad([row[1] for row in rows], IGNORED)
    weights = torch.tensor([row[2] for row in rows])
    return Batch(source, mask.long(), labels, weights, bool(mask.all()))


def _pad(rows: Sequence[Sequence[int]], value: int) -> Tensor:
    width = max(map(len, rows))
    return torch.tensor([[*row, *[value] * (width - len(row))] for row in rows], dtype=torch.long)
