"""The candidates of training rows, laid out for one pass of the decoder: what `loss: ranking` compares.

A row of a task with choices has its right choice and its wrong ones as candidates, a row with an open answer that
answer alone. Candidates of a row that begin alike share a sequence of the decoder: to predict "entailment", "neutral"
and "contradiction", one token each, it reads the start token once.

    rule        a candidate's score                  EOS   (those of `hyperpelt.model.scoring`)
    sum         sum of log p                         no
    token       sum of log p / number of tokens      yes
    character   sum of log p / characters            no

All of it is made on the host from lists, so that no accelerator is waited for.

Legend: B rows, C candidates, Q sequences that the decoder reads, T their length, p places whose logits are needed, n
tokens that count.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import zip_longest
from typing import NamedTuple
from zlib import crc32

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from hyperpelt.data.choices import Choices
from hyperpelt.data.host import OnHost, unwrapped
from hyperpelt.data.tokenized import TokenizedSet, TokenRow

Ids = tuple[int, ...]


class Candidates(NamedTuple):
    """All candidates of a batch.

    - **decoder_input_ids** [Q, T]; **sequence_rows** [Q]: the row of each sequence, on the host
    - **places** [p]: positions in the flattened [Q, T] whose logits are needed
    - **at**, **tokens**, **owners** [n]: of each token that counts the place that predicts it, its id, its candidate
    - **rows**, **lengths** [C]: of each candidate its row, and what its log-likelihood is divided by
    - **right** [B]: the right candidate of each row; **open** [B]: whether it is the row's only one
    """

    decoder_input_ids: Int[Tensor, "Q T"]
    sequence_rows: Int[Tensor, " Q"] | OnHost
    places: Int[Tensor, " p"]
    at: Int[Tensor, " n"]
    tokens: Int[Tensor, " n"]
    owners: Int[Tensor, " n"]
    rows: Int[Tensor, " C"]
    lengths: Float[Tensor, " C"]
    right: Int[Tensor, " B"]
    open: Bool[Tensor, " B"]

    def to(self, device: torch.device) -> Candidates:
        """The same for a pass on `device`; `sequence_rows` stays on the host, where images are picked."""
        rest = {name: value for name, value in self._asdict().items() if name != "sequence_rows"}
        moved = {name: value.to(device, non_blocking=True) for name, value in rest.items()}
        return Candidates(sequence_rows=OnHost(unwrapped(self.sequence_rows)), **moved)


class Candidate(NamedTuple):
    """The tokens of a candidate that count, and what the sum of their log p is divided by."""

    ids: Ids
    length: int


def scored(candidate: Sequence[int], eos_token_id: int | None, normalisation: str) -> list[int]:
    """The candidate's tokens without those that the rule leaves out (EOS), which then need not be computed."""
    return list(candidate) if normalisation == "token" else [token for token in candidate if token != eos_token_id]


@dataclass(frozen=True, kw_only=True)
class Ranking:
    """Makes the candidates of batches.

    - **normalisation**: the length rule; **eos_token_id**: what two of the rules leave out
    - **most**: wrong choices of a row at most; of more, so many are drawn anew in each step
    - **multiple**: of padded lengths
    """

    choices: Choices
    normalisation: str
    eos_token_id: int | None
    start_token_id: int
    pad_token_id: int
    most: int = 32
    multiple: int = 1

    def candidates(self, rows: Iterable[tuple[TokenizedSet, int, TokenRow]], *, seed: int, step: int) -> Candidates:
        """Of a batch, whose rows come with their set and their place in it.

        What is drawn depends on seed, step, task and row alone: not on processes, workers, or other rows.
        """
        each = [self._of(tokens, place, row, (seed, step)) for tokens, place, row in rows]
        return lay_out(each, start=self.start_token_id, pad=self.pad_token_id, multiple=self.multiple)

    def _of(self, tokens: TokenizedSet, place: int, row: TokenRow, moment: tuple[int, int]) -> list[Candidate]:
        """The candidates of one row, the right one first; an open answer, its EOS included, per token."""
        target = row.labels.tolist()
        known = self.choices.of(tokens, place)
        right = next(((text, ids) for text, ids in known if ids == target), None)
        wrong = [(text, ids) for text, ids in known if ids != target]
        if right is None or not wrong:
            return [Candidate(tuple(target), max(1, len(target)))]
        if len(wrong) > self.most:
            seed, step = moment
            generator = np.random.default_rng([seed, 6, step, crc32(tokens.task.encode()), row.number])
            wrong = [wrong[index] for index in sorted(generator.choice(len(wrong), self.most, replace=False))]
        return [self._counted(text, ids) for text, ids in (right, *wrong)]

    def _counted(self, text: str, ids: Sequence[int]) -> Candidate:
        counted = tuple(scored(ids, self.eos_token_id, self.normalisation))
        lengths = {"sum": 1, "token": len(counted), "character": len(text)}
        return Candidate(counted, max(1, lengths[self.normalisation]))


def lay_out(rows: Sequence[Sequence[Candidate]], *, start: int, pad: int, multiple: int = 1) -> Candidates:
    """Each row's candidates, the right one first, as tensors.

    - **start**, **pad**: the decoder's start and padding token; **multiple**: of the sequences' length
    """
    sequences: list[Ids] = []
    sequence_rows: list[int] = []
    places: dict[tuple[int, int], int] = {}
    counted: list[tuple[int, int, int]] = []  # place, token, candidate
    owners: list[tuple[int, int]] = []  # row, length
    right = []
    for row, candidates in enumerate(rows):
        right.append(len(owners))
        reads, which = share(tuple(candidate.ids for candidate in candidates))
        for candidate, read in zip(candidates, which, strict=True):
            for time, token in enumerate(candidate.ids):
                place = places.setdefault((len(sequences) + read, time), len(places))
                counted.append((place, token, len(owners)))
            owners.append((row, candidate.length))
        sequences += reads
        sequence_rows += [row] * len(reads)
    width = -(-(1 + max(map(len, sequences))) // multiple) * multiple
    padded = [(start, *read, *[pad] * (width - 1 - len(read))) for read in sequences]
    at, tokens, owner = _columns(counted, 3)
    row_of, lengths = _columns(owners, 2)
    return Candidates(
        decoder_input_ids=torch.tensor(padded),
        sequence_rows=torch.tensor(sequence_rows),
        places=torch.tensor([sequence * width + time for sequence, time in places], dtype=torch.long),
        at=at,
        tokens=tokens,
        owners=owner,
        rows=row_of,
        lengths=lengths.float(),
        right=torch.tensor(right),
        open=torch.tensor([len(candidates) == 1 for candidates in rows]),
    )


def _columns(rows: Sequence[tuple[int, ...]], num: int) -> tuple[Tensor, ...]:
    return torch.tensor(rows, dtype=torch.long).view(-1, num).unbind(1)


@lru_cache(maxsize=4096)  # fixed choices are the same in every row
def share(candidates: tuple[Ids, ...]) -> tuple[tuple[Ids, ...], tuple[int, ...]]:
    """What the decoder has to read (after the start token) to predict all candidates, and which of it each one needs.

    A candidate's own reading is its tokens but the last; one that begins another's is served by that.
    """
    reads = sorted({ids[:-1] for ids in candidates})
    # In this order whatever begins alike stands together: a reading is followed by the one that continues it.
    kept = tuple(read for read, after in zip_longest(reads, reads[1:]) if after is None or after[: len(read)] != read)
    return kept, tuple(bisect_left(kept, ids[:-1]) for ids in candidates)
