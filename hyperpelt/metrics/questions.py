"""Metrics of visual questions: VQA's soft accuracy, DAQUAR's WUPS, NLVR2's consistency.

VQA (Antol et al. 2015, arXiv 1505.00468; Goyal et al. 2017): ten people answer a question. An answer is worth
min(1, n / 3), n being how many of nine others gave it, averaged over the ten ways to leave one person out: 0.3, 0.6,
0.9 and 1 for an answer of one, two, three and more people. Answers are normalised as the official evaluation does it
(case, punctuation, articles, number words, contractions); it leaves people's answers half-normalised, which are clean
in VQA but not in the sets that borrowed its metric, so here both sides get the whole of it.

WUPS (Malinowski and Fritz 2014, arXiv 1410.0210, equations 8 and 9): answers are sets of words; each word counts as
its best Wu-Palmer similarity to a word of the other set, a tenth of it below the threshold. Where there is no WordNet
(`hyperpelt.metrics.wordnet` says where it is looked for), these two metrics are left out and named.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Sequence
from functools import cache, lru_cache, partial
from math import prod

from hyperpelt.metrics.classical import group_exact_match
from hyperpelt.metrics.registry import Values, register
from hyperpelt.metrics.wordnet import lacking_wordnet, wu_palmer

# VQA ----------------------------------------------------------------------------------------------------------------

PUNCTUATION = ';/[]"{}()=+\\_-><@`,?!'
NUMBER_WORDS = "zero one two three four five six seven eight nine ten"
NUMBERS = {"none": "0", **{word: str(n) for n, word in enumerate(NUMBER_WORDS.split())}}
ARTICLES = ("a", "an", "the")
CONTRACTIONS = """
    ain't aren't can't could've couldn't couldn't've didn't doesn't don't hadn't hadn't've hasn't haven't he'd he'd've
    he's how'd how'll how's isn't it'd it'd've it'll ma'am mightn't mightn't've might've mustn't must've needn't not've
    o'clock oughtn't 'ow's'at shan't she'd've should've shouldn't shouldn't've somebody'd've somebody'll somebody's
    someone'd someone'd've someone'll someone's something'd something'd've something'll that's there'd there'd've
    there're there's they'd they'd've they'll they're they've 'twas wasn't we'd've we've weren't what'll what're what's
    what've when's where'd where's where've who'd who'd've who'll who's who've why'll why're why's won't would've
    wouldn't wouldn't've y'all y'all'll y'all'd've you'd you'd've you'll you're you've
"""
_DIGIT_COMMA_DIGIT = re.compile(r"\d,\d")
_JOINT = re.compile(r"\s*_\s*")  # of words such as garbage_bin, round which a tokenizer may put blanks
_LOOSE_PERIOD = re.compile(r"\.(?!\d)")


@cache
def _contractions() -> dict[str, str]:
    """Each contraction by its misspellings: one of its apostrophes left out."""
    return {
        right[:place] + right[place + 1 :]: right
        for right in CONTRACTIONS.split()
        for place, character in enumerate(right)
        if character == "'"
    }


@lru_cache(maxsize=100_000)
def normalise_vqa_answer(text: str) -> str:
    """An answer as VQA compares it: lower case, digits for number words, no articles, marks removed or made spaces."""
    given = " ".join(text.split())
    bare = given
    for mark in PUNCTUATION:
        # A mark between two letters parts words; one beside a space, or in an answer with a number like 1,000, goes.
        loose = f"{mark} " in given or f" {mark}" in given or _DIGIT_COMMA_DIGIT.search(given)
        bare = bare.replace(mark, "" if loose else " ")
    words = [NUMBERS.get(word, word) for word in _LOOSE_PERIOD.sub("", bare).lower().split()]
    return " ".join(_contractions().get(word, word) for word in words if word not in ARTICLES)


def vqa_scores(answers: Sequence[str]) -> dict[str, float]:
    """What each normalised answer of the people who answered is worth, in 0..1; the most frequent one first.

    A single answer is worth 1.
    """
    counts = Counter(map(normalise_vqa_answer, answers))
    people = len(answers)
    if people == 1:
        return dict.fromkeys(counts, 1.0)

    def worth(count: int) -> float:
        # The person left out gave this answer in `count` of the cases.
        return (count * min(1.0, (count - 1) / 3) + (people - count) * min(1.0, count / 3)) / people

    return {answer: worth(count) for answer, count in counts.most_common()}


@register(
    "vqa_accuracy", kinds=("generation",), description="VQA's soft accuracy: agreement with ten people", row_wise=True
)
def vqa_accuracy(predictions: Values, labels: Values, groups: Values | None = None) -> float:
    """Mean over rows of the answer's worth. A label holds every person's answer, repeats included."""
    total = 0.0
    for prediction, label in zip(predictions, labels, strict=True):
        scores = vqa_scores((label,) if isinstance(label, str) else tuple(label))
        total += scores.get(normalise_vqa_answer(prediction), 0.0)
    return 100.0 * total / len(labels)


# NLVR2 --------------------------------------------------------------------------------------------------------------


@register("consistency", kinds=("classification",), description="share of sentences right for all their images (NLVR2)")
def consistency(predictions: Values, labels: Values, groups: Values | None = None) -> float:
    """Share of sentences for which the answer is right with every image (Suhr et al. 2019). Groups are sentences."""
    return group_exact_match(predictions, labels, groups)


# DAQUAR -------------------------------------------------------------------------------------------------------------

Similarity = Callable[[str, str], float]


def _words(answer: str) -> frozenset[str]:
    return frozenset(_JOINT.sub("_", word.strip().lower()) for word in answer.split(",") if word.strip())


def _best_gold(label: str | Sequence[str], score: Callable[[str], float]) -> float:
    return max(score(gold) for gold in ([label] if isinstance(label, str) else label))


@register(
    "set_accuracy",
    kinds=("generation",),
    description="comma-separated answers equal as sets (DAQUAR's accuracy)",
    row_wise=True,
)
def set_accuracy(predictions: Values, labels: Values, groups: Values | None = None) -> float:
    """Share of answers whose comma-separated words are those of a reference, in any order."""
    pairs = zip(predictions, labels, strict=True)
    right = sum(_best_gold(label, lambda gold, guess=guess: _words(guess) == _words(gold)) for guess, label in pairs)
    return 100.0 * right / len(labels)


def wups(prediction: str, gold: str, *, threshold: float, similarity: Similarity) -> float:
    """WUPS of one answer, in 0..1. similarity: Wu-Palmer similarity of two words, in 0..1."""

    def matched(some: frozenset[str], others: frozenset[str]) -> float:
        return prod(max((weighed(one, other) for other in others), default=0.0) for one in some)

    def weighed(one: str, other: str) -> float:
        value = 1.0 if one == other else similarity(one, other)
        return value if value >= threshold else 0.1 * value

    guess, truth = _words(prediction), _words(gold)
    return min(matched(guess, truth), matched(truth, guess)) if guess and truth else 0.0


def _mean_wups(predictions: Values, labels: Values, groups: Values | None = None, *, threshold: float) -> float:
    score = partial(wups, threshold=threshold, similarity=wu_palmer)
    pairs = zip(predictions, labels, strict=True)
    return 100.0 * sum(_best_gold(label, partial(score, guess)) for guess, label in pairs) / len(labels)


for _threshold in (0.9, 0.0):
    register(
        f"wups_{_threshold}",
        kinds=("generation",),
        description=f"WUPS at {_threshold}: answers by their distance in WordNet (DAQUAR)",
        lacking=lacking_wordnet,
        row_wise=True,
    )(partial(_mean_wups, threshold=_threshold))
