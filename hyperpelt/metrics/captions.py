"""Metrics of captions: corpus BLEU-4 and CIDEr-D.

BLEU (Papineni et al. 2002) over the whole split, with the reference closest in length; no smoothing. CIDEr-D (Vedantam
et al. 2015, arXiv 1411.5726, equations 2 and 6): the mean over n = 1..4 of the clipped cosine of tf-idf vectors of
n-grams, with a Gaussian penalty (sigma 6) on a difference in length, times 10; document frequencies are those of the
references of the evaluated split. In points, as papers print it (112.9 is a CIDEr-D of 1.129), so it may pass 100, and
figures of different splits, or of samples of one, do not compare.

The field's implementation (coco-caption) tokenises with Stanford's PTBTokenizer, in Java. `caption_words` follows its
rules on captions: lower case, clitics apart, punctuation dropped. On equal tokens the figures are equal.

Letters: n the length of an n-gram, df the images whose references hold it.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence

import numpy as np
import regex

from hyperpelt.metrics.registry import Values, register

LONGEST = 4
SIGMA = 6.0
Ngrams = Counter[tuple[str, ...]]
_CLITIC = regex.compile(r"(?<=\w)(n't|'(?:s|m|d|ll|re|ve))\b")
_TOKEN = regex.compile(r"n't\b|'(?:s|m|d|ll|re|ve)\b|\d+(?:[.,:]\d+)+|\w+(?:[-/]\w+)*|[$%&#@+=*]")


def caption_words(text: str) -> list[str]:
    """A caption as words: lower case, `don't` as `do n't`, no punctuation."""
    plain = text.lower().replace("\u2019", "'").replace("cannot", "can not")
    return _TOKEN.findall(_CLITIC.sub(r" \1", plain))


def _ngrams(words: Sequence[str]) -> Ngrams:
    starts = ((n, i) for n in range(1, LONGEST + 1) for i in range(len(words) - n + 1))
    return Counter(tuple(words[i : i + n]) for n, i in starts)


def _references(labels: Values) -> list[list[list[str]]]:
    return [[caption_words(text) for text in ([label] if isinstance(label, str) else label)] for label in labels]


@register("bleu4", kinds=("generation",), description="corpus BLEU-4 against all references")
def bleu4(predictions: Values, labels: Values, groups: Values | None = None) -> float:
    """Geometric mean of the four clipped n-gram precisions of the whole split, times the brevity penalty."""
    found, possible = np.zeros(LONGEST), np.zeros(LONGEST)
    written = wanted = 0
    for prediction, references in zip(predictions, _references(labels), strict=True):
        words = caption_words(prediction)
        most: Ngrams = Counter()
        for reference in references:
            most |= _ngrams(reference)  # the larger count of each
        for ngram, count in (_ngrams(words) & most).items():
            found[len(ngram) - 1] += count
        possible += [max(0, len(words) - n) for n in range(LONGEST)]
        written += len(words)
        wanted += min((abs(len(reference) - len(words)), len(reference)) for reference in references)[1]
    if not found.all():
        return 0.0
    brevity = min(1.0, math.exp(1 - wanted / written))
    return 100.0 * brevity * math.exp(np.log(found / possible).mean())


@register("cider_d", kinds=("generation",), description="CIDEr-D: agreement with the references' telling words")
def cider_d(predictions: Values, labels: Values, groups: Values | None = None) -> float:
    """Mean CIDEr-D of all rows, times 100. Of a single row it is 0: every n-gram is then in every image."""
    references = [[_ngrams(words) for words in row] for row in _references(labels)]
    df: Counter[tuple[str, ...]] = Counter()
    for row in references:
        df.update(set().union(*row))
    log_images = math.log(len(references))
    total = 0.0
    for prediction, row in zip(predictions, references, strict=True):
        guess = _Vector(_ngrams(caption_words(prediction)), df, log_images)
        total += sum(guess.similarity(_Vector(one, df, log_images)) for one in row) / len(row)
    return 100.0 * 10.0 * total / len(labels)


class _Vector:
    """The tf-idf vectors of one caption, one for each n, and its length as coco-caption counts it: in bigrams."""

    def __init__(self, counts: Ngrams, df: Counter[tuple[str, ...]], log_images: float) -> None:
        self.weights = {ngram: tf * (log_images - math.log(max(1, df[ngram]))) for ngram, tf in counts.items()}
        self.norms = np.zeros(LONGEST)
        for ngram, weight in self.weights.items():
            self.norms[len(ngram) - 1] += weight**2
        self.norms = np.sqrt(self.norms)
        self.length = sum(tf for ngram, tf in counts.items() if len(ngram) == 2)

    def similarity(self, reference: _Vector) -> float:
        """The mean over n of the clipped cosine, with the penalty on the difference in length."""
        products = np.zeros(LONGEST)
        for ngram, weight in self.weights.items():
            other = reference.weights.get(ngram, 0.0)
            products[len(ngram) - 1] += min(weight, other) * other
        scale = self.norms * reference.norms
        cosines = np.divide(products, scale, out=np.zeros(LONGEST), where=scale > 0)
        return float(cosines.mean()) * math.exp(-((self.length - reference.length) ** 2) / (2 * SIGMA**2))
