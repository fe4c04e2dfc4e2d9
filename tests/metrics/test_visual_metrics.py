"""VQA accuracy, consistency, WUPS, BLEU and CIDEr-D against worked examples and their references' figures."""

from __future__ import annotations

import importlib.util
import math
from pathlib import Path

import pytest

from hyperpelt import UserError, metrics
from hyperpelt.metrics import wordnet
from hyperpelt.metrics.wordnet import lacking_wordnet, wu_palmer


@pytest.mark.parametrize(("people", "worth"), [(0, 0.0), (1, 0.3), (2, 0.6), (3, 0.9), (4, 1.0), (10, 1.0)])
def test_an_answer_is_worth_what_vqa_says(people: int, worth: float) -> None:
    """The values of the official evaluation, as VL-T5 and LXMERT tabulate them."""
    answers = ("red",) * people + tuple(f"other {n}" for n in range(10 - people))
    assert metrics.vqa_accuracy(["red"], [answers]) == pytest.approx(100 * worth)
    assert metrics.vqa_scores(answers).get("red", 0.0) == pytest.approx(worth)


def test_vqa_accuracy_is_a_mean_over_questions_and_counts_normalised_answers_together() -> None:
    answers = ("A dog.", "dog", "the dog", *["cat"] * 7)
    assert metrics.vqa_scores(answers) == pytest.approx({"cat": 1.0, "dog": 0.9})
    assert metrics.vqa_accuracy(["Dog", "no"], [answers, ("yes",) * 10]) == pytest.approx(45.0)
    assert metrics.vqa_accuracy(["yes", "no"], ["yes", ("no",)]) == 100.0


@pytest.mark.parametrize(
    ("text", "normal"),
    [
        ("Yes.", "yes"),
        ("  Two\n dogs ", "2 dogs"),
        ("none", "0"),
        ("ten", "10"),
        ("eleven", "eleven"),
        ("the a an", ""),
        ("An apple", "apple"),
        ("1,000", "1000"),
        ("2.5", "2.5"),
        ("p.m.", "pm"),
        ("black/white", "black white"),
        ("black / white", "black white"),
        ("red, white", "red white"),
        ("red,white", "red white"),
        ("t-shirt", "t shirt"),
        ("men's", "men's"),
        ("don't", "don't"),
        ("yes!", "yes"),
        ("12:30", "12:30"),
        ("{x-y}", "x y"),
        ("dont", "don't"),
        ("couldntve", "couldntve"),  # only one apostrophe may be missing
        ("wouldnt", "wouldn't"),
        ("oclock", "o'clock"),
        ("is it (red)?", "is it red"),
        ("im", "im"),  # listed in capitals officially, and so never reached
    ],
)
def test_answers_are_normalised_as_the_official_evaluation_does(text: str, normal: str) -> None:
    assert metrics.normalise_vqa_answer(text) == normal


def test_consistency_wants_every_image_of_a_sentence() -> None:
    groups = ["dev-1-0", "dev-1-0", "dev-2-1", "dev-2-1", "dev-3-0"]
    assert metrics.compute(["accuracy", "consistency"], [1, 0, 1, 1, 0], [1, 0, 1, 0, 1], groups=groups) == {
        "accuracy": 60.0,
        "consistency": pytest.approx(100 / 3),
    }


def test_daquars_answers_are_sets() -> None:
    assert metrics.set_accuracy(["knife, fork", "Fork,knife", "knife"], ["fork, knife"] * 3) == pytest.approx(200 / 3)


TABLE = {frozenset(("carton", "box")): 0.94, frozenset(("stove", "fire extinguisher")): 0.82}


def wups(guess: str, gold: str, threshold: float) -> float:
    return metrics.wups(guess, gold, threshold=threshold, similarity=lambda a, b: TABLE.get(frozenset((a, b)), 0.1))


def test_wups_follows_its_equations() -> None:
    """The similarities are those the paper (arXiv 1410.0210, section 3) gives as examples."""
    assert wups("Box", "carton", 0.9) == 0.94
    assert wups("stove", "fire extinguisher", 0.9) == pytest.approx(0.082)
    assert wups("stove", "fire extinguisher", 0.0) == 0.82
    # An extra word costs: every word of each side must find its like on the other.
    assert wups("carton, stove", "box", 0.0) == pytest.approx(0.94 * 0.1)
    assert wups("box", "carton, stove", 0.0) == pytest.approx(0.94 * 0.1)
    assert wups("box, stove", "stove, box", 0.9) == 1.0
    assert wups("", "box", 0.0) == 0.0


@pytest.mark.skipif(lacking_wordnet() is not None, reason="needs the extra 'wups'")
def test_wups_by_wordnet_itself() -> None:
    assert metrics.available(("set_accuracy", "wups_0.9")) == (["set_accuracy", "wups_0.9"], {})
    assert metrics.compute(["wups_0.9"], ["chair"], ["chair"]) == {"wups_0.9": 100.0}
    # The paper's examples (arXiv 1410.0210, section 3).
    pairs = {("curtain", "blinds"): 0.94, ("carton", "box"): 0.94, ("stove", "fire extinguisher"): 0.82}
    for (guess, gold), published in pairs.items():
        assert wu_palmer(guess, gold) == pytest.approx(published, abs=0.005)
    assert metrics.compute(["wups_0.9"], ["stove"], ["fire extinguisher"])["wups_0.9"] == pytest.approx(8.2, abs=0.05)


def test_wups_without_nltk_is_named_as_lacking_and_never_made_up(monkeypatch: pytest.MonkeyPatch) -> None:
    found = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *more: None if name == "nltk" else found(name, *more))
    lacking_wordnet.cache_clear()
    try:
        usable, missing = metrics.available(("set_accuracy", "wups_0.9", "wups_0.0"))
        assert usable == ["set_accuracy"]
        assert "WUPS needs nltk and WordNet" in missing["wups_0.9"]
        with pytest.raises(UserError, match=r"WUPS needs.*WordNet.*pip install 'hyperpelt\[wups\]'"):
            metrics.compute(["wups_0.9"], ["chair"], ["chair"])
    finally:
        lacking_wordnet.cache_clear()


def test_a_named_folder_without_wordnet_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WNSEARCHDIR", str(tmp_path))
    why = lacking_wordnet.__wrapped__()
    assert why is not None
    assert str(tmp_path) in why
    assert "data.noun" in why


def test_the_packaged_wordnet_gets_the_line_ends_that_its_index_counts_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HYPERPELT_CACHE", str(tmp_path / "cache"))
    package = tmp_path / "package"
    package.mkdir()
    (package / "data.noun").write_bytes(b"  1 words\r\n00000012 03 n\r\n")
    mended = wordnet._mended(package)
    assert (mended / "data.noun").read_bytes() == b"  1 words\n00000012 03 n\n"
    assert (mended / "data.noun").stat().st_mode & 0o077 == 0, "nltk reads no file that others may write"
    (package / "data.noun").unlink()
    assert wordnet._mended(package) == mended, "made once"
    assert {path.name for path in (tmp_path / "cache").iterdir()} == {"wordnet-3.0", "wordnet-3.0.lock"}
    (package / "data.noun").write_bytes(b"  1 words\r\n00000012 03 n\r\n")
    (mended / "data.noun").write_bytes(b"  1 words\n00000012 04 n\n")
    assert (wordnet._mended(package) / "data.noun").read_bytes() == b"  1 words\n00000012 03 n\n", "a damaged copy"


CAPTIONS = ["a dog runs on the grass", "two men play football", "a red car in the street"]
REFERENCES = [
    ("a dog is running on the grass", "a brown dog runs over green grass"),
    ("two men are playing football in a park", "men play football"),
    ("a blue car parked on the street", "a red car is in the street near a house"),
]


def test_cider_d_is_that_of_coco_caption() -> None:
    """Figures of coco-caption's own scorer (pycocoevalcap 1.2) on the same tokens: 3.0716728738101307."""
    assert metrics.cider_d(CAPTIONS, REFERENCES) == pytest.approx(307.16728738101307, abs=1e-9)


def test_cider_d_of_three_rows_by_hand() -> None:
    """Row 1: 'x y' against itself and no other row. idf of x and y: log 3 and log(3/2); n = 1, 2 match, 3 and 4 do
    not exist: (1 + 1 + 0 + 0) / 4 x 10. Row 2 shares y alone; row 3 has nothing."""
    y, z = math.log(3 / 2), math.log(3)
    one_gram = y * y / (y * math.hypot(y, z))
    penalty = math.exp(-1 / 72)  # one bigram in the reference, none in the answer
    expected = (5.0 + 10 * one_gram / 4 * penalty + 0.0) / 3
    assert metrics.cider_d(["x y", "y", "q"], ["x y", "y z", "w"]) == pytest.approx(100 * expected)


def test_cider_d_is_clipped_and_zero_for_one_image() -> None:
    twice = metrics.cider_d(["x x", "w"], ["x", "w"])
    assert twice < metrics.cider_d(["x", "w"], ["x", "w"])
    assert metrics.cider_d(["x y"], ["x y"]) == 0.0


def test_bleu_of_the_papers_example() -> None:
    """Papineni et al. 2002, example 1, candidate 1: precisions 17/18, 10/17, 7/16, 4/15, and no brevity penalty."""
    candidate = "It is a guide to action which ensures that the military always obeys the commands of the party"
    references = (
        "It is a guide to action that ensures that the military will forever heed Party commands",
        "It is the guiding principle which guarantees the military forces always being under the command of the Party",
        "It is the practical guide for the army always to heed the directions of the party",
    )
    expected = (17 / 18 * 10 / 17 * 7 / 16 * 4 / 15) ** 0.25
    assert metrics.bleu4([candidate], [references]) == pytest.approx(100 * expected)


def test_bleu_is_clipped_brief_answers_pay_and_the_split_counts_as_a_whole() -> None:
    assert metrics.bleu4(["the the the the the the the"], ["the cat is on the mat"]) == 0.0
    short = metrics.bleu4(["a b c d"], ["a b c d e f g h"])
    assert short == pytest.approx(100 * math.exp(1 - 8 / 4))
    # The second row alone has no 4-gram; together with the first it counts.
    both = metrics.bleu4(["a b c d e", "x"], ["a b c d e", "x"])
    assert both == pytest.approx(100.0)


def test_captions_are_tokenised_by_the_treebanks_rules() -> None:
    text = "The man's T-shirt doesn't cost 1,000.50 \u2014 he can\u2019t, \"cannot\" & won't; red/blue."
    words = "the man 's t-shirt does n't cost 1,000.50 he ca n't can not & wo n't red/blue"
    assert metrics.caption_words(text) == words.split()
    hindi = "\u0915\u093f\u0924\u093e\u092c \u092a\u0922\u093c"
    assert metrics.caption_words(f"{hindi}!") == hindi.split()
