"""Data: rates and the order of rows, tokens on disk, and batches."""

from __future__ import annotations

import itertools
import multiprocessing
import os
import pickle
import tracemalloc
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from hyperpelt import tasks as registry
from hyperpelt.data import (
    MicroBatches,
    MixtureSampler,
    RateTree,
    TokenizedSet,
    batches,
    collate,
    encode_inputs,
    lengths_of,
    mixing_rates,
    pad,
    rate_trees,
    rates_table,
    slice_batch,
    task_names,
)
from hyperpelt.data.choices import Choices
from hyperpelt.errors import UserError
from hyperpelt.tasks import Example, Generator, Mixture, Task
from hyperpelt_tasks.rendering import written

SIZES = {"small": 100, "middle": 1000, "large": 40_000}

# ------------------------------------------------------------------------------------------------------------- rates


@pytest.mark.parametrize(
    ("strategy", "options", "weights"),
    [
        ("proportional", {}, [100, 1000, 40_000]),
        ("equal", {}, [1, 1, 1]),
        ("capped", {"cap": 500}, [100, 500, 500]),
        ("temperature", {"temperature": 2.0}, [100**0.5, 1000**0.5, 40_000**0.5]),
        ("temperature", {"temperature": 4.0, "cap": 1000}, [100**0.25, 1000**0.25, 1000**0.25]),
        ("temperature", {"temperature": 1.0}, [100, 1000, 40_000]),
    ],
)
def test_strategies_follow_their_formulas(strategy, options, weights):
    rates = mixing_rates(SIZES, strategy, **options)
    assert list(rates.values()) == pytest.approx(np.array(weights) / np.sum(weights))


def test_rates_of_the_user_win_over_the_strategy():
    trees = [RateTree("small", 2.0), RateTree("middle", 1.0), RateTree("large", 1.0)]
    assert list(mixing_rates(SIZES, "proportional", trees=trees).values()) == pytest.approx([0.5, 0.25, 0.25])


def test_a_mixture_has_one_rate_and_shares_it_out_inside():
    trees = [RateTree("both", 3.0, (RateTree("small"), RateTree("middle"))), RateTree("large", 1.0)]
    rates = mixing_rates(SIZES, "proportional", trees=trees)
    assert rates == pytest.approx({"small": 0.75 * 100 / 1100, "middle": 0.75 * 1000 / 1100, "large": 0.25})


def test_unrated_mixtures_mix_as_if_their_tasks_were_named():
    nested = [RateTree("m", None, (RateTree("small"), RateTree("n", None, (RateTree("middle"),)))), RateTree("large")]
    assert mixing_rates(SIZES, "temperature", temperature=3, trees=nested) == pytest.approx(
        mixing_rates(SIZES, "temperature", temperature=3)
    )


def test_a_task_reached_twice_gets_both_shares_and_functions_see_the_rows():
    trees = [
        RateTree("m", 1.0, (RateTree("small", lambda name, rows: rows / 100), RateTree("middle", 3.0))),
        RateTree("small", 1.0),
    ]
    assert mixing_rates(SIZES, "explicit", trees=trees) == pytest.approx(
        {"small": 0.5 / 4 + 0.5, "middle": 0.5 * 3 / 4}
    )


@pytest.mark.parametrize(
    ("strategy", "trees", "expected"),
    [
        ("explicit", [RateTree("small")], "needs a rate for each entry of tasks: 'small' has none"),
        ("capped", [RateTree("small")], "set mixing.cap"),
        ("equal", [RateTree("small", 1.0), RateTree("large")], "'large' has none and others have one"),
        ("equal", [RateTree("small", 0.0)], "All rates of tasks are zero"),
        ("equal", [RateTree("small", lambda name, rows: "much")], "should be a number of 0 or more, got 'much'"),
    ],
)
def test_rates_that_mean_nothing_are_refused(strategy, trees, expected):
    with pytest.raises(UserError, match=expected):
        mixing_rates(SIZES, strategy, trees=trees)


def test_the_table_before_training_counts_passes_over_the_rows():
    rows = rates_table({"small": 0.25, "middle": 0.75}, SIZES, 4000)
    assert [(row["task"], row["rows"], row["epochs"]) for row in rows] == [("small", 100, 10.0), ("middle", 1000, 3.0)]


# ------------------------------------------------------------------------------------------------- tasks and mixtures


def generated(split: str, count: int = 20, words: str = "good bad") -> list[dict[str, object]]:
    return [{"text": f"{words} {'a ' * (i % 6)}", "label": i % 2} for i in range(count if split == "train" else 6)]


def render(row: dict[str, object]) -> Example:
    return Example(input=str(row["text"]), label=row["label"])


def make_task(name: str, source: Generator | None = None, **fields: object) -> Task:
    return Task(name=name, source=source or Generator(generated), render=render, choices=("no", "yes"), **fields)


@pytest.fixture
def registered():
    entries = [make_task("unit/one"), make_task("unit/two"), make_task("unit/three")]
    entries += [Mixture(name="unit-pair", rates=["unit/one", "unit/two"])]
    entries += [Mixture(name="unit-nest", rates={"unit-pair": 1, "unit/three": lambda task, rows: rows / 20})]
    for entry in entries:
        registry.register(entry)
    yield
    for entry in entries:
        registry.remove(entry.name)


def test_the_more_specific_name_wins_over_the_wildcard(registered):
    trees = rate_trees({"unit/*": 1, "unit/t*": 5, "unit/two": 2})
    assert {tree.name: tree.rate for tree in trees} == {"unit/one": 1, "unit/three": 5, "unit/two": 2}


def test_mixtures_nest_and_hold_functions(registered):
    trees = rate_trees({"unit-nest": None})
    assert task_names(trees) == ["unit/one", "unit/two", "unit/three"]
    sizes = {"unit/one": 30, "unit/two": 10, "unit/three": 60}
    assert mixing_rates(sizes, trees=trees) == pytest.approx(
        {"unit/one": 0.1875, "unit/two": 0.0625, "unit/three": 0.75}
    )


def test_exclusions_reach_into_mixtures(registered):
    assert task_names(rate_trees({"unit-nest": None, "!unit/two": None})) == ["unit/one", "unit/three"]
    with pytest.raises(UserError, match="No task is left"):
        rate_trees({"unit-pair": None, "!unit/*": None})


def test_a_misspelt_task_names_the_nearest(registered):
    with pytest.raises(UserError, match="'unit/three'"):
        rate_trees({"unit/thre": 1})
    with pytest.raises(UserError, match="No task matches"):
        rate_trees({"unti/*": 1})


def test_a_mixture_that_contains_itself_is_refused():
    registry.register(Mixture(name="unit-loop", rates=["unit-pool"]))
    registry.register(Mixture(name="unit-pool", rates=["unit-loop"]))
    try:
        with pytest.raises(UserError, match="contains itself"):
            rate_trees({"unit-loop": None})
    finally:
        registry.remove("unit-loop")
        registry.remove("unit-pool")


# ----------------------------------------------------------------------------------------------------------- sampler

LENGTHS = {
    "a": np.random.default_rng(0).integers(3, 60, 50),
    "b": np.random.default_rng(1).integers(3, 120, 400),
    "c": np.random.default_rng(2).integers(20, 30, 7),
}
RATES = {"a": 0.25, "b": 0.7, "c": 0.05}


def sampler(**options: object) -> MixtureSampler:
    return MixtureSampler(RATES, LENGTHS, **({"batch_size": 16, "seed": 3} | options))


def drawn(batch) -> list[tuple[int, int]]:
    return list(zip(batch.tasks.tolist(), batch.rows.tolist(), strict=True))


@settings(max_examples=25, deadline=None)
@given(
    batch_size=st.sampled_from([1, 4, 16, 60]),
    window=st.integers(1, 9),
    batching=st.sampled_from(["mixed", "one_task"]),
    seed=st.integers(0, 5),
)
def test_shares_are_exact_and_rows_come_once_an_epoch(batch_size, window, batching, seed):
    order = sampler(batch_size=batch_size, window=window, batching=batching, seed=seed)
    steps = window * 12
    found = [order.batch(step) for step in range(steps)]
    assert all(len(batch) == batch_size for batch in found)
    unit = batch_size if batching == "one_task" else 1
    for task, name in enumerate(order.names):
        rows = np.concatenate([batch.rows[batch.tasks == task] for batch in found])
        assert abs(len(rows) - RATES[name] * steps * batch_size) <= 3 * unit
        seen = np.bincount(rows, minlength=len(LENGTHS[name]))
        # Whole epochs are seen by every row; a window may reach into the next one.
        assert seen.max() - seen.min() <= 1 + window * batch_size // len(LENGTHS[name]) + 1


def test_the_order_depends_on_seed_and_step_alone():
    first, second = sampler(), sampler()
    forwards = [drawn(first.batch(step)) for step in range(60)]
    assert [drawn(second.batch(step)) for step in reversed(range(60))] == forwards[::-1]
    assert [drawn(sampler(seed=4).batch(step)) for step in range(60)] != forwards


def test_the_order_is_the_one_that_older_checkpoints_were_drawn_in():
    def first(**options):
        order = sampler(batch_size=4, **options)
        return [drawn(order.batch(step)) for step in (0, 41)]

    order = sampler(batch_size=4, window=1)
    assert [drawn(order.batch(step)) for step in (0, 1, 100)] == [
        [(0, 45), (1, 157), (1, 181), (1, 116)],
        [(1, 236), (1, 172), (2, 1), (0, 6)],
        [(1, 144), (1, 212), (0, 13), (1, 275)],
    ]
    assert first(window=2) == [[(0, 6), (1, 206), (0, 45), (1, 236)], [(0, 48), (2, 3), (1, 189), (1, 162)]]
    assert first(window=2, batching="one_task") == [
        [(1, 345), (1, 181), (1, 272), (1, 295)],
        [(1, 281), (1, 300), (1, 309), (1, 287)],
    ]


@pytest.mark.parametrize("batching", ["mixed", "one_task"])
def test_each_window_is_counted_once_however_long_the_run(monkeypatch, batching):
    counted, draw = [], MixtureSampler._drawn

    def counting(self, windows, size):
        counted.extend(windows.tolist())
        return draw(self, windows, size)

    monkeypatch.setattr(MixtureSampler, "_drawn", counting)
    order = sampler(window=1, batching=batching)
    batches = [drawn(order.batch(step)) for step in range(100)]
    assert len(counted) <= 2 * 100
    assert drawn(order.batch(17)) == batches[17], "going back"
    assert drawn(sampler(window=1, batching=batching).batch(63)) == batches[63], "resuming"


def test_the_windows_of_a_long_run_are_not_all_held_at_once():
    lengths = {f"task {n}": np.zeros(10, np.int32) for n in range(50)}
    sampler = MixtureSampler(dict.fromkeys(lengths, 0.02), lengths, batch_size=8, window=1, total=40_000)
    tracemalloc.start()
    sampler.batch(39_999)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 15e6


def test_rows_differ_from_epoch_to_epoch():
    order = MixtureSampler({"a": 1.0}, {"a": np.full(32, 5)}, batch_size=32, seed=0, window=1)
    epochs = [drawn(order.batch(step)) for step in range(3)]
    assert all(sorted(epoch) == sorted(epochs[0]) for epoch in epochs)
    assert epochs[0] != epochs[1] != epochs[2]


def test_another_task_in_the_mixture_leaves_the_order_of_a_tasks_rows():
    alone = MixtureSampler({"a": 1.0}, LENGTHS, batch_size=5, seed=1, window=1)
    joined = MixtureSampler({"c": 0.5, "a": 0.5}, LENGTHS, batch_size=10, seed=1, window=1)
    mine = [row for step in range(10) for row in np.sort(alone.batch(step).rows)]
    theirs = [
        row for step in range(10) for batch in [joined.batch(step)] for row in np.sort(batch.rows[batch.tasks == 1])
    ]
    assert mine == theirs


def test_one_task_batches_hold_one_task():
    order = sampler(batching="one_task")
    kinds = [set(order.batch(step).tasks.tolist()) for step in range(40)]
    assert all(len(kind) == 1 for kind in kinds)
    assert set().union(*kinds) == {0, 1, 2}


@pytest.mark.parametrize("batching", ["mixed", "one_task"])
@pytest.mark.parametrize("epochs", [1, 3])
def test_whole_epochs_see_each_row_so_often_whatever_the_window(batching, epochs):
    """48 rows in batches of 4 are 12 steps an epoch: neither 5 nor 32 divides that."""
    for window in (5, 8, 32):
        order = MixtureSampler({"b": 1.0}, {"b": np.arange(48)}, 4, seed=2, batching=batching, window=window)
        order.total = 12 * epochs
        rows = np.concatenate([order.batch(step).rows for step in range(order.total)])
        assert np.bincount(rows, minlength=48).tolist() == [epochs] * 48
        with pytest.raises(IndexError, match=f"Step {order.total} of a run of {order.total}"):
            order.batch(order.total)


def test_the_end_of_a_run_changes_its_last_window_alone():
    endless, ending = sampler(window=8), sampler(window=8, total=21)
    for step in range(16):
        assert drawn(ending.batch(step)) == drawn(endless.batch(step))
    shares = Counter(task for step in range(21) for task, _ in drawn(ending.batch(step)))
    assert sum(shares.values()) == 21 * ending.batch_size


def test_batches_of_like_length_need_less_padding():
    def padded(window: int) -> int:
        order, total = sampler(window=window), 0
        for step in range(80):
            batch = order.batch(step)
            lengths = [LENGTHS[order.names[task]][row] for task, row in drawn(batch)]
            total += max(lengths) * len(lengths)
        return total

    assert padded(8) < 0.75 * padded(1)


def test_neighbouring_batches_are_not_sorted_by_length():
    order = sampler(window=8)
    means = [np.mean([LENGTHS[order.names[task]][row] for task, row in drawn(order.batch(step))]) for step in range(64)]
    rising = sum(second > first for first, second in itertools.pairwise(means))
    assert 16 < rising < 48


def test_state_is_small_and_resumes_in_the_middle_of_an_epoch():
    order = sampler()
    iterator = iter(order)
    for _ in range(21):
        next(iterator)
    state = order.state_dict()
    rest = [drawn(next(iterator)) for _ in range(30)]
    again = sampler()
    again.load_state_dict(state)
    assert [drawn(batch) for batch in itertools.islice(again, 30)] == rest
    assert len(str(state)) < 500


@pytest.mark.parametrize("change", [{"seed": 9}, {"batch_size": 8}, {"window": 2}, {"batching": "one_task"}])
def test_a_state_of_another_order_is_refused(change):
    with pytest.raises(UserError, match=rf"drawn with {next(iter(change))}"):
        sampler(**change).load_state_dict(sampler().state_dict())


def test_slices_of_a_global_batch_are_its_rows_whatever_the_accumulation_and_processes():
    whole = sampler().batch(5)
    for num_micro, world in [(1, 1), (4, 1), (1, 2), (2, 4), (16, 1)]:
        parts = [
            drawn(slice_batch(whole, micro=micro, num_micro=num_micro, rank=rank, world=world))
            for micro in range(num_micro)
            for rank in range(world)
        ]
        assert all(len(part) == 16 // (num_micro * world) for part in parts)
        assert sorted(itertools.chain(*parts)) == sorted(drawn(whole))


@pytest.mark.parametrize("batching", ["mixed", "one_task"])
@pytest.mark.parametrize("total", [1, 3, 9, 40])
def test_the_rows_of_a_run_are_known_before_their_lengths_are(total, batching):
    unknown = MixtureSampler(RATES, {name: np.zeros(len(LENGTHS[name])) for name in LENGTHS}, 4, 3, batching, 8, total)
    order = sampler(batch_size=4, window=8, batching=batching, total=total)
    seen = [drawn(order.batch(step)) for step in range(total)]
    for task, name in enumerate(order.names):
        assert unknown.rows()[name].tolist() == sorted({row for batch in seen for of, row in batch if of == task})
    unknown.lengths = LENGTHS
    assert [drawn(unknown.batch(step)) for step in range(total)] == seen


def test_an_empty_training_split_is_refused():
    with pytest.raises(UserError, match="a: the training split is empty"):
        MixtureSampler({"a": 1.0}, {"a": np.zeros(0, np.int64)}, batch_size=2)


# ------------------------------------------------------------------------------------------------------------- tokens


def tokens(task: Task, tokenizer, folder: Path, **options: object) -> TokenizedSet:
    lengths = {"max_source_length": 16, "max_target_length": 8}
    return TokenizedSet.load_or_build(task, "train", tokenizer, cache_dir=folder, **(lengths | options))


def test_tokens_are_those_of_the_tokenizer_with_one_eos(tiny_tokenizer, tmp_path):
    found = tokens(make_task("unit/tokens"), tiny_tokenizer, tmp_path)
    assert len(found) == 20
    text = generated("train")[3]["text"]
    assert found[3].input_ids.tolist() == tiny_tokenizer(text)["input_ids"]
    assert found[3].labels.tolist() == [*tiny_tokenizer("yes", add_special_tokens=False)["input_ids"], 1]
    assert found.name_of(3) == "unit/tokens train row 3"
    assert found.source_lengths.tolist() == [len(found[i].input_ids) for i in range(20)]


def test_wrong_choices_of_few_rows_are_kept_and_of_many_found_again(tiny_tokenizer, tmp_path, monkeypatch):
    def pick(row: dict[str, object]) -> Example:
        return Example(input=str(row["text"]), choices=("good", f"bad {row['n']}"), label=0)

    rows = [{"text": "a", "n": n} for n in range(12)]
    task = Task(name="unit/pick", source=Generator(lambda split: rows), render=pick)
    found = tokens(task, tiny_tokenizer, tmp_path)
    whole, bounded = (Choices({task.name: task}, tiny_tokenizer, 8) for _ in range(2))
    expected = [whole.wrong(found, row) for row in range(12)]
    assert all(len(wrong) == 1 for wrong in expected)
    monkeypatch.setattr("hyperpelt.data.choices.KEPT", 5)
    for _ in range(2):
        assert [bounded.wrong(found, row) for row in range(12)] == expected
    assert len(bounded._found) == 5
    assert len(bounded._tokens) <= 5 + 2


def test_long_texts_are_cut_counted_and_still_end(tiny_tokenizer, tmp_path):
    found = tokens(make_task("unit/long"), tiny_tokenizer, tmp_path, max_source_length=4, max_target_length=2)
    lengths = [len(tiny_tokenizer(row["text"])["input_ids"]) for row in generated("train")]
    assert found.num_cut_sources == sum(length > 4 for length in lengths) > 0
    assert found.source_lengths.max() == 4
    assert all(found[i].input_ids[-1] == 1 and found[i].labels[-1] == 1 for i in range(20))
    whole = tokens(make_task("unit/long"), tiny_tokenizer, tmp_path)
    assert whole.num_cut_targets == 0


def test_an_ending_stays_whole_and_what_is_cut_stands_before_it(tiny_tokenizer):
    ending = "hypothesis: the good"
    texts = [f"premise: {'a bad ' * 40}{ending}", f"short {ending}", f"premise: a {'no ' * 40}"]
    cut, num_cut = encode_inputs(tiny_tokenizer, texts, 36, [ending, ending, texts[2]])
    plain, _ = encode_inputs(tiny_tokenizer, texts, 36)
    whole = tiny_tokenizer(ending)["input_ids"]
    assert num_cut == 2
    assert [len(ids) for ids in cut] == [36, len(plain[1]), 36]
    assert cut[0][-len(whole) :] == whole
    assert cut[0][: 36 - len(whole)] == plain[0][: 36 - len(whole)]
    assert cut[1:] == plain[1:], "nothing to cut, or an ending that is too long itself"


def test_of_named_fields_the_longest_is_cut():
    def ending(**fields):
        return written(fields, label=0).ending

    assert ending(premise="one two three", hypothesis="one") == "hypothesis: one"
    assert ending(question="one", passage="one two three") == ""
    assert ending(first="one", second="one two three", third="two") == "third: two"
    assert written({"first": "one", "second": "two"}, label=0).input == "first: one second: two"


def test_tokens_are_made_anew_when_rows_are_rendered_otherwise(tiny_tokenizer, tmp_path):
    class Style:
        word = "good"

        def __call__(self, row):  # nothing that a fingerprint of the definition can see
            return Example(input=f"{type(self).word} {row['n']}", label=row["n"] % 2)

    rows = [{"n": n} for n in range(200)]
    task = Task(name="toy/style", source=Generator(lambda split: rows), render=Style(), choices=("no", "yes"))
    lengths = {"max_source_length": 16, "max_target_length": 4, "cache_dir": tmp_path}
    first = TokenizedSet.load_or_build(task, "train", tiny_tokenizer, **lengths)
    Style.word = "bad"
    second = TokenizedSet.load_or_build(task, "train", tiny_tokenizer, **lengths)
    assert first.path != second.path
    assert list(second[0].input_ids) == tiny_tokenizer("bad 0")["input_ids"]


def test_a_cached_set_is_found_and_anything_that_matters_makes_another(tiny_tokenizer, tmp_path):
    first = tokens(make_task("unit/cache"), tiny_tokenizer, tmp_path)
    written = first.path.stat().st_mtime_ns
    assert tokens(make_task("unit/cache"), tiny_tokenizer, tmp_path).path.stat().st_mtime_ns == written
    tiny_tokenizer("a text", truncation=True, max_length=3, padding=True)  # leaves no trace in the fingerprint
    assert tokens(make_task("unit/cache"), tiny_tokenizer, tmp_path).path == first.path
    others = [
        tokens(
            make_task("unit/cache", Generator(lambda split: generated(split, words="yes"))), tiny_tokenizer, tmp_path
        ),
        tokens(make_task("unit/cache", Generator(lambda split: generated(split, 19))), tiny_tokenizer, tmp_path),
        tokens(make_task("unit/cache"), tiny_tokenizer, tmp_path, max_source_length=12),
        tokens(make_task("unit/cache"), tiny_tokenizer, tmp_path, limit=10),
        tokens(make_task("unit/cache", metrics=("f1",)), tiny_tokenizer, tmp_path),
    ]
    tiny_tokenizer.add_tokens(["bad"])
    others.append(tokens(make_task("unit/cache"), tiny_tokenizer, tmp_path))
    assert len({found.path for found in [first, *others]}) == len(others) + 1


def test_a_flipped_bit_of_a_cache_file_never_reaches_training(tiny_tokenizer, tmp_path, caplog):
    def rows():
        found = tokens(make_task("unit/flipped"), tiny_tokenizer, tmp_path)
        about = (found.num_cut_sources, found.num_cut_targets, found.task, found.fingerprint)
        return about, [(row.input_ids.tolist(), row.labels.tolist(), row.weight, row.number) for row in found]

    whole = rows()
    (path,) = (tmp_path / "tokenized").glob("*.arrow")
    content = path.read_bytes()
    for place in range(0, len(content), len(content) // 60):
        flipped = bytearray(content)
        flipped[place] ^= 4
        path.unlink()  # files in use are never written into
        path.write_bytes(flipped)
        assert rows() == whole, f"byte {place} of {len(content)}"
    assert any(f"{path} is not as it was written" in record.getMessage() for record in caplog.records)
    assert "tokenised again" in caplog.text


def test_what_killed_processes_left_of_a_set_is_cleared_away(tiny_tokenizer, tmp_path):
    path = tokens(make_task("unit/killed"), tiny_tokenizer, tmp_path).path
    for name in (f".{path.name}.here-1-1.tmp", f"{path.stem}.4711.tmp"):
        (path.parent / name).write_bytes(b"half")
    tokens(make_task("unit/killed"), tiny_tokenizer, tmp_path)
    assert {file.name for file in path.parent.iterdir()} == {path.name, path.with_suffix(".lock").name}


def drawn_rows(found: TokenizedSet, places) -> list[tuple]:
    rows = [found[place] for place in places]
    return [(row.input_ids.tolist(), row.labels.tolist(), row.weight, row.number) for row in rows]


def test_rows_that_nobody_asked_for_are_not_tokenised(tiny_tokenizer, tmp_path):
    seen: list[str] = []

    def watched(row: dict[str, object]) -> Example:
        seen.append(str(row["text"]))
        return render(row)

    rows = [{"text": f"good {'a ' * (n % 9)}", "label": n % 2} for n in range(300)]
    task = Task(name="unit/some", source=Generator(lambda split: rows), render=watched, choices=("no", "yes"))
    whole = tokens(task, tiny_tokenizer, tmp_path / "whole", max_source_length=6)
    looked_at = 64  # by which a set is found
    asked = np.array([3, 8, 17, 250])
    seen.clear()
    some = tokens(task, tiny_tokenizer, tmp_path, rows=asked, max_source_length=6)
    assert len(seen) == looked_at + len(asked)
    assert (some.fingerprint, len(some)) == (whole.fingerprint, len(whole))
    for one in (some, pickle.loads(pickle.dumps(some))):
        assert drawn_rows(one, asked) == drawn_rows(whole, asked)
        assert one.source_lengths[asked].tolist() == whole.source_lengths[asked].tolist()
        assert one.name_of(17) == "unit/some train row 17"
        with pytest.raises(KeyError, match="Row 4 of unit/some train was not asked for"):
            one[4]
    seen.clear()
    more = np.array([3, 4, 8, 14, 17, 250])
    further = tokens(task, tiny_tokenizer, tmp_path, rows=more, max_source_length=6)
    assert len(seen) == looked_at + 2
    assert drawn_rows(further, more) == drawn_rows(whole, more)
    again = tokens(task, tiny_tokenizer, tmp_path, rows=asked, max_source_length=6)
    assert again.num_cut_sources == some.num_cut_sources == 3 < further.num_cut_sources
    everything = tokens(task, tiny_tokenizer, tmp_path, max_source_length=6)
    assert drawn_rows(everything, range(300)) == drawn_rows(whole, range(300))
    assert everything.num_cut_sources == whole.num_cut_sources


def test_a_set_is_made_in_parts_and_goes_on_where_it_was_killed(tiny_tokenizer, tmp_path, monkeypatch):
    monkeypatch.setattr("hyperpelt.data.parts.PART", 6)
    whole = tokens(make_task("unit/parts"), tiny_tokenizer, tmp_path / "whole")
    folder = tmp_path / "killed" / "tokenized"
    pid = os.fork()
    if not pid:
        placed = os.replace

        def killed(*paths):
            return os._exit(9) if len(list(folder.glob("*.arrow"))) == 2 else placed(*paths)

        monkeypatch.setattr(os, "replace", killed)
        tokens(make_task("unit/parts"), tiny_tokenizer, tmp_path / "killed")
        os._exit(0)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 9
    there = {path: path.stat().st_ino for path in folder.glob("*.arrow")}
    assert len(there) == 2
    found = tokens(make_task("unit/parts"), tiny_tokenizer, tmp_path / "killed")
    assert drawn_rows(found, range(20)) == drawn_rows(whole, range(20))
    assert {path: path.stat().st_ino for path in there} == there
    made = sorted(folder.glob("*.arrow"))
    assert [path.read_bytes() for path in made] == [
        path.read_bytes() for path in sorted((tmp_path / "whole" / "tokenized").glob("*.arrow"))
    ]
    assert len(made) == 4
    assert not list(folder.glob("*.tmp"))
    made[1].write_bytes(made[1].read_bytes()[:-7])
    assert drawn_rows(tokens(make_task("unit/parts"), tiny_tokenizer, tmp_path / "killed"), range(20)) == drawn_rows(
        whole, range(20)
    )


@pytest.mark.parametrize("damage", ["truncated", "emptied", "overwritten"])
def test_a_damaged_cache_file_is_made_again(tiny_tokenizer, tmp_path, damage):
    found = tokens(make_task("unit/damage"), tiny_tokenizer, tmp_path)
    expected, path = found[7].input_ids.tolist(), found.path
    content = path.read_bytes()
    path.unlink()  # the set above still maps the old file
    path.write_bytes({"truncated": content[: len(content) // 2], "emptied": b"", "overwritten": b"x" * 500}[damage])
    assert tokens(make_task("unit/damage"), tiny_tokenizer, tmp_path)[7].input_ids.tolist() == expected


def test_processes_that_ask_at_once_get_the_same_whole_file(tiny_tokenizer, tmp_path):
    context = multiprocessing.get_context("fork")
    answers = context.Queue()

    def ask() -> None:
        found = tokens(make_task("unit/race"), tiny_tokenizer, tmp_path)
        answers.put((found.path.name, int(found[19].input_ids.sum()), len(found)))

    asking = [context.Process(target=ask) for _ in range(4)]
    for process in asking:
        process.start()
    assert len({answers.get(timeout=60) for _ in asking}) == 1
    for process in asking:
        process.join()
    assert len(list((tmp_path / "tokenized").glob("*.arrow"))) == 1
    assert not list((tmp_path / "tokenized").glob("*.tmp"))


def test_an_empty_split_and_images_are_refused(tiny_tokenizer, tmp_path):
    with pytest.raises(UserError, match=r"unit/empty.*empty"):
        tokens(make_task("unit/empty", Generator(lambda split: [])), tiny_tokenizer, tmp_path)
    seen = Task(
        name="unit/seen",
        source=Generator(generated),
        render=lambda row: Example(input="a", label=0, images=(b"",)),
        choices=("no", "yes"),
    )
    with pytest.raises(UserError, match="unit/seen has images"):
        tokens(seen, tiny_tokenizer, tmp_path)


def test_a_cache_folder_that_cannot_be_made_says_so(tiny_tokenizer, tmp_path):
    (tmp_path / "file").write_text("", encoding="utf8")
    with pytest.raises(UserError, match="set HYPERPELT_CACHE"):
        tokens(make_task("unit/folder"), tiny_tokenizer, tmp_path / "file")


# ------------------------------------------------------------------------------------------------------------ batches


@pytest.fixture
def sets(tiny_tokenizer, tmp_path):
    found = {}
    for name, count in (("unit/x", 40), ("unit/y", 24)):
        task = make_task(name, Generator(lambda split, count=count, name=name: generated(split, count, words=name)))
        found[name] = tokens(task, tiny_tokenizer, tmp_path)
    return found


def micro_batches(sets, **options: int) -> MicroBatches:
    order = MixtureSampler({"unit/x": 0.5, "unit/y": 0.5}, lengths_of(sets), batch_size=16, seed=1)
    return MicroBatches(order, sets, task_ids={"unit/x": 4, "unit/y": 2}, pad_token_id=0, **options)


def test_a_batch_is_padded_to_a_multiple_of_eight_and_says_whose_rows_it_holds(sets):
    batch = micro_batches(sets)[0]
    assert batch["input_ids"].shape[1] % 8 == 0
    assert batch["labels"].shape[1] % 8 == 0
    tight = micro_batches(sets, multiple=1)[0]
    assert tight["input_ids"].shape[1] == int(tight["attention_mask"].sum(dim=1).max())
    assert tight["labels"].shape[1] == int((tight["labels"] >= 0).sum(dim=1).max())
    for row, name in enumerate(batch["row_names"]):
        task, _, number = name.partition(" train row ")
        expected = sets[task][int(number)]
        assert batch["input_ids"][row][batch["attention_mask"][row].bool()].tolist() == expected.input_ids.tolist()
        assert batch["labels"][row][batch["labels"][row] >= 0].tolist() == expected.labels.tolist()
        assert batch["task_ids"][row] == {"unit/x": 4, "unit/y": 2}[task]
    assert not batch["input_ids"][batch["attention_mask"] == 0].any()
    assert batch["num_global_tokens"] == int((batch["labels"] >= 0).sum())
    assert batch["num_read_tokens"] == batch["num_global_tokens"] + int(batch["attention_mask"].sum())


@pytest.mark.parametrize("num_workers", [0, 2])
def test_workers_and_accumulation_change_no_rows(sets, num_workers):
    whole = list(batches(micro_batches(sets), start=3, stop=9))
    parts = list(batches(micro_batches(sets, num_micro=4), start=3, stop=9, num_workers=num_workers))
    assert len(whole) == len(parts) == 6
    for (one,), four in zip(whole, parts, strict=True):
        assert sorted(one["row_names"]) == sorted(name for batch in four for name in batch["row_names"])
        assert all(batch["num_global_tokens"] == one["num_global_tokens"] for batch in four)


def test_loading_batches_leaves_the_random_state_alone(sets):
    before = torch.get_rng_state()
    next(batches(micro_batches(sets), start=0, stop=1))
    assert torch.equal(torch.get_rng_state(), before)


def test_row_weights_travel_with_their_rows(sets):
    rows = [sets["unit/x"][0]._replace(weight=0.3), sets["unit/x"][1]]
    assert collate(rows, task_ids=[0, 0], names=["a", "b"], pad_token_id=0)["row_weights"].tolist() == [
        pytest.approx(0.3),
        1.0,
    ]
    assert pad([[1, 2, 3], [4]], -100).tolist() == [[1, 2, 3, *[-100] * 5], [4, *[-100] * 7]]


def test_glue_batches_are_dense_and_mixed(data_root, tmp_path, capsys):
    """The figures of docs/training.md: positions a real token, and tasks a batch."""
    from hyperpelt.backbones import load_tokenizer

    tokenizer, found = load_tokenizer("mini-bart"), {}
    for name in task_names(rate_trees({"glue": None})):
        lengths = {"max_source_length": 96, "max_target_length": 16, "limit": 500}
        found[name] = tokens(registry.get(name), tokenizer, tmp_path, data_root=data_root, **lengths)

    def measure(window: int) -> tuple[float, float]:
        order = MixtureSampler(dict.fromkeys(found, 1 / 8), lengths_of(found), batch_size=32, seed=0, window=window)
        rows = MicroBatches(order, found, task_ids={name: i for i, name in enumerate(found)}, pad_token_id=1)
        seen = [rows[step] for step in range(160)]
        real = sum(int(batch["attention_mask"].sum()) for batch in seen)
        mixed = np.mean([len(set(batch["task_ids"].tolist())) for batch in seen])
        return sum(batch["input_ids"].numel() for batch in seen) / real, float(mixed)

    (sorted_padding, mixed), (padding, _) = measure(32), measure(1)
    with capsys.disabled():
        print(
            f"\npositions a real token: {sorted_padding:.2f} sorted, {padding:.2f} unsorted; {mixed:.1f} tasks a batch"
        )
    assert sorted_padding < 1.15 < 2.2 < padding
    assert mixed > 4.5
