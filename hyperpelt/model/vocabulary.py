"""Tokens that a method names: their ids, and room for those that neither tokenizer nor embedding table have.

What is added is added to copies, always in the order in which the method names it; so the same run over the same
backbone has the same ids and rows, and a saved run needs neither tokenizer nor table of its own.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from transformers import PreTrainedModel, PreTrainedTokenizerBase

from hyperpelt.errors import UserError
from hyperpelt.methods.base import Method
from hyperpelt.model.copies import copy_of


def with_tokens(
    method: Method, backbone: PreTrainedModel, tokenizer: PreTrainedTokenizerBase | None
) -> tuple[Method, PreTrainedModel, PreTrainedTokenizerBase | None]:
    """The method with its tokens' ids, and a backbone and a tokenizer that have them: those given, if they do.

    Raises:
        UserError: there is no tokenizer to look names up in, or it gives a token another id than the method says.
    """
    named = [part for part in method.parts if part.tuner.named_tokens]
    if not named:
        return method, backbone, tokenizer
    wanted = list(dict.fromkeys(token for part in named for token in part.tuner.named_tokens))
    if tokenizer is None and any(parameter.is_meta for parameter in backbone.parameters()):
        ids = dict(zip(wanted, range(len(wanted)), strict=True))  # shapes are all that is asked
    else:
        tokenizer, ids = _looked_up(method, wanted, tokenizer)
        rows = _rows(backbone)
        if max(ids.values()) >= rows:
            backbone = copy_of(backbone, vocabulary=max(ids.values()) + 1)
    parts = []
    for part in method.parts:
        own = [ids[token] for token in part.tuner.named_tokens]
        known = getattr(part.tuner, "ids", ())
        if own and known and tuple(own) != tuple(known):
            raise UserError(
                f"The tokens {list(part.tuner.named_tokens)} of method {method.name!r} have the ids {list(known)} there, "
                f"but {own} in this tokenizer: it is another one, or was given other tokens."
            )
        parts.append(replace(part, tuner=part.tuner.with_token_ids(own)) if own else part)
    return replace(method, parts=tuple(parts)), backbone, tokenizer


def _looked_up(
    method: Method, wanted: Sequence[str], tokenizer: PreTrainedTokenizerBase | None
) -> tuple[PreTrainedTokenizerBase, dict[str, int]]:
    if tokenizer is None:
        raise UserError(f"Method {method.name!r} names tokens ({wanted[0]!r}, ...): give a tokenizer, or their `ids`.")
    known = tokenizer.get_vocab()
    new = [token for token in wanted if token not in known]
    if new:
        tokenizer = copy.deepcopy(tokenizer)
        tokenizer.add_tokens(new)
        known = tokenizer.get_vocab()
    return tokenizer, {token: known[token] for token in wanted}


def _rows(backbone: PreTrainedModel) -> int:
    embeddings: Any = backbone.get_input_embeddings()
    return embeddings.weight.shape[0]
