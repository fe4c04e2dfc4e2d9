"""Guards the embedded suite: the same bytes everywhere, no leak between splits, no answer in the counts of words."""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
from collections import Counter
from collections.abc import Sequence
from functools import cache
from pathlib import Path

import pytest

import hyperpelt.tasks
from hyperpelt import Task, UserError, check_task
from hyperpelt_tasks import tabletop
from hyperpelt_tasks.tabletop import baselines, definitions
from hyperpelt_tasks.tabletop.corpus import sentences
from hyperpelt_tasks.tabletop.dice import Dice
from hyperpelt_tasks.tabletop.render import draw, inside
from hyperpelt_tasks.tabletop.table import SEEN_SHAPES, Table
from hyperpelt_tasks.tabletop.world import DEEDS, MEETINGS, SYNONYMS

SUITE = {task.name: task for task in tabletop.tasks()}
TEXT = [name for name, task in SUITE.items() if task.modalities == ("text",)]
PICTURES = [name for name in SUITE if name not in TEXT]
GOLDEN = json.loads((Path(__file__).parent / "tabletop_sha256.json").read_text())


@cache
def rows(name: str, split: str) -> Sequence[dict]:
    return SUITE[name].rows(split)


def scenes(name: str, split: str) -> set[str]:
    """Everything canonical that a split's rows tell or show."""
    parts = [row[column] for row in rows(name, split) for column in ("scene", "scene2") if column in row]
    return {scene for part in parts for scene in [part, *(part.split("+") if "cloth" not in part else [])]}


def texts(name: str, split: str) -> set[str]:
    return {" ".join(str(value) for column, value in row.items() if "scene" not in column) for row in rows(name, split)}


def first_rows(name: str) -> str:
    """SHA-256 of the first rows of all splits, and of the pixels of their pictures."""
    told = hashlib.sha256()
    for split in ("train", "validation", "test"):
        for row in rows(name, split)[:20]:
            told.update(json.dumps(row, sort_keys=True, ensure_ascii=True).encode())
        for example in SUITE[name].examples(split)[:3] if name in PICTURES else ():
            told.update(example.input.encode() + b"".join(image.tobytes() for image in example.images))
    return told.hexdigest()


@pytest.mark.parametrize("name", SUITE)
def test_one_seed_gives_the_same_bytes_on_every_machine(name: str) -> None:
    assert first_rows(name) == GOLDEN[name]


def test_random_numbers_are_those_of_splitmix64() -> None:
    dice = Dice("x")
    dice.state = 1234567  # the reference implementation's first outputs for this seed
    assert [dice.bits() for _ in range(3)] == [6457827717110365317, 3203168211198807973, 9817491932198370423]


def test_rows_do_not_depend_on_hash_randomisation_or_on_what_was_drawn_before() -> None:
    code = (
        "from hyperpelt_tasks import tabletop; t = {x.name: x for x in tabletop.tasks()}; "
        "print(list(t['tabletop/nli'].source.fn('test', rows=5)), list(t['tabletop/vqa'].source.fn('test', rows=5)))"
    )
    printed = [
        subprocess.run(
            [sys.executable, "-c", code], env={"PYTHONHASHSEED": seed}, capture_output=True, check=True
        ).stdout
        for seed in ("1", "2")
    ]
    assert printed[0] == printed[1]
    assert len(printed[0]) > 500


@pytest.mark.parametrize("name", SUITE)
def test_no_scene_and_no_row_is_in_two_splits(name: str) -> None:
    told = {split: scenes(name, split) for split in ("train", "validation", "test")}
    for one, two in (("train", "validation"), ("train", "test"), ("validation", "test")):
        assert not told[one] & told[two]
        assert not texts(name, one) & texts(name, two)


def test_another_seed_shares_no_scene_with_another_split() -> None:
    other = {task.name: task for task in tabletop.tasks(seed=1)}
    for name in ("tabletop/paraphrase", "tabletop/visual-entailment"):
        made = {row["scene"] for row in other[name].source.fn("train", rows=2000, seed=1)}
        assert not made & {row["scene"] for row in rows(name, "test")}
        assert made != {row["scene"] for row in rows(name, "train")}


@pytest.mark.parametrize("name", [name for name, task in SUITE.items() if task.kind == "classification"])
def test_classes_are_balanced(name: str) -> None:
    for split in ("train", "validation", "test"):
        counts = Counter(row["label"] for row in rows(name, split))
        assert set(counts) == set(range(len(SUITE[name].choices)))
        assert max(counts.values()) - min(counts.values()) <= 1


@pytest.mark.parametrize("name", [name for name in TEXT if SUITE[name].kind == "classification"])
def test_counting_words_does_not_solve_it(name: str) -> None:
    task = SUITE[name]
    counted = max(baselines.score(task, binary=b) for b in (False, True))
    neighbours = baselines.score(task, bigrams=True, binary=False)
    assert max(counted, neighbours) < baselines.majority(task) + 10


@pytest.mark.parametrize("name", [name for name in PICTURES if SUITE[name].kind == "classification"])
def test_the_question_alone_does_not_tell_the_answer(name: str) -> None:
    assert baselines.score(SUITE[name], binary=True) < baselines.majority(SUITE[name]) + 10


@pytest.mark.parametrize("name", [name for name in PICTURES if SUITE[name].kind == "classification"])
def test_the_picture_alone_does_not_tell_the_answer(name: str) -> None:
    # `count` asks for what is there several times more often than chance would: 12 points.
    allowed = 15 if name == "tabletop/count" else 10
    assert baselines.score(SUITE[name], picture=True, binary=False) < baselines.majority(SUITE[name]) + allowed


@pytest.mark.parametrize("name", SUITE)
def test_check_finds_no_error(name: str) -> None:
    report = check_task(SUITE[name], limit=50)
    assert report.ok, [str(finding) for finding in report.findings]


def test_texts_are_short() -> None:
    for name in TEXT:
        lengths = sorted(len(example.input.split()) for example in SUITE[name].examples("validation"))
        assert lengths[len(lengths) // 2] < 40, name
        assert lengths[-1] < 64, name


def test_mixtures_hold_the_suite_and_keep_the_transfer_targets_out() -> None:
    hyperpelt.tasks.load_plugins()
    trained = {task.name for task in hyperpelt.tasks.select(["tabletop", "tabletop-vl"])}
    kept = {task.name for task in hyperpelt.tasks.select(["tabletop-transfer", "tabletop-vl-transfer"])}
    assert not trained & kept
    assert trained | kept == set(SUITE)
    assert len([name for name in trained if name in TEXT]) >= 10
    assert len([name for name in kept if name in TEXT]) >= 2
    assert len([name for name in kept if name in PICTURES]) >= 2


def test_defining_the_suite_imports_nothing_heavy() -> None:
    code = "import sys; from hyperpelt_tasks import tabletop, digits; tabletop.tasks(); print(*sys.modules)"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    assert "hyperpelt_tasks.digits" in loaded
    assert not {"torch", "numpy", "PIL", "sklearn", "transformers", "datasets"} & set(loaded)


def test_difficulty_changes_rows_and_a_wrong_one_is_refused() -> None:
    easy, hard = (list(SUITE["tabletop/nli"].source.fn("test", difficulty=d, rows=100)) for d in ("easy", "hard"))
    assert sum(len(row["premise"]) for row in easy) < sum(len(row["premise"]) for row in hard)
    with pytest.raises(UserError, match="easy, default, hard"):
        list(SUITE["tabletop/nli"].source.fn("test", difficulty="heavy"))
    with pytest.raises(UserError, match="noise"):
        list(SUITE["tabletop/nli"].source.fn("test", nois=3))


def test_corpus_prints_training_sentences_and_no_labels() -> None:
    command = [sys.executable, "-m", "hyperpelt_tasks.tabletop", "--sentences", "50", "--seed", "3"]
    lines = subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()
    assert lines == list(sentences(50, seed=3)) == list(sentences(80, seed=3))[:50]
    assert lines != list(sentences(50, seed=4))
    assert not any(" label" in line or ":" in line for line in lines)
    assert all(line[-1] in ".?" for line in lines)


def test_corpus_tells_no_sentence_of_a_test_row() -> None:
    told = {part + "." for line in sentences(3000) for part in line.rstrip(".").split(". ")}
    heard = {row["sentence1"] for row in rows("tabletop/similarity", "test")}
    assert not told & heard


def test_a_synonym_belongs_to_one_concept() -> None:
    words = Counter(word for concept in SYNONYMS.values() for word in concept)
    assert [word for word, count in words.items() if count > 1] == []
    assert not set(DEEDS) & set(SYNONYMS)
    assert not set(DEEDS) & set(MEETINGS)


def test_a_picture_shows_its_table() -> None:
    scene = "cloth:3+large:red:ball:0:0+small:blue:cube:1:1"
    picture = draw(scene)
    assert picture.size == (128, 128)
    red, green, blue = picture.getpixel((16, 16))
    assert red > 180
    assert max(green, blue) < 60
    assert picture.getpixel((48, 48))[2] > 180
    assert picture.tobytes() == draw(Table.read(scene).scene()).tobytes()


def test_shapes_differ_at_every_size() -> None:
    for r in (5, 9, 14):
        span = range(-r, r + 1)
        drawn = {shape: tuple(inside(shape, x, y, r) for y in span for x in span) for shape in SEEN_SHAPES}
        assert len(set(drawn.values())) == len(SEEN_SHAPES)
        assert all(sum(pixels) > r for pixels in drawn.values())


def test_a_statement_about_pictures_needs_both() -> None:
    made = rows("tabletop/pairs", "train")
    again = {}
    for row in made:
        again.setdefault(row["statement"], set()).add(row["label"])
    assert sum(len(labels) == 2 for labels in again.values()) > 100  # the same words, true of some and false of others


def test_tasks_are_ordinary_tasks() -> None:
    assert all(isinstance(task, Task) and task.description for task in SUITE.values())
    assert {name.removeprefix("tabletop/") for name in SUITE} == {
        *definitions.TEXT,
        *definitions.TEXT_TRANSFER,
        *definitions.VISION,
        *definitions.VISION_TRANSFER,
    }
