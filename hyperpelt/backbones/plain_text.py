"""Texts to token ids, in which text is text: a `</s>`, `[SEP]` or `<extra_id_0>` that a user's row spells ends nothing.

A tokenizer matches its special tokens wherever their spelling stands in a text, and a unigram model may take one for a
piece of its vocabulary. Only texts in which that happens are tokenised again, by a copy of the tokenizer that does not
know these spellings; every other text has the ids that the tokenizer itself gives it.

Tokens that somebody added for use in texts (entity marks, say) keep their meaning: plain are only those that structure
sequences: beginning, end, padding, mask, unknown, sentinels, language codes.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple
from weakref import WeakKeyDictionary

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

# T5's sentinels (also as mT5's pieces), Pegasus' masks; codes of mBART and NLLB; those of M2M-100 and PLBart.
_STRUCTURAL = re.compile(
    r"\u2581?<(extra_id|mask|unk|pad)_\d+>|[a-z]{2,3}_[A-Z][A-Za-z]{1,3}|__[A-Za-z]+(_[A-Z]{2})?__"
)
_SENTINELS = [f"\u2581<extra_id_{number}>" for number in range(100)]
_UNSEEN = "\ue0f0{}\ue0f1"  # stands in no text: of the private use area


class Framed(NamedTuple):
    """A tokenised text and the special tokens around it. ends: of each token of the body, in characters; None from a
    tokenizer that does not tell."""

    before: list[int]
    body: list[int]
    after: list[int]
    ends: list[int] | None = None


def encode(
    tokenizer: PreTrainedTokenizerBase, texts: Sequence[str], *, target: bool = False, special_tokens: bool = True
) -> list[list[int]]:
    """Token ids of each text, as `tokenizer(texts)` gives them, of which none but the framing ones is special.

    - **target**: as what a decoder writes, where a tokenizer tells the two apart (Marian)
    - **special_tokens**: with those that the tokenizer puts around an input
    """
    texts = list(texts)
    if not texts:
        return []
    given = {"text_target": texts} if target else {"text": texts}
    rows = [list(ids) for ids in tokenizer(**given, add_special_tokens=special_tokens, verbose=False)["input_ids"]]
    known = _known(tokenizer)
    before, after = frame(tokenizer) if special_tokens else ([], [])
    for index, ids in enumerate(rows):
        inner = ids[len(before) : len(ids) - len(after)]
        if not known.structural.isdisjoint(inner) or any(text in texts[index] for text in known.unknown):
            rows[index] = [*before, *_plain(tokenizer, texts[index], target)[0], *after]
    return rows


def encode_framed(tokenizer: PreTrainedTokenizerBase, text: str) -> Framed:
    """One input, apart from its frame, with the places of its tokens where the tokenizer tells them."""
    before, after = frame(tokenizer)
    body = encode(tokenizer, [text], special_tokens=False)[0]
    if not tokenizer.is_fast:
        return Framed(before, body, after)
    found = tokenizer(text, add_special_tokens=False, return_offsets_mapping=True, verbose=False)
    ids, ends = list(found["input_ids"]), [end for _, end in found["offset_mapping"]]
    if ids != body:
        ids, ends = _plain(tokenizer, text, target=False)
    return Framed(before, body, after, ends)


def frame(tokenizer: PreTrainedTokenizerBase) -> tuple[list[int], list[int]]:
    """The special tokens that the tokenizer puts before and after an input."""
    whole = list(tokenizer("a", verbose=False)["input_ids"])
    body = list(tokenizer("a", add_special_tokens=False, verbose=False)["input_ids"])
    start = next(i for i in range(len(whole)) if whole[i : i + len(body)] == body)
    return whole[:start], whole[start + len(body) :]


class _Known(NamedTuple):
    size: int  # of the vocabulary when this was found out
    structural: frozenset[int]  # but for the unknown token, which also stands for what cannot be written
    unknown: tuple[str, ...]  # its spelling


_KNOWN: WeakKeyDictionary[PreTrainedTokenizerBase, _Known] = WeakKeyDictionary()
_COPIES: WeakKeyDictionary[PreTrainedTokenizerBase, tuple[int, Any]] = WeakKeyDictionary()


def _known(tokenizer: PreTrainedTokenizerBase) -> _Known:
    found = _KNOWN.get(tokenizer)
    if found is None or found.size != len(tokenizer):
        unknown = str(tokenizer.unk_token) if tokenizer.unk_token is not None else None
        ids = frozenset(_structural(tokenizer).values()) - {tokenizer.unk_token_id}
        found = _KNOWN[tokenizer] = _Known(len(tokenizer), ids, () if unknown is None else (unknown,))
    return found


def _structural(tokenizer: PreTrainedTokenizerBase) -> dict[str, int]:
    """{spelling: id} of the tokens that structure sequences."""
    named = [str(text) for text in tokenizer.special_tokens_map.values() if not isinstance(text, list | tuple)]
    marked = (*tokenizer.all_special_tokens, *tokenizer.get_added_vocab())
    missing = (None, tokenizer.unk_token_id)
    pieces = [text for text in _SENTINELS if tokenizer.convert_tokens_to_ids(text) not in missing]
    texts = dict.fromkeys([*named, *(text for text in marked if _STRUCTURAL.fullmatch(text)), *pieces])
    ids = tokenizer.convert_tokens_to_ids(list(texts))
    assert isinstance(ids, list), "a list for a list"
    return dict(zip(texts, ids, strict=True))


def _plain(tokenizer: PreTrainedTokenizerBase, text: str, target: bool) -> tuple[list[int], list[int] | None]:
    """(ids of a text alone, ends of its tokens), its spellings of special tokens being text."""
    ends = None
    if tokenizer.is_fast:
        encoded = _copy(tokenizer).encode(text, add_special_tokens=False)
        ids, ends = list(encoded.ids), [end for _, end in encoded.offsets]
    else:
        given = {"text_target": text} if target else {"text": text}
        options = {"add_special_tokens": False, "split_special_tokens": True, "verbose": False}
        ids = list(tokenizer(**given, **options)["input_ids"])
    known, unknown = _known(tokenizer).structural, tokenizer.unk_token_id
    # A vocabulary that has no other way to write it: then it cannot be written.
    return [unknown if token in known and unknown is not None else token for token in ids], ends


def _copy(tokenizer: PreTrainedTokenizerBase) -> Any:
    """The tokenizer's backend under the same ids, with special tokens that no text can spell."""
    from tokenizers import Tokenizer

    found = _COPIES.get(tokenizer)
    if found is None or found[0] != len(tokenizer):
        content = json.loads(tokenizer.backend_tokenizer.to_str())
        names = {text: _UNSEEN.format(token) for text, token in _structural(tokenizer).items()}
        content |= {"post_processor": None, "truncation": None, "padding": None}
        for token in content["added_tokens"]:
            token["content"] = names.get(token["content"], token["content"])
        _rename(content["model"], names)
        found = _COPIES[tokenizer] = (len(tokenizer), Tokenizer.from_str(json.dumps(content)))
    return found[1]


def _rename(model: dict[str, Any], names: Mapping[str, str]) -> None:
    """Give pieces of a tokenizer's model other spellings, in its vocabulary and where it names the unknown one."""
    vocabulary = model["vocab"]
    if isinstance(vocabulary, dict):
        model["vocab"] = {names.get(text, text): token for text, token in vocabulary.items()}
    else:
        model["vocab"] = [[names.get(text, text), score] for text, score in vocabulary]
    if model.get("unk_token") is not None:
        model["unk_token"] = names.get(model["unk_token"], model["unk_token"])
