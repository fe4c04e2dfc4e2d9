"""What a decoder is trained to write, as tokens."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Literal, overload

from hyperpelt.backbones.fitting import PREFIX
from hyperpelt.backbones.plain_text import encode
from hyperpelt.errors import UserError

if TYPE_CHECKING:
    from torch import Tensor
    from transformers import PreTrainedTokenizerBase


@overload
def encode_targets(
    tokenizer: PreTrainedTokenizerBase, texts: Sequence[str], *, max_length: int | None = None
) -> list[list[int]]: ...
@overload
def encode_targets(
    tokenizer: PreTrainedTokenizerBase,
    texts: Sequence[str],
    *,
    max_length: int | None = None,
    return_tensors: Literal["pt"],
) -> Tensor: ...
def encode_targets(
    tokenizer: PreTrainedTokenizerBase,
    texts: Sequence[str],
    *,
    max_length: int | None = None,
    return_tensors: Literal["pt"] | None = None,
) -> list[list[int]] | Tensor:
    """What the decoder is trained to write: the text's tokens and one EOS, for every family alike.

    Text is text, also where it spells a special token. Never a BOS or [CLS] in front: the decoder's start token is put
    there by the model (`config.decoder_start_token_id`). The code of a language stands there alone if one was set and
    the tokenizer wants it there (`set_languages`). With `max_length` the text is cut, never its EOS.

    return_tensors "pt": [B, T], padded with -100 on the right, as a model takes its `labels`.
    """
    if tokenizer.eos_token_id is None:
        raise UserError(f"{type(tokenizer).__name__} has no EOS token, so the decoder could not learn to stop.")
    rows = _encode_targets(tokenizer, texts, max_length)
    if return_tensors is None:
        return rows
    import torch

    width = max(map(len, rows), default=0)
    return torch.tensor([[*row, *[-100] * (width - len(row))] for row in rows], dtype=torch.long).reshape(-1, width)


def _encode_targets(
    tokenizer: PreTrainedTokenizerBase, texts: Sequence[str], max_length: int | None
) -> list[list[int]]:
    if not texts:
        return []
    rows = encode(tokenizer, texts, target=True, special_tokens=False)
    language: list[int] = getattr(tokenizer, PREFIX, [])
    limit = None if max_length is None else max(max_length - 1 - len(language), 0)
    return [[*language, *row[:limit], tokenizer.eos_token_id] for row in rows]
