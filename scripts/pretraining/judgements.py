"""Questions about texts, answered by one word. No data set's labels are involved: answers come from the text itself.

* `judge`: are two pieces from one article (next sentence prediction, Devlin et al. 2019), in their right order (Lan et
  al. 2020), are the words unscrambled (Wang et al. 2020, StructBERT), does a phrase occur.
* `pairs`: is the second text a copy of the first, a copy with words replaced, a copy with words moved, what follows it;
  and which of four words is missing (the answer is that word).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np

from pretraining.corpus import Corpus
from pretraining.rows import Noise, Question, Row, Vocabulary, article_window

MISSING = "missing"
_REPLACED = 8  # one word in so many is replaced in an edited copy, at least one


def judge(corpus: Corpus, rng: np.random.Generator, length: int, vocabulary: Vocabulary, noise: Noise) -> Row:
    return _ask(_JUDGES, corpus, rng, length, vocabulary, noise)


def pairs(corpus: Corpus, rng: np.random.Generator, length: int, vocabulary: Vocabulary, noise: Noise) -> Row:
    return _ask({**_PAIRS, MISSING: None}, corpus, rng, length, vocabulary, noise)


def _ask(
    kinds: Mapping[str, Callable[..., list[int]] | None],
    corpus: Corpus,
    rng: np.random.Generator,
    length: int,
    vocabulary: Vocabulary,
    noise: Noise,
) -> Row:
    questions = [question for question in vocabulary.questions if question.kind in kinds]
    question = questions[int(rng.integers(len(questions)))]
    room = max(length - len(question.text) - 2, 16)
    make = kinds[question.kind]
    if make is None:
        body, answer = missing_word(corpus, rng, room, vocabulary)
    else:
        truth = bool(rng.integers(2))
        body = make(corpus, rng, room, vocabulary, truth)
        answer = [*(question.yes if truth else question.no)]
    source = [*vocabulary.prefix, *question.text, *body, vocabulary.end]
    return source, [*answer, vocabulary.end], noise.judge_weight


def _same_article(
    corpus: Corpus, rng: np.random.Generator, length: int, vocabulary: Vocabulary, truth: bool
) -> list[int]:
    piece = article_window(corpus, rng, length)
    half = len(piece) // 2
    second = piece[half:] if truth else article_window(corpus, rng, len(piece) - half)
    return [*piece[:half], vocabulary.end, *second]


def _right_order(
    corpus: Corpus, rng: np.random.Generator, length: int, vocabulary: Vocabulary, truth: bool
) -> list[int]:
    piece = article_window(corpus, rng, length)
    half = int(rng.integers(len(piece) // 3, 2 * len(piece) // 3 + 1))
    first, second = piece[:half], piece[half:]
    return [*first, vocabulary.end, *second] if truth else [*second, vocabulary.end, *first]


def _unscrambled(
    corpus: Corpus, rng: np.random.Generator, length: int, vocabulary: Vocabulary, truth: bool
) -> list[int]:
    piece = article_window(corpus, rng, min(length, int(rng.integers(12, 49))))
    if truth:
        return piece
    # Few swaps near one another: a bag of words cannot tell.
    for _ in range(max(len(piece) // 8, 1)):
        at = int(rng.integers(0, len(piece) - 4))
        piece[at : at + 4] = [piece[at + i] for i in rng.permutation(4)]
    return piece


def _contains(corpus: Corpus, rng: np.random.Generator, length: int, vocabulary: Vocabulary, truth: bool) -> list[int]:
    piece = article_window(corpus, rng, length)
    other = piece if truth else article_window(corpus, rng, length)
    at = int(rng.integers(0, len(other) - 2))
    return [*other[at : at + 2], vocabulary.end, *piece]


def _words_in(piece: Sequence[int], vocabulary: Vocabulary) -> list[int]:
    """Where a token is a word of its own."""
    words, inner = vocabulary.words, vocabulary.inner
    assert words is not None
    assert inner is not None
    ends = [*piece[1:], vocabulary.end]
    return [at for at, (token, after) in enumerate(zip(piece, ends, strict=True)) if words[token] and not inner[after]]


def _piece_with_words(
    corpus: Corpus, rng: np.random.Generator, length: int, vocabulary: Vocabulary
) -> tuple[list[int], list[int]]:
    """A piece of an article in which at least two words stand, and where."""
    while True:
        piece = article_window(corpus, rng, length)
        places = _words_in(piece, vocabulary)
        if len({piece[at] for at in places}) > 1:
            return piece, places


def _other_word(corpus: Corpus, rng: np.random.Generator, vocabulary: Vocabulary, known: Sequence[int]) -> int:
    """A word of the text at large, as often as it occurs there."""
    assert vocabulary.words is not None
    while True:
        token = int(corpus.tokens[rng.integers(0, len(corpus.tokens))])
        if vocabulary.words[token] and token not in known:
            return token


def _edited(
    piece: list[int], places: list[int], corpus: Corpus, rng: np.random.Generator, vocabulary: Vocabulary
) -> list[int]:
    copy = list(piece)
    for at in rng.choice(places, max(len(places) // _REPLACED, 1), replace=False):
        copy[at] = _other_word(corpus, rng, vocabulary, [copy[at]])
    return copy


def _moved(piece: list[int], places: list[int], rng: np.random.Generator) -> list[int]:
    """Two different words change places, one pair in so many words."""
    copy = list(piece)
    for _ in range(max(len(places) // (2 * _REPLACED), 1)):
        first = int(rng.choice(places))
        second = int(rng.choice([at for at in places if copy[at] != copy[first]]))
        copy[first], copy[second] = copy[second], copy[first]
    return copy if copy != piece else _moved(piece, places, rng)


def _copy(corpus: Corpus, rng: np.random.Generator, length: int, vocabulary: Vocabulary, truth: bool) -> list[int]:
    piece, places = _piece_with_words(corpus, rng, (length - 1) // 2, vocabulary)
    changed = _edited(piece, places, corpus, rng, vocabulary) if rng.integers(2) else _moved(piece, places, rng)
    return [*piece, vocabulary.end, *(piece if truth else changed)]


def _edited_copy(
    corpus: Corpus, rng: np.random.Generator, length: int, vocabulary: Vocabulary, truth: bool
) -> list[int]:
    piece, places = _piece_with_words(corpus, rng, (length - 1) // 2, vocabulary)
    second = _edited(piece, places, corpus, rng, vocabulary) if truth else _moved(piece, places, rng)
    return [*piece, vocabulary.end, *second]


def _moved_copy(
    corpus: Corpus, rng: np.random.Generator, length: int, vocabulary: Vocabulary, truth: bool
) -> list[int]:
    return _edited_copy(corpus, rng, length, vocabulary, not truth)


def _next(corpus: Corpus, rng: np.random.Generator, length: int, vocabulary: Vocabulary, truth: bool) -> list[int]:
    """What follows a piece, or a piece from anywhere."""
    piece = article_window(corpus, rng, length - 1)
    half = len(piece) // 2
    second = piece[half:] if truth else article_window(corpus, rng, len(piece) - half)
    return [*piece[:half], vocabulary.end, *second]


def missing_word(
    corpus: Corpus, rng: np.random.Generator, length: int, vocabulary: Vocabulary
) -> tuple[list[int], list[int]]:
    """Four words, a piece with a mask in place of one of them, and that word."""
    assert vocabulary.mask is not None
    piece, places = _piece_with_words(corpus, rng, length - 5, vocabulary)
    at = int(rng.choice(places))
    options = [piece[at]]
    while len(options) < 4:
        options.append(_other_word(corpus, rng, vocabulary, options))
    shown = [options[index] for index in rng.permutation(4)]
    return [*shown, vocabulary.end, *piece[:at], vocabulary.mask, *piece[at + 1 :]], options[:1]


_JUDGES: Mapping[str, Callable[..., list[int]]] = {
    "same": _same_article,
    "order": _right_order,
    "scrambled": _unscrambled,
    "contains": _contains,
}
_PAIRS: Mapping[str, Callable[..., list[int]]] = {
    "copy": _copy,
    "edited": _edited_copy,
    "shuffled": _moved_copy,
    "next": _next,
}

# Question, right answer, wrong answer: several wordings, so that no word is bound to one meaning.
QUESTIONS = (
    ("same", "same topic?", "yes", "no"),
    ("same", "are these related: true or false?", "true", "false"),
    ("same", "similar or different?", "similar", "different"),
    ("order", "in order?", "yes", "no"),
    ("order", "does the second part follow: right or wrong?", "right", "wrong"),
    ("scrambled", "correct sentence?", "yes", "no"),
    ("scrambled", "good or bad?", "good", "bad"),
    ("contains", "contained?", "yes", "no"),
    ("contains", "is it there: true or false?", "true", "false"),
    ("copy", "same text?", "yes", "no"),
    ("copy", "is the second text equal: true or false?", "true", "false"),
    ("edited", "words changed or moved?", "changed", "moved"),
    ("edited", "is a word replaced?", "yes", "no"),
    ("shuffled", "same words in another order?", "yes", "no"),
    ("shuffled", "mixed up: right or wrong?", "right", "wrong"),
    ("next", "does it go on like this?", "yes", "no"),
    ("next", "next sentence: true or false?", "true", "false"),
    ("missing", "which word is missing?", "", ""),
)


def make_questions(encode: Callable[[str], Sequence[int]]) -> tuple[Question, ...]:
    return tuple(
        Question(kind=kind, text=tuple(encode(text)), yes=tuple(encode(yes)), no=tuple(encode(no)))
        for kind, text, yes, no in QUESTIONS
    )
