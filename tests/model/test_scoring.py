"""The three length rules on a worked example, and what makes them choose differently."""

from __future__ import annotations

import math

import pytest
import torch

from hyperpelt import UserError
from hyperpelt.model import scoring

EOS = 1
# Three candidates of one row: "no" (2 tokens and EOS), "indeed so" (1 token and EOS), "x" (1 token, no EOS).
LABELS = torch.tensor([[5, 6, EOS], [7, EOS, -100], [8, -100, -100]])
LOG_PROBS = torch.tensor([[-1.0, -2.0, -0.6], [-2.5, -4.5, 99.0], [-3.1, 99.0, 99.0]])
TEXTS = ["no", "indeed so", "x"]


def scores(normalisation):
    return scoring.normalise(LOG_PROBS, LABELS, TEXTS, eos_token_id=EOS, normalisation=normalisation)


@pytest.mark.parametrize(
    ("normalisation", "expected", "winner"),
    [
        ("sum", [-3.0, -2.5, -3.1], 1),  # EOS left out
        ("token", [-3.6 / 3, -7.0 / 2, -3.1], 0),  # EOS scored and counted
        ("character", [-3.0 / 2, -2.5 / 9, -3.1], 1),  # EOS left out, divided by the text's length
    ],
)
def test_each_length_rule_follows_its_definition(normalisation, expected, winner):
    found = scores(normalisation)
    assert found.dtype == torch.float64
    torch.testing.assert_close(found, torch.tensor(expected, dtype=torch.float64), rtol=0, atol=1e-6)
    assert scoring.best(found.tolist()) == winner


def test_padding_never_reaches_a_score():
    poisoned = LOG_PROBS.masked_fill(LABELS == -100, math.nan)
    for normalisation in scoring.NORMALISATIONS:
        found = scoring.normalise(poisoned, LABELS, TEXTS, eos_token_id=EOS, normalisation=normalisation)
        assert torch.equal(found, scores(normalisation))


def test_a_misspelt_rule_names_the_nearest():
    with pytest.raises(UserError, match="Did you mean 'character'"):
        scores("charakter")


def test_candidates_return_to_their_rows():
    found = scoring.group(torch.tensor([0.1, 0.2, 0.3]).double(), torch.tensor([1, 0, 1]), 3)
    assert found == [[pytest.approx(0.2)], [pytest.approx(0.1), pytest.approx(0.3)], []]


def test_probabilities_and_expected_value():
    log_weights = [math.log(1), math.log(3)]
    assert scoring.probabilities(log_weights) == pytest.approx([0.25, 0.75])
    assert scoring.expected_value(log_weights, [0.0, 4.0]) == pytest.approx(3.0)


def test_the_first_of_equals_wins():
    assert scoring.best([1.0, 2.0, 2.0]) == 1


def test_a_candidate_that_begins_with_another_is_found():
    assert scoring.shadowed([[3, 4], [5], [3]])
    assert scoring.shadowed([[3], [3]])
    assert not scoring.shadowed([[3, 4], [4, 3], [3, 5]])
