"""Bootstrap intervals, rows as JSON lines, confusions, the worst rows, and tasks that are rendered in several ways."""

from __future__ import annotations

import json
import tracemalloc

import numpy as np
import pytest
from small_models import make_t5
from test_evaluation import BINARY, NUMBER, OPEN, task, tuned

from hyperpelt import Example, UserError, evaluate, metrics
from hyperpelt.evaluation import intervals
from hyperpelt.evaluation.results import Results
from hyperpelt.evaluation.samples import sample_log

QUIET = {"progress": False, "batch_size": 4, "max_target_length": 4}


@pytest.fixture
def model(tiny_tokenizer, monkeypatch):
    monkeypatch.setattr("hyperpelt.evaluation.run.RESAMPLES", 100)
    return tuned(make_t5(), tiny_tokenizer)


def test_the_interval_of_an_accuracy_is_that_of_a_binomial_share() -> None:
    right = [1] * 300 + [0] * 100
    draws = intervals.resampled(["accuracy", "f1"], right, [1] * 400, [None] * 400, seed=1, name="t")
    found = intervals.interval(draws["accuracy"])
    assert found["se"] == pytest.approx(100 * (0.75 * 0.25 / 400) ** 0.5, rel=0.1)
    assert (found["low"], found["high"]) == pytest.approx((75 - 1.96 * found["se"], 75 + 1.96 * found["se"]), abs=0.4)
    again = intervals.resampled(["accuracy"], right, [1] * 400, [None] * 400, seed=1, name="t")
    assert np.array_equal(draws["accuracy"], again["accuracy"])
    other = intervals.resampled(["accuracy"], right, [1] * 400, [None] * 400, seed=2, name="t")
    assert not np.array_equal(draws["accuracy"], other["accuracy"])
    # A metric that is no mean over rows is computed on every sample.
    assert draws["f1"].mean() == pytest.approx(metrics.compute(["f1"], right, [1] * 400)["f1"], abs=0.5)


def test_intervals_of_many_rows_take_little_memory() -> None:
    """A thousand samples of all rows at once were 8 GB of 400,000 rows, three times over."""
    tracemalloc.start()
    intervals.resampled(["accuracy"], [1, 0] * 2000, [1] * 4000, [None] * 4000, seed=0, name="t")
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 8 * 4000 * intervals.RESAMPLES / 4


def test_rows_of_a_group_are_drawn_together() -> None:
    """Eighty groups of five equal answers each are eighty independent rows, not four hundred."""
    right = [int(number % 4 > 0) for number in range(80) for _ in range(5)]
    groups = [number for number in range(80) for _ in range(5)]
    draws = intervals.resampled(["accuracy", "group_exact_match"], right, [1] * 400, groups, seed=0, name="t")
    wanted = 100 * (0.75 * 0.25 / 80) ** 0.5
    assert intervals.interval(draws["accuracy"])["se"] == pytest.approx(wanted, rel=0.1)
    assert draws["group_exact_match"] == pytest.approx(draws["accuracy"])


def test_evaluate_tells_intervals_that_come_back_from_its_file(model) -> None:
    results = evaluate(model, [BINARY, NUMBER, OPEN], intervals=True, seed=3, **QUIET)
    again = Results.from_dict(json.loads(json.dumps(results.as_dict())))
    assert again.as_dict() == results.as_dict()
    for result in results.tasks.values():
        for name, score in result.metrics.items():
            each = result.intervals[name]
            assert each["low"] <= score <= each["high"], (name, each)
    assert results.intervals["average"]["low"] < results.average < results.intervals["average"]["high"]
    assert "95 % interval" in [column.header for column in results.table().columns]
    bare = evaluate(model, [BINARY], **QUIET)
    assert bare.intervals is None
    assert "intervals" not in bare.as_dict()["tasks"][BINARY.name]


def test_every_row_goes_to_the_log_with_its_answer(model, tmp_path) -> None:
    path = tmp_path / "new" / "rows.jsonl"
    results = evaluate(model, [BINARY, NUMBER, OPEN], log_samples=path, **QUIET)
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    assert [(row["task"], row["row"]) for row in rows] == [
        (name, number) for name in (BINARY.name, NUMBER.name, OPEN.name) for number in range(7)
    ]
    mine = [row for row in rows if row["task"] == BINARY.name]
    shares = [row["metrics"]["accuracy"] for row in mine]
    assert sum(shares) / 7 == pytest.approx(results.tasks[BINARY.name].metrics["accuracy"])
    for row in mine:
        assert row["answer"] == max(row["scores"], key=row["scores"].get)
        assert row["target"] == BINARY.choices[row["label"]]
    with pytest.raises(UserError, match="Cannot write the rows"):
        evaluate(model, [BINARY], log_samples=tmp_path, **QUIET)


def test_a_log_that_was_not_finished_leaves_the_former(tmp_path) -> None:
    (tmp_path / "rows.jsonl").write_text("former")
    with pytest.raises(KeyboardInterrupt), sample_log(tmp_path / "rows.jsonl"):
        raise KeyboardInterrupt
    assert [(path.name, path.read_text()) for path in tmp_path.iterdir()] == [("rows.jsonl", "former")]


def test_confusions_and_worst_rows_are_those_of_the_rows(model, tmp_path) -> None:
    path = tmp_path / "rows.jsonl"
    found = evaluate(model, [BINARY, NUMBER, OPEN], log_samples=path, **QUIET).tasks
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    mine = [row for row in rows if row["task"] == BINARY.name]
    counts = found[BINARY.name].confusion["counts"]
    for gold in (0, 1):
        for answer in (0, 1):
            assert counts[gold][answer] == sum((r["label"], r["prediction"]) == (gold, answer) for r in mine)
    wrong = [row for row in mine if row["label"] != row["prediction"]]
    gaps = sorted((max(row["scores"].values()) - row["scores"][row["target"]] for row in wrong), reverse=True)
    assert [row["loss"] for row in found[BINARY.name].worst] == pytest.approx(gaps[:5])
    assert found[NUMBER.name].confusion is None
    off = sorted((abs(r["prediction"] - r["label"]) for r in rows if r["task"] == NUMBER.name), reverse=True)
    assert [row["loss"] for row in found[NUMBER.name].worst] == pytest.approx(off[:5])
    assert found[OPEN.name].worst[0]["gold"] == "yes"


def test_a_task_with_templates_scores_their_mean_and_tells_each(model, tmp_path) -> None:
    ways = (
        ("plain", lambda row: Example(input=row["text"], label=row["label"])),
        ("asked", lambda row: Example(input=f"is it good? {row['text']}", label=row["label"])),
    )
    both = task(BINARY.name, render=ways[0][1], templates=ways)
    path = tmp_path / "rows.jsonl"
    result = evaluate(model, [both], intervals=True, log_samples=path, **QUIET).tasks[BINARY.name]
    alone = [
        evaluate(model, [task(BINARY.name, render=render)], **QUIET).tasks[BINARY.name].metrics for _, render in ways
    ]
    assert result.templates == {"plain": alone[0], "asked": alone[1]}
    assert result.metrics["accuracy"] == pytest.approx((alone[0]["accuracy"] + alone[1]["accuracy"]) / 2)
    assert result.spread()["f1"] == pytest.approx(abs(alone[0]["f1"] - alone[1]["f1"]) / 2**0.5)
    assert result.as_dict()["spread"] == result.spread()
    assert result.rows == 7
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    assert [row["template"] for row in rows] == ["plain"] * 7 + ["asked"] * 7
    with pytest.raises(UserError, match="every name once"):
        task("t/twice", templates=(ways[0], ways[0]))
