"""Self-supervised examples out of plain text. Every function is pure: the random generator is an argument.

* `infill`: text infilling as in BART (Lewis et al. 2020, section 2.2: a whole span becomes one mask), with T5's idea
  of a target (Raffel et al. 2020, section 3.1.4): only what is missing is written, the spans separated by masks. It
  costs a fraction of rewriting the whole text, and the output softmax is the dearest part of a small model. No mask
  stands before the first span (unless `announce_first`), so that the decoder's very first token already has to be
  read out of the encoder: that is where an answer of one word will stand.
* `rewrite`: BART's own target for the same noise, the whole text. Most of it can be copied, which is what teaches an
  untrained cross-attention soonest where in the encoder to read.
* `continuation`: prefix language modelling (Raffel et al. 2020, section 3.2.2): read a piece, write what follows.
* `read`: text alone, for an encoder that imitates another one.
* `judge`, `pairs`: questions about texts, answered by one word (`judgements`).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np

from pretraining.corpus import Corpus
from pretraining.judgements import judge, pairs
from pretraining.rows import Noise, Row, Vocabulary, noise_spans, window


def infill(corpus: Corpus, rng: np.random.Generator, length: int, vocabulary: Vocabulary, noise: Noise) -> Row:
    """One row; with probability 1/2 a last mask stands for what follows the text.

    That tail makes two uses of one encoding. It stops because its budget does, so no end token is taught after it.
    """
    assert vocabulary.mask is not None
    tail = noise.tail if rng.integers(2) else 0
    tokens = window(corpus, rng, length + tail)
    source, position = [*vocabulary.prefix], 0
    target: list[int] = []
    for start, end in noise_spans(rng, length, density=noise.density, mean_span=noise.mean_span):
        source += [*tokens[position:start], vocabulary.mask]
        target += [vocabulary.mask, *tokens[start:end]]
        position = end
    source += tokens[position:length]
    target = target if noise.announce_first else target[1:]
    if tail:
        return [*source, vocabulary.mask, vocabulary.end], [*target, vocabulary.mask, *tokens[length:]], 1.0
    return [*source, vocabulary.end], [*target, vocabulary.end], 1.0


def rewrite(corpus: Corpus, rng: np.random.Generator, length: int, vocabulary: Vocabulary, noise: Noise) -> Row:
    assert vocabulary.mask is not None
    tokens = window(corpus, rng, length)
    source, position = [*vocabulary.prefix], 0
    for start, end in noise_spans(rng, length, density=noise.density, mean_span=noise.mean_span):
        source += [*tokens[position:start], vocabulary.mask]
        position = end
    return [*source, *tokens[position:], vocabulary.end], [*tokens, vocabulary.end], 1.0


def continuation(corpus: Corpus, rng: np.random.Generator, length: int, vocabulary: Vocabulary, noise: Noise) -> Row:
    tokens = window(corpus, rng, length + noise.continuation)
    # The target stops because the piece does, not because the text does: no end token is taught here.
    return [*vocabulary.prefix, *tokens[:length], vocabulary.end], tokens[length:], 1.0


def read(corpus: Corpus, rng: np.random.Generator, length: int, vocabulary: Vocabulary, noise: Noise) -> Row:
    """A piece of text and nothing to write: what an encoder that imitates another one reads."""
    return [*vocabulary.prefix, *window(corpus, rng, length), vocabulary.end], [], 1.0


OBJECTIVES: Mapping[str, Callable[..., Row]] = {
    "infill": infill,
    "rewrite": rewrite,
    "continuation": continuation,
    "judge": judge,
    "pairs": pairs,
    "read": read,
}
