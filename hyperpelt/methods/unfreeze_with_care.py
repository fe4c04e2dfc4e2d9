"""Unfreeze with care (Yang et al. 2022, arXiv 2203.02652): a prefix, and the embeddings of the tokens that are new.

    unfreeze-with-care = prefix @ attention, token rows @ embedding, head x per task

Prefix-tuning fails where answers are written in tokens that the backbone never learnt, such as those of a formal
language, while their embeddings stay frozen. `tokens` names them; one that the tokenizer lacks is added to it (and a
row to the table, in the model's own copy of the backbone), one that it has is trained from where it is. Rows are shifts
of the table's, a task's own, and the same where tokens are read and, with tied embeddings, where they are written; with
untied ones the head has rows of its own. Without tokens this is prefix-tuning.

T5-base, one task, N = 10, m tokens: 552,960 + 768 m. Identity: N = 0, rows 0. Reference: peft's TrainableTokens.
"""

from __future__ import annotations

from hyperpelt.methods.base import Method, Part
from hyperpelt.methods.registry import method
from hyperpelt.tuners import Prefix, TokenRows


@method(
    "unfreeze-with-care",
    paper="Unfreeze with care, arXiv 2203.02652",
    family="prefixes, prompts",
    reference="peft, transcription",
)
def unfreeze_with_care(
    *, prefix_length: int = 10, tokens: tuple[str, ...] = (), ids: tuple[int, ...] = (), init: str = "quiet"
) -> Method:
    """Unfreeze with care; **tokens**, or **ids** of the tokenizer: whose embeddings are trained beside the prefix."""
    parts = (
        Part(tuner=Prefix(length=prefix_length, init=init), at=("attention",)),
        Part(name="tokens", tuner=TokenRows(tokens=tokens, ids=ids), at=("embedding", "head")),
    )
    return Method(name="unfreeze-with-care", parts=parts)
