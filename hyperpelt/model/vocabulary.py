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
from hyperpelt.methods.base import Method, Part
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
    if tokenizer is None:
        parts = [_known(method, part, backbone) for part in method.parts]
    else:
        tokenizer, ids = _looked_up(named, tokenizer)
        parts = [_told(method, part, [ids[token] for token in part.tuner.named_tokens]) for part in method.parts]
    most = max(number for part in parts for number in getattr(part.tuner, "ids", ()))
    if most >= num_rows(backbone) and not any(parameter.is_meta for parameter in backbone.parameters()):
        backbone = copy_of(backbone, vocabulary=most + 1)
    return replace(method, parts=tuple(parts)), backbone, tokenizer


def _known(method: Method, part: Part, backbone: PreTrainedModel) -> Part:
    """A part that knows its tokens' ids already, or of whose tensors shapes are all that is asked."""
    tokens = part.tuner.named_tokens
    if not tokens or getattr(part.tuner, "ids", ()):
        return part
    if any(parameter.is_meta for parameter in backbone.parameters()):
        return replace(part, tuner=part.tuner.with_token_ids(range(len(tokens))))
    raise UserError(f"Method {method.name!r} names tokens ({tokens[0]!r}, ...): give a tokenizer, or their `ids`.")


def _told(method: Method, part: Part, ids: Sequence[int]) -> Part:
    known = getattr(part.tuner, "ids", ())
    if ids and known and tuple(ids) != tuple(known):
        raise UserError(
            f"The tokens {list(part.tuner.named_tokens)} of method {method.name!r} had the ids {list(known)}, "
            f"but have {list(ids)} in this tokenizer: it is another one, or other tokens were added to it."
        )
    return replace(part, tuner=part.tuner.with_token_ids(ids)) if ids else part


def _looked_up(
    parts: Sequence[Part], tokenizer: PreTrainedTokenizerBase
) -> tuple[PreTrainedTokenizerBase, dict[str, int]]:
    """Ids of all tokens that the parts name; the tokenizer, or a copy of it that has them."""
    wanted = list(dict.fromkeys(token for part in parts for token in part.tuner.named_tokens))
    known = tokenizer.get_vocab()
    new = [token for token in wanted if token not in known]
    if new:
        tokenizer = copy.deepcopy(tokenizer)
        tokenizer.add_tokens(new)
        known = tokenizer.get_vocab()
    return tokenizer, {token: known[token] for token in wanted}


def num_rows(backbone: PreTrainedModel) -> int:
    """Rows of its embedding table."""
    embeddings: Any = backbone.get_input_embeddings()
    return embeddings.weight.shape[0]
