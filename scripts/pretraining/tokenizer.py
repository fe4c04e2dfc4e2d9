"""mini-t5's own tokenizer: a sentencepiece unigram model (Kudo 2018) with byte fallback, written as tokenizer.json.

Ids as T5 has them: <pad> 0, </s> 1, <unk> 2, then bytes and pieces, then sentinels <extra_id_N> ... <extra_id_0>.
"""

from __future__ import annotations

import io
import os
from collections.abc import Iterator, Sequence
from itertools import islice
from pathlib import Path

import sentencepiece
from sentencepiece import sentencepiece_model_pb2
from tokenizers import AddedToken, Regex, Tokenizer, decoders, normalizers, pre_tokenizers, processors
from tokenizers.models import Unigram

NUM_SENTINELS = 64
# Words that answers are made of; an encyclopedia hardly says "yes".
ANSWERS = ("yes", "no", "maybe", "true", "false", "same", "different", "positive", "negative", "acceptable")
ANSWERS += ("unacceptable", "entailment", "neutral", "contradiction", "good", "bad", "right", "wrong")
_SPACE = "\N{LOWER ONE EIGHTH BLOCK}"


def train_unigram(texts: Iterator[str], *, vocab_size: int = 8000, sentences: int = 200_000, threads: int = 1) -> bytes:
    """A serialised sentencepiece model. `texts` may be paragraphs; the first `sentences` lines are used."""
    lines = (line for text in texts for line in text.split("\n"))
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=islice(lines, sentences),
        model_writer=model,
        model_type="unigram",
        vocab_size=vocab_size,
        byte_fallback=True,
        character_coverage=0.9995,
        normalization_rule_name="nmt_nfkc",
        split_digits=True,
        pad_id=0,
        eos_id=1,
        unk_id=2,
        bos_id=-1,
        num_threads=threads,
        minloglevel=1,
    )
    return model.getvalue()


def with_words(pieces: list[tuple[str, float]], words: Sequence[str]) -> list[tuple[str, float]]:
    """The least likely pieces give way to `words` that are none yet, at the median piece's score."""
    known = {piece for piece, _ in pieces}
    missing = [_SPACE + word for word in words if _SPACE + word not in known]
    if not missing:
        return pieces
    learnt = [index for index, (piece, score) in enumerate(pieces) if score < 0.0 and len(piece) > 1]
    median = sorted(pieces[index][1] for index in learnt)[len(learnt) // 2]
    changed = list(pieces)
    for index, word in zip(sorted(learnt, key=lambda index: pieces[index][1]), missing, strict=False):
        changed[index] = (word, median)
    return changed


def as_tokenizer(serialised: bytes, *, num_sentinels: int = NUM_SENTINELS, words: Sequence[str] = ANSWERS) -> Tokenizer:
    """The same segmentation in the `tokenizers` library, with T5's sentinels and closing </s>, and `words` whole."""
    proto = sentencepiece_model_pb2.ModelProto()
    proto.ParseFromString(serialised)
    pieces = [("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0)]
    pieces += with_words([(piece.piece, piece.score) for piece in proto.pieces[3:]], words)
    tokenizer = Tokenizer(Unigram(pieces, unk_id=2, byte_fallback=True))
    tokenizer.normalizer = normalizers.Sequence(
        [
            normalizers.Precompiled(proto.normalizer_spec.precompiled_charsmap),
            normalizers.Strip(),
            normalizers.Replace(Regex(" {2,}"), " "),
        ]
    )
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(replacement=_SPACE, prepend_scheme="always", split=True)
    tokenizer.decoder = decoders.Sequence(
        [decoders.ByteFallback(), decoders.Metaspace(replacement=_SPACE, prepend_scheme="always", split=True)]
    )
    sentinels = [f"<extra_id_{index}>" for index in reversed(range(num_sentinels))]
    special = ["<pad>", "</s>", "<unk>", *sentinels]
    tokenizer.add_special_tokens([AddedToken(token, normalized=False, special=True) for token in special])
    end = ("</s>", tokenizer.token_to_id("</s>"))
    tokenizer.post_processor = processors.TemplateProcessing(
        single=["$A", "</s>"], pair=["$A", "</s>", "$B", "</s>"], special_tokens=[end]
    )
    return tokenizer


def save_tokenizer(tokenizer: Tokenizer, folder: Path) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    partial = folder / "tokenizer.partial"
    tokenizer.save(str(partial), pretty=False)
    os.replace(partial, folder / "tokenizer.json")
    return folder / "tokenizer.json"
