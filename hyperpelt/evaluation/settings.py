"""What an answer depends on besides the model."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypedDict

from hyperpelt.errors import unknown
from hyperpelt.model import scoring

REGRESSION = ("expected", "argmax")


@dataclass(frozen=True, kw_only=True)
class Settings:
    """What an answer depends on besides the model.

    - **normalisation**: the length rule of `hyperpelt.model.scoring`
    - **regression**: a regression's answer is the probability-weighted mean of its choices' numbers (`expected`) or the
      number of the best choice (`argmax`)
    - **batch_size**: rows the encoder reads at once; **decoder_rows**: candidates the decoder reads at once
    - **max_source_length**, **max_target_length**: tokens; longer inputs are cut and counted
    - **num_beams**: None: as each task says
    """

    normalisation: str = "sum"
    regression: str = "expected"
    batch_size: int = 32
    decoder_rows: int = 256
    max_source_length: int = 128
    max_target_length: int = 32
    num_beams: int | None = None

    def __post_init__(self) -> None:
        scoring.check_normalisation(self.normalisation)
        if self.regression not in REGRESSION:
            raise unknown("regression rule", self.regression, REGRESSION)


class Answering(TypedDict, total=False):
    """The settings that `evaluate` and `predict` take as keywords of their own; see `Settings`."""

    normalisation: str
    regression: str
    batch_size: int
    max_source_length: int
    max_target_length: int
    num_beams: int | None
