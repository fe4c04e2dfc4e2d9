"""Splits: parts never share a row or a text, have the promised sizes, and are the same on every machine."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from task_support import Rows, make_task

from hyperpelt import Splits, UserError
from hyperpelt.tasks.splits import Part, cut


def numbered(count: int, **columns: object) -> list[dict]:
    return [{"text": f"text {n}", "label": n % 2} for n in range(count)]


def texts(task, split: str) -> set[str]:
    return {row["text"] for row in task.rows(split)}


def test_halved_cuts_validation_in_two_and_leaves_train_alone() -> None:
    task = make_task(Rows(train=numbered(30), validation=numbered(11)), splits=Splits.halved())
    assert (len(task.rows("train")), len(task.rows("validation")), len(task.rows("test"))) == (30, 5, 6)
    assert not texts(task, "validation") & texts(task, "test")


def test_held_out_rows_really_leave_train() -> None:
    task = make_task(Rows(train=numbered(50), validation=numbered(7)), splits=Splits.held_out(10))
    assert (len(task.rows("train")), len(task.rows("validation")), len(task.rows("test"))) == (40, 10, 7)
    assert not texts(task, "train") & texts(task, "validation")
    assert texts(task, "train") | texts(task, "validation") == {f"text {n}" for n in range(50)}


def test_fractions_make_three_splits_of_one() -> None:
    task = make_task(Rows(train=numbered(100)), splits=Splits.fractions(validation=0.2, test=0.1))
    sizes = [len(task.rows(split)) for split in ("train", "validation", "test")]
    assert sizes == [70, 20, 10]
    assert len(texts(task, "train") | texts(task, "validation") | texts(task, "test")) == 100


@pytest.mark.parametrize("size", [999, 1000])
def test_a_source_too_small_for_its_hold_out_is_refused(size: int) -> None:
    task = make_task(Rows(train=numbered(size), validation=numbered(7)), splits=Splits.held_out())
    for split in ("train", "validation"):
        with pytest.raises(UserError, match=f"'train' has {size} rows: too few to hold out 1000"):
            task.rows(split)
    assert len(task.rows("test")) == 7  # nothing was held out of this one


@pytest.mark.parametrize(
    "parts",
    [
        {"validation": "validation", "test": "validation"},
        {"train": Part("train", 900), "validation": Part("train", 0, 1000)},
        {"train": "train", "validation": Part("train", 0, 0.1)},
        {"train": Part("train", 0.1), "validation": Part("train", 0, 100)},  # 100 rows may be more than a tenth
        {"validation": Part("validation", 0, 0.6), "test": Part("validation", 0.5)},
    ],
)
def test_parts_that_could_share_a_row_are_refused_at_construction(parts: dict) -> None:
    with pytest.raises(UserError, match="share rows"):
        Splits(**parts)


@pytest.mark.parametrize("bounds", [(0.5, 0.5), (10, 5), (-1, 5), (0, 1.5), (0, 0)])
def test_parts_without_rows_are_refused(bounds: tuple) -> None:
    with pytest.raises(UserError):
        Part("train", *bounds)


def test_a_text_that_occurs_twice_stays_on_one_side() -> None:
    rows = [{"text": f"text {n // 2}{'.' * (n % 2)}", "label": 0} for n in range(100)]  # each twice, once with a dot
    task = make_task(Rows(train=rows, validation=rows), splits=Splits.held_out(20, by="text"))
    train, validation = ({text.strip(".") for text in texts(task, split)} for split in ("train", "validation"))
    assert not train & validation
    assert len(task.rows("validation")) == 20


def test_dropped_rows_are_in_no_split() -> None:
    rows = [{"text": str(n), "label": -1 if n % 5 == 0 else n % 2} for n in range(50)]
    task = make_task(Rows(train=rows, validation=rows), splits=Splits.held_out(10, drop={"label": -1}))
    assert [len(task.rows(split)) for split in ("train", "validation", "test")] == [30, 10, 40]
    assert all(example.label in (0, 1) for split in task.splits.names() for example in task.examples(split))


def test_row_numbers_lead_back_to_the_source() -> None:
    rows = numbered(50)
    task = make_task(Rows(train=rows, validation=rows), splits=Splits.held_out(10))
    assert [rows[n] for n in task.row_numbers("train")] == list(task.rows("train"))
    assert list(task.row_numbers("test")) == list(range(50))


def test_the_shuffle_is_the_same_on_every_machine() -> None:
    assert cut(range(10), [4, 10], seed=42) == [[8, 1, 5, 0], [7, 2, 9, 4, 3, 6]]
    assert cut([f"key {n}" for n in range(10)], [4, 10], seed=42) == [[8, 1, 5, 0], [7, 2, 9, 4, 3, 6]]


@given(
    keys=st.lists(st.integers(0, 12), min_size=4, max_size=60),
    edges=st.tuples(st.integers(1, 30), st.integers(1, 30)),
    seed=st.integers(0, 5),
)
def test_cut_deals_every_row_once_and_never_parts_a_key(keys: list[int], edges: tuple[int, int], seed: int) -> None:
    first, second = sorted(min(edge, len(keys)) for edge in edges)
    segments = cut(keys, [first, second, len(keys)], seed=seed)
    assert sorted(row for segment in segments for row in segment) == list(range(len(keys)))
    owners = [{keys[row] for row in segment} for segment in segments]
    assert sum(map(len, owners)) == len(set(keys))
    sizes = {key: keys.count(key) for key in keys}
    assert len(segments[0]) <= first or len(owners[0]) == 1 == len({sizes[k] > first for k in owners[0]})
