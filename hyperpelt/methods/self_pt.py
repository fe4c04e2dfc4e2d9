"""Self-PT (Yuan et al. 2023, ACM Multimedia): each input prompts itself, at every self-attention.

    self-pt = self-prompt @ self_attention x per task

The authors' sizes: N = 5, PHM layers of 4 divisions, rank 8, an index of width 2, a bottleneck of d / 6. Theirs sits in
a vision-and-language T5 and reads its first position; `pool: mean` reads all real ones, in the encoder.

T5-base, one task: 746,896. Start: rows like random tokens; N = 0 is the backbone. Reference: float64 transcription.
"""

from __future__ import annotations

from hyperpelt.methods.base import Method, Part
from hyperpelt.methods.registry import method
from hyperpelt.tuners import SelfPrompt


@method(
    "self-pt",
    paper="Self-PT, ACM Multimedia 2023, openreview RLbWwxQyqfV",
    family="prefixes, prompts",
    equations="its code",
    reference="transcription",
)
def self_pt(
    *,
    length: int = 5,
    bottleneck: int = 128,
    divisions: int = 4,
    rank: int = 8,
    index_dim: int = 2,
    pool: str = "first",
    activation: str = "gelu_new",
) -> Method:
    """Self-PT; **length**: rows N; **divisions**, **rank**: of PHM layers; **index_dim**: width of a row's index.

    - **pool**: what an input is known by: its `first` position, or (in the encoder) the `mean` of the real ones
    """
    shape = {"length": length, "bottleneck": bottleneck, "divisions": divisions, "rank": rank, "index_dim": index_dim}
    part = Part(name="prompt", tuner=SelfPrompt(**shape, pool=pool, activation=activation), at=("self_attention",))
    return Method(name="self-pt", parts=(part,))
