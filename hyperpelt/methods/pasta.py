"""PASTA (Yang et al. 2022, arXiv 2210.04382): a vector for each special token, added to the input of every layer.

    pasta = special-token vectors @ encoder blocks x per task

Special tokens of a row are those the tokenizer calls special, padding excepted. T5-base, m=2: 18,432. Identity:
vectors 0, where ours start; the authors' start at random and are dropped out in training. Reference: float64
transcription.
"""

from __future__ import annotations

from hyperpelt.methods.base import Method, Part
from hyperpelt.methods.registry import method
from hyperpelt.tuners import SpecialTokens


@method(
    "pasta",
    paper="PASTA, arXiv 2210.04382",
    family="prefixes, prompts",
    equations="its code",
    reference="transcription",
)
def pasta(*, num_tokens: int = 2) -> Method:
    """PASTA; **num_tokens**: special tokens of a row that have a vector, from the left."""
    return Method(name="pasta", parts=(Part(tuner=SpecialTokens(num_tokens=num_tokens), at=("encoder.*.block",)),))
