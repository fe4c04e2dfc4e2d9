"""The benchmark runs by one command, prints JSON alone, and its limit is truly in the run."""

from __future__ import annotations

import importlib
import json
import subprocess
import sys
from pathlib import Path

import pytest
import warm

ROOT = Path(__file__).parents[2]


def benchmark(*arguments: object) -> list[dict]:
    """The rows that a part prints as JSON, which is all that it prints."""
    command = [warm.python(), str(ROOT / "scripts" / "benchmark"), *map(str, arguments), "--json"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stderr[-2000:]
    return json.loads(done.stdout)["rows"]


def test_step_prints_one_row_a_contestant_with_its_ratio_to_the_limit():
    options = ["--shape", "t5-tiny", "--rows", 4, "--source", 16, "--repeats", 2, "--methods", "hyperpelt,peft-lora"]
    rows = {row["method"]: row for row in benchmark("step", *options)}
    assert list(rows) == ["limit", "hyperpelt", "peft-lora"]
    for row in rows.values():
        assert row["ratio_to_limit"] == row["seconds"] / rows["limit"]["seconds"]
        assert row["seconds"] > 0
        assert row["peak_mb"] > 0
    assert rows["limit"]["trainable"] == 0 < rows["hyperpelt"]["trainable"]
    assert rows["limit"]["ratio_of_best"] == 1.0
    assert rows["limit"]["launches"] < rows["hyperpelt"]["launches"]


def test_a_plan_stands_beside_what_the_allocator_gave_out():
    options = ["--rows", 2, "--source", 16, "--tasks", 2, "--methods", "lora"]
    (row,) = benchmark("memory", "--shape", "mini-bart", *options)
    assert row["standing_ratio"] == pytest.approx(1, rel=0.02)
    assert row["step_ratio"] == pytest.approx(1, rel=0.1)


def test_what_runs_in_an_environment_of_another_library_imports_nothing_of_this_one(monkeypatch):
    monkeypatch.syspath_prepend(ROOT / "scripts")
    monkeypatch.setitem(sys.modules, "hyperpelt", None)
    for name in ("shapes", "timing"):
        monkeypatch.delitem(sys.modules, f"benchmarking.{name}", raising=False)
        importlib.import_module(f"benchmarking.{name}")
        monkeypatch.delitem(sys.modules, f"benchmarking.{name}")


def test_a_peer_with_an_environment_of_its_own_is_asked_for_by_its_interpreter():
    command = [warm.python(), str(ROOT / "scripts" / "benchmark"), "step", "--methods", "adapters-mam"]
    options = ["--shape", "t5-tiny", "--rows", "2", "--source", "8", "--repeats", "1"]
    done = subprocess.run([*command, *options], capture_output=True, text=True, timeout=240)
    assert done.returncode != 0
    assert "--adapters PYTHON" in done.stderr.splitlines()[-1]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["step", "--shape", "t5-tiniest"], "Did you mean 't5-tiny'"),
        (["generate", "--shape", "bart"], "or 'bart-base'?"),
        (["memory", "--shape", "t5-tiny"], "whose shape is known without it"),
        (["scale", "--counts", "a"], "--counts are numbers of tasks"),
        (["start", "--repeats", "0"], "--repeats"),
        (["step", "--precision", "fp16"], "Unknown precision 'fp16'"),
        (["memory", "--precision", "half"], "Unknown precision 'half'"),
    ],
)
def test_a_mistake_is_one_sentence(arguments, said):
    command = [warm.python(), str(ROOT / "scripts" / "benchmark"), *arguments]
    done = subprocess.run(command, capture_output=True, text=True, timeout=240)
    assert done.returncode == 2
    assert said in done.stderr
    assert "Traceback" not in done.stderr


def test_scale_adds_only_embeddings_as_the_tasks_grow():
    rows = benchmark("scale", "--shape", "t5-tiny", "--counts", "1,8,64", "--rows", 8, "--source", 8, "--repeats", 1)
    trainable = {row["tasks"]: row["trainable"] for row in rows}
    assert list(trainable) == [1, 8, 64]
    assert (trainable[64] - trainable[8]) * 7 == (trainable[8] - trainable[1]) * 56 > 0
    assert rows[1]["ratio_to_8_tasks"] == 1.0
    assert all(row["generation_seconds"] > 0 for row in rows)


def test_generation_is_measured_against_the_bare_backbone():
    rows = benchmark("generate", "--shape", "t5-tiny", "--rows", 8, "--source", 8, "--target", 3, "--repeats", 1)
    assert [row["method"] for row in rows] == [
        "bare backbone",
        "hyperpelt, merged",
        "hyperpelt, baked",
        "hyperpelt, live",
        "hyperpelt, one batch of 8 tasks",
        "hyperpelt, 8 batches of one task",
    ]
    assert rows[0]["ratio_to_bare"] == 1.0
    assert all(row["tokens_per_second"] > 0 for row in rows)


def test_scoring_chooses_what_one_pass_a_choice_chooses(data_root):
    options = ["--tasks", "glue/mnli", "--limit", 12, "--repeats", 1, "--data-root", data_root]
    loop, ours = benchmark("score", *options)
    assert (loop["choices"], loop["ratio_to_loop"]) == (3, 1.0)
    assert ours["equal_predictions"] == "12/12"


def test_training_is_measured_against_the_trainer_on_the_same_rows(data_root):
    options = ["--tasks", "glue/rte", "--steps", 1, "--rows", 4, "--length", 16, "--repeats", 1]
    rows = benchmark("mixture", *options, "--data-root", data_root)
    names = [
        "hyperpelt",
        "hyperpelt, 8 rows",
        "lora",
        "Trainer + peft-lora, random",
        "Trainer + peft-lora, grouped by length",
    ]
    assert [row["method"] for row in rows] == names
    assert rows[3]["ratio_to_random"] == rows[4]["ratio_to_grouped"] == 1.0
    assert all(row["rows_per_second"] > 0 for row in rows)


def test_seeing_is_measured_against_the_same_method_on_text_alone():
    rows = benchmark("vision", "--grid", 2, "--rows", 4, "--source", 6, "--target", 2, "--tasks", 2, "--repeats", 1)
    text, first, *_, unseen = rows
    assert (text["method"], text["ratio_to_text"]) == ("text alone (hyperpelt)", 1.0)
    assert first["trainable"] == unseen["trainable"] > text["trainable"]
    assert all(row["seconds"] > 0 for row in rows)


def test_features_are_read_back_faster_than_they_are_made():
    encode, keep, read = benchmark("features", "--grid", 2, "--images", 48)
    assert [row["method"] for row in (encode, keep, read)] == ["encode", "encode and keep", "read"]
    assert encode["ratio_to_encode"] == 1.0 < read["ratio_to_encode"]
    assert keep["bytes_per_image"] > 4 * 338 * 4
