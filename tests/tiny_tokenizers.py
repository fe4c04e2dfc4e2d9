"""A small real tokenizer of every promised family: their own classes over a vocabulary of letters, digits and marks."""

from __future__ import annotations

import json
import warnings
from collections.abc import Callable
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import transformers
from transformers import PreTrainedTokenizerBase

WORDS = ("yes", "no", "maybe", "true", "false", "good", "bad", "premise", "hypothesis", "the", "a", "claim", "is", "of")
WORDS += ("and", "cat", "dog", "red")
LETTERS = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789"
MARKS = ".,:;?!'\"-_/()[]<>$%&@#=+*|"
SPACE = "\u2581"


def _pieces(*special: str) -> list[tuple[str, float]]:
    """A unigram vocabulary; special tokens score 0, the best there is, as they do in the published ones."""
    words = [(SPACE + word, -2.0) for word in WORDS]
    return [*((text, 0.0) for text in special), *words, (SPACE, -3.0), *((text, -5.0) for text in LETTERS + MARKS)]


def _t5() -> PreTrainedTokenizerBase:
    return transformers.T5Tokenizer(vocab=_pieces("<pad>", "</s>", "<unk>"), extra_ids=10)


def _mt5() -> PreTrainedTokenizerBase:
    # mT5's sentinels are ordinary pieces, as its vocabulary has them.
    pieces = [*_pieces("<pad>", "</s>", "<unk>"), *((f"{SPACE}<extra_id_{i}>", -0.5) for i in range(10))]
    return transformers.T5Tokenizer(vocab=pieces, extra_ids=0)


def _mbart() -> PreTrainedTokenizerBase:
    vocab = _pieces("<s>", "<pad>", "</s>", "<unk>")
    return transformers.MBartTokenizer(vocab=vocab, src_lang="en_XX", tgt_lang="ro_RO")


def _mbart50() -> PreTrainedTokenizerBase:
    vocab = _pieces("<s>", "<pad>", "</s>", "<unk>")
    return transformers.MBart50Tokenizer(vocab=vocab, src_lang="de_DE", tgt_lang="fr_XX")


def _pegasus() -> PreTrainedTokenizerBase:
    marks = [f"<unk_{number}>" for number in range(2, 103)]
    return transformers.PegasusTokenizer(vocab=_pieces("<pad>", "</s>", "<mask_1>", "<mask_2>", *marks, "<unk>"))


def _bytes(*special: str) -> tuple[dict[str, int], list[tuple[str, str]]]:
    from tokenizers.pre_tokenizers import ByteLevel

    words = ["\u0120" + word for word in ("yes", "no")]
    merges = [("\u0120", "n"), ("\u0120n", "o"), ("\u0120", "y"), ("\u0120y", "e"), ("\u0120ye", "s")]
    texts = [*special, *sorted(ByteLevel.alphabet()), *("".join(merge) for merge in merges)]
    assert set(words) <= set(texts)
    return {text: number for number, text in enumerate(texts)}, merges


def _byte_level(kind: type, *special: str) -> Callable[[], PreTrainedTokenizerBase]:
    def make() -> PreTrainedTokenizerBase:
        vocab, merges = _bytes(*special)
        return kind(vocab=vocab, merges=merges)

    return make


def _wordpiece() -> PreTrainedTokenizerBase:
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    letters = LETTERS.lower()
    texts = dict.fromkeys([*special, *WORDS, *letters, *MARKS, *(f"##{text}" for text in letters)])
    made = transformers.BertTokenizer(vocab={text: number for number, text in enumerate(texts)})
    made.add_special_tokens({"bos_token": "[CLS]", "eos_token": "[SEP]"})
    return made


def _spm(folder: Path, name: str, lines: list[str]) -> Path:
    import sentencepiece

    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(lines), model_prefix=str(folder / name), vocab_size=150, character_coverage=1.0,
        hard_vocab_limit=False, minloglevel=2, num_threads=1,
    )  # fmt: skip
    return folder / f"{name}.model"


def _marian() -> PreTrainedTokenizerBase:
    import sentencepiece

    lines = [" ".join(WORDS), *(f"{one} {two} {LETTERS} {' '.join(MARKS)}" for one in WORDS for two in WORDS)]
    with TemporaryDirectory() as folder:
        models = [_spm(Path(folder), name, some) for name, some in (("source", lines), ("target", lines[::-1]))]
        found: dict[str, None] = {}
        for model in models:
            read = sentencepiece.SentencePieceProcessor(model_file=str(model))
            found |= dict.fromkeys(read.id_to_piece(number) for number in range(read.get_piece_size()))
        pieces = ["</s>", "<unk>", *(text for text in found if text not in ("<unk>", "<s>", "</s>")), "<pad>"]
        vocab = Path(folder) / "vocab.json"
        vocab.write_text(json.dumps({text: number for number, text in enumerate(pieces)}), encoding="utf8")
        options: dict[str, Any] = {"source_lang": "en", "target_lang": "de", "model_max_length": 512}
        source, target = map(str, models)
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="Recommended: pip install sacremoses")
            return transformers.MarianTokenizer(source_spm=source, target_spm=target, vocab=str(vocab), **options)


def _sentencepiece(make: Callable[[Path, Path], PreTrainedTokenizerBase]) -> Callable[[], PreTrainedTokenizerBase]:
    """A tokenizer of files: make(model, vocabulary as JSON)."""

    def made() -> PreTrainedTokenizerBase:
        import sentencepiece

        lines = [" ".join(WORDS), *(f"{one} {two} {LETTERS} {' '.join(MARKS)}" for one in WORDS for two in WORDS)]
        with TemporaryDirectory() as folder:
            model = _spm(Path(folder), "pieces", lines)
            read = sentencepiece.SentencePieceProcessor(model_file=str(model))
            pieces = [read.id_to_piece(number) for number in range(read.get_piece_size())]
            texts = dict.fromkeys(["<s>", "<pad>", "</s>", "<unk>", *pieces])
            vocab = Path(folder) / "vocab.json"
            vocab.write_text(json.dumps({text: number for number, text in enumerate(texts)}), encoding="utf8")
            return make(model, vocab)

    return made


def _m2m100(model: Path, vocab: Path) -> PreTrainedTokenizerBase:
    return transformers.M2M100Tokenizer(vocab_file=str(vocab), spm_file=str(model), src_lang="en", tgt_lang="fr")


def _plbart(model: Path, vocab: Path) -> PreTrainedTokenizerBase:
    return transformers.PLBartTokenizer(vocab_file=str(model), src_lang="java", tgt_lang="en_XX", language_codes="base")


_MAKERS: dict[str, Callable[[], PreTrainedTokenizerBase]] = {
    "t5": _t5,
    "mt5": _mt5,
    "bart": _byte_level(transformers.BartTokenizer, "<s>", "<pad>", "</s>", "<unk>", "<mask>"),
    "mbart": _mbart,
    "mbart50": _mbart50,
    "pegasus": _pegasus,
    "marian": _marian,
    "m2m_100": _sentencepiece(_m2m100),
    "plbart": _sentencepiece(_plbart),
    "blenderbot": _byte_level(transformers.BlenderbotTokenizer, "<s>", "<pad>", "</s>", "<unk>", "<mask>"),
    "wordpiece": _wordpiece,
}
FAMILIES = tuple(_MAKERS)


@cache
def make_tokenizer(family: str) -> PreTrainedTokenizerBase:
    """Made once a process: nothing may change it."""
    return _MAKERS[family]()
