"""Whether a tokenizer fits its backbone, and which languages the two speak; both are settled before anything runs.

    check_tokenizer(tokenizer, backbone, "folder")
    set_languages(tokenizer, backbone, source="de_DE", target="fr_XX")

Multilingual families mark the languages of what they read and write. The tokenizer puts the source's code around each
input. Where the target's code stands is the tokenizer's convention, too: before the text (mBART-50, M2M-100), and then
it is the first token of every target, which generation is made to begin with; or behind it, from where mBART's decoder
takes its first input, and then the decoder starts from it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from hyperpelt.errors import UserError, unknown

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

PREFIX = "target_prefix"  # the tokenizer's attribute that `encode_targets` reads


def check_tokenizer(tokenizer: PreTrainedTokenizerBase, backbone: PreTrainedModel, name: str = "") -> None:
    """Raises UserError for a tokenizer that lacks padding or an end, or has tokens that the backbone does not."""
    what = f"The tokenizer of {name!r}" if name else f"This tokenizer ({type(tokenizer).__name__})"
    for kind, lost in (("pad", "rows of unlike lengths cannot stand in one batch"), ("eos", "answers could not end")):
        if getattr(tokenizer, f"{kind}_token_id") is None:
            raise UserError(
                f"{what} has no {kind} token, without which {lost}: set tokenizer.{kind}_token to the one the model "
                "was trained with (T5: '<pad>' and '</s>'), and save the tokenizer again"
            )
    embeddings: Any = backbone.get_input_embeddings()
    rows = embeddings.weight.shape[0]
    if len(tokenizer) > rows:
        added = sorted(token for token, number in tokenizer.get_added_vocab().items() if number >= rows)
        which = f" ({', '.join(map(repr, added[:3]))}{', ...' if len(added) > 3 else ''})" if added else ""
        raise UserError(
            f"{what} has {len(tokenizer):,} tokens, but the model has embeddings for only {rows:,}: the last "
            f"tokens{which} have none. Call model.resize_token_embeddings({len(tokenizer)}) and save the model again, "
            "or use its own tokenizer"
        )


def set_languages(
    tokenizer: PreTrainedTokenizerBase, backbone: PreTrainedModel, *, source: str | None, target: str | None
) -> None:
    """Let inputs be marked as `source` and answers as `target`, codes as the tokenizer knows them; None: as it is.

    Raises UserError for a tokenizer without languages, and for a code that it does not know.
    """
    if source is None and target is None:
        return
    speaking: Any = tokenizer
    if not hasattr(tokenizer, "src_lang"):
        raise UserError(
            f"source_language and target_language are for multilingual backbones (mBART, M2M-100, PLBart); "
            f"{type(tokenizer).__name__} has no language codes: leave them out"
        )
    for language in (source, target):
        if language is not None:
            _code(speaking, language)
    if source is not None:
        speaking.src_lang = source
    if target is not None:
        speaking.tgt_lang = target
        code = _code(speaking, target)
        if speaking(text_target="a")["input_ids"][0] == code:
            setattr(tokenizer, PREFIX, [code])
            backbone.generation_config.forced_bos_token_id = code
        else:
            backbone.config.decoder_start_token_id = code
            backbone.generation_config.decoder_start_token_id = code


def without_language(tokenizer: PreTrainedTokenizerBase, rows: Any) -> Any:
    """Answers as ids, without the language's code, which not every tokenizer takes for a special token."""
    prefix: list[int] = getattr(tokenizer, PREFIX, [])
    if not prefix:
        return rows
    lists = rows if isinstance(rows, list) else rows.tolist()
    return [[token for token in row if token not in prefix] for row in lists]


def _code(tokenizer: Any, language: str) -> int:
    """The id of a language's code."""
    codes = getattr(tokenizer, "lang_code_to_id", None) or {
        name: tokenizer.get_lang_id(name) for name in tokenizer.lang_code_to_token
    }
    code = codes.get(language, codes.get(f"__{language}__"))
    if code is None:
        raise unknown("language", language, codes)
    return int(code)
