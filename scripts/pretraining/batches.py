"""Rows of several objectives become one batch, as a function of a seed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from pretraining.corpus import Corpus
from pretraining.objectives import OBJECTIVES
from pretraining.rows import Noise, Row, Vocabulary

IGNORED = -100


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
        return Batch(
            source=self.source.to(device),
            source_mask=self.source_mask.to(device),
            labels=self.labels.to(device),
            weights=self.weights.to(device),
            full=self.full,
            candidates=self.candidates.to(device) if self.candidates else None,
        )


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
