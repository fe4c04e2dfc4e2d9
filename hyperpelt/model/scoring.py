"""Ranking candidates: from the log-probabilities of their tokens to scores, probabilities, a choice.

Pure functions; the model's one decoder pass that yields the log-probabilities is `TunedModel.token_log_probs`. Three
length rules are in use in the field, and they choose differently. Results record by name which one was taken.

    name        score                                EOS   used by
    sum         sum of log p                         no    lm-eval `acc`
    token       sum of log p / number of tokens      yes   T-Few (length_norm 1)
    character   sum of log p / characters            no    lm-eval `acc_norm`

Without EOS a candidate that begins with another one ("bank account", "bank") can never win: log p of the longer is the
shorter's plus something negative. `shadowed` finds such rows; choose `token` for them.

Letters: N candidates, T tokens of the longest one, R rows that the candidates belong to.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import torch
from jaxtyping import Float, Int
from torch import Tensor

from hyperpelt.data.candidates import scored as scored
from hyperpelt.errors import unknown

NORMALISATIONS = ("sum", "token", "character")


def check_normalisation(name: str) -> str:
    """`name` if it is a known length rule; UserError with the nearest ones otherwise."""
    if name not in NORMALISATIONS:
        raise unknown("normalisation", name, NORMALISATIONS)
    return name


def normalise(
    token_log_probs: Float[Tensor, "N T"],
    labels: Int[Tensor, "N T"],
    texts: Sequence[str],
    *,
    eos_token_id: int | None,
    normalisation: str = "sum",
) -> Float[Tensor, " N"]:
    """Each candidate's score in nats, float64; higher is better.

    Args:
        token_log_probs: log p of every target token; what it holds at padding plays no part.
        labels: the target tokens, padded with -100. A candidate usually ends with EOS.
        texts: the N candidates as text; their lengths in characters divide under `character`.
        eos_token_id: the token that `sum` and `character` leave out; None if targets have none.
        normalisation: `sum`, `token` or `character`.

    Raises:
        UserError: for an unknown normalisation.
    """
    check_normalisation(normalisation)
    labels = labels.to(token_log_probs.device)
    counted = labels != -100
    if normalisation != "token" and eos_token_id is not None:
        counted = counted & (labels != eos_token_id)
    total = token_log_probs.double().masked_fill(~counted, 0.0).sum(dim=1)
    if normalisation == "sum":
        return total
    if normalisation == "token":
        return total / counted.sum(dim=1).clamp(min=1)
    lengths = torch.tensor([max(len(text), 1) for text in texts], dtype=torch.float64, device=total.device)
    return total / lengths


def group(scores: Float[Tensor, " N"], rows: Int[Tensor, " N"], num_rows: int) -> list[list[float]]:
    """The candidates' scores as one list for each of the R rows, in the candidates' order."""
    grouped: list[list[float]] = [[] for _ in range(num_rows)]
    for row, score in zip(rows.tolist(), scores.tolist(), strict=True):
        grouped[row].append(score)
    return grouped


def best(scores: Sequence[float]) -> int:
    """The index of the highest score; the first one of equals."""
    return max(range(len(scores)), key=scores.__getitem__)


def probabilities(scores: Sequence[float]) -> list[float]:
    """Softmax over one row's candidates. Under `token` and `character` these are of the normalised scores."""
    return torch.tensor(scores, dtype=torch.float64).softmax(dim=0).tolist()


def expected_value(scores: Sequence[float], values: Sequence[float]) -> float:
    """The probability-weighted mean of the candidates' numbers: a regression's answer between its choices."""
    return sum(weight * value for weight, value in zip(probabilities(scores), values, strict=True))


def shadowed(candidates: Sequence[Sequence[int]]) -> bool:
    """Whether one candidate's tokens (without EOS) begin with all of another one's, so that it cannot win unscored EOS.

    Equal candidates count too: nothing can tell them apart.
    """
    ordered = sorted(map(tuple, candidates))
    return any(longer[: len(shorter)] == shorter for shorter, longer in pairwise(ordered))
