"""Shots, cells, records and sums: what needs no model."""

from __future__ import annotations

import json
import multiprocessing
import statistics
from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
from scipy.stats import sem, t
from task_support import make_task
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import WhitespaceSplit
from transformers import PreTrainedTokenizerFast

from hyperpelt.errors import UserError
from hyperpelt.tasks import Example
from hyperpelt.transfer import records
from hyperpelt.transfer.cells import Cell, cell_id, plan, settings_of, share
from hyperpelt.transfer.in_context import num_fitting, prompted
from hyperpelt.transfer.settings import BASELINES, build
from hyperpelt.transfer.shots import ShotSampler, choose_shots
from hyperpelt.transfer.summary import describe, summarise

TASK = make_task([{"text": f"row {i}", "label": int(i % 5 == 0)} for i in range(60)])


def config_of(**values):
    return build({"run": "runs/x", "tasks": "a,b", **values})


# ---------------------------------------------------------------------------------------------------------- settings


def test_lists_are_written_as_on_a_command_line():
    config = config_of(shots="0,16, 4", seeds="3", adapt="embedding,lora", start="mean,like:glue/mnli")
    assert (config.shots, config.seeds) == ([0, 16, 4], [0, 1, 2])
    assert (config.adapt, config.start, config.tasks) == (["embedding", "lora"], ["mean", "like:glue/mnli"], ["a", "b"])
    assert config_of(seeds="13,21").seeds == [13, 21]
    assert config_of(seeds=2).seeds == [0, 1]
    assert config.output == "runs/x/transfer"
    assert build({"run": "r", "tasks": "a", "adapt": "lora"}, baselines=True).adapt == [
        "lora",
        *BASELINES[:-2],
        "in-context",
    ]


def test_learning_rates_are_for_all_or_by_adaptation():
    assert config_of().rate_of("embedding") == 3e-2
    assert config_of().rate_of("pfeiffer") == 1e-3
    config = config_of(learning_rate=["full=1e-5", "0.002"])
    assert (config.rate_of("full"), config.rate_of("embedding")) == (1e-5, 2e-3)


def test_t_fews_recipe_gives_way_to_what_is_said():
    config = build({"run": "r", "tasks": "a", "steps": 10, "learning_rate": None}, recipe="t-few")
    assert (config.loss, config.optimizer, config.steps, config.batch_size) == ("t-few", "adafactor", 10, 8)
    assert (config.scoring, config.rate_of("lora"), config.choose) == ("token", 3e-3, "last")
    one = build({"run": "r", "tasks": "a", "learning_rate": ["full=1e-4"]}, recipe="t-few")
    assert (one.rate_of("full"), one.rate_of("lora"), one.rate_of("embedding")) == (1e-4, 3e-3, 3e-3)
    assert build({"run": "r", "tasks": "a", "learning_rate": ["0.1"]}, recipe="t-few").rate_of("lora") == 0.1


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"shots": "4,x"}, "whole numbers such as 0,4,16"),
        ({"shots": []}, "shots is empty"),
        ({"sampling": "even"}, "one of 'balanced', 'plain'"),
        ({"step": 3}, "Did you mean 'steps'"),
        ({"learning_rate": ["full=fast"]}, "learning_rate should be a number"),
        ({"learning_rate": -1.0}, "greater than 0"),
        ({"learning_rate": float("inf")}, "finite"),
        ({"split": "train"}, "holds the shots"),
        ({"seeds": "100000000000000000000000"}, "a number of seeds up to 10000"),
        ({"seeds": "100000000000000000000000,"}, "from 0 to 2"),
    ],
)
def test_a_wrong_setting_is_one_sentence(values, said):
    with pytest.raises(UserError, match=said):
        config_of(**values)


# ------------------------------------------------------------------------------------------------------------- shots


def test_shots_are_balanced_repeatable_and_their_held_out_quarter_is_their_own():
    shots = choose_shots(TASK, 16, seed=1, balanced=True, hold_out=True)
    assert shots == choose_shots(TASK, 16, seed=1, balanced=True, hold_out=True)
    assert shots != choose_shots(TASK, 16, seed=2, balanced=True, hold_out=True)
    whole = choose_shots(TASK, 16, seed=1, balanced=True, hold_out=False)
    assert sorted(shots.learned + shots.held_out) == list(whole.learned)
    assert not set(shots.learned) & set(shots.held_out)

    def labels(rows):
        return Counter(TASK.examples("train")[row].label for row in rows)

    assert labels(whole.learned) == {0: 8, 1: 8}
    assert labels(shots.held_out) == {0: 2, 1: 2}
    plain = choose_shots(TASK, 16, seed=1, balanced=False, hold_out=False)
    assert labels(plain.learned)[0] > 8  # four fifths of the rows

    def num_held_out(k):
        return len(choose_shots(TASK, k, seed=0, balanced=True, hold_out=True).held_out)

    assert [num_held_out(k) for k in (1, 2, 3, 4, 6, 8)] == [0, 0, 0, 1, 1, 2]


def test_each_pass_over_the_shots_sees_every_row_once_in_a_new_order():
    sampler = ShotSampler("a", [3, 5, 8, 13, 21], batch_size=2, seed=4)
    rows = np.concatenate([sampler.batch(step).rows for step in range(10)])
    passes = [rows[start : start + 5].tolist() for start in range(0, 20, 5)]
    assert all(sorted(each) == [3, 5, 8, 13, 21] for each in passes)
    assert len({tuple(each) for each in passes}) > 1
    assert (ShotSampler("a", [3, 5, 8, 13, 21], 2, seed=5).batch(0).rows != sampler.batch(0).rows).any()
    assert len(ShotSampler("a", [3, 5], batch_size=8, seed=0).batch(7)) == 2
    assert [part.rows.tolist() for part in sampler.in_order()] == [[3, 5], [8, 13], [21]]


def words():
    """A tokenizer whose tokens are words."""
    made = Tokenizer(WordLevel({"?": 0}, unk_token="?"))
    made.pre_tokenizer = WhitespaceSplit()
    return PreTrainedTokenizerFast(tokenizer_object=made, unk_token="?")


def test_a_prompt_holds_the_instruction_as_many_shots_as_fit_and_the_question():
    task = replace(TASK, description="Is it so?")
    shots = [Example(input=f"shot {i}", target="yes") for i in range(5)]
    long = prompted(task, shots, words(), seed=1, max_length=100)
    text = long.examples("test")[0].input
    assert text.startswith("Is it so?\nshot ")
    assert text.endswith("\ntext: row 0 answer:")
    assert text.count(" answer: yes") == 5
    assert long.examples("test")[0].label == task.examples("test")[0].label
    ended = replace(task, render=lambda row: Example(input="all of it", ending="of it", label=0))
    assert prompted(ended, shots, words(), seed=1, max_length=100).examples("test")[0].ending == "of it answer:"
    short = prompted(task, shots, words(), seed=1, max_length=16)
    lines = short.examples("test")[0].input.split("\n")
    assert lines[1:3] == text.split("\n")[1:3]
    assert len(lines) == 4
    assert num_fitting(short, task.rows("test")[:3]) == 2
    assert prompted(task, shots, words(), seed=2, max_length=100).examples("test")[0].input != text


# ------------------------------------------------------------------------------------------------------------- cells


def test_the_plan_has_every_cell_once_and_says_what_it_leaves_out():
    config = config_of(shots=[0, 4, 100], seeds=2, adapt="embedding,lora,in-context", start="mean,scored")
    cells, notes = plan(config, {"a": 300, "b": 50})
    assert len(cells) == len(set(cells))
    zero = [(cell.adapt, cell.start) for cell in cells if cell.task == "a" and cell.shots == 0]
    assert zero == [("zero-shot", "mean"), ("in-context", ""), ("frozen", "")]
    four = [(cell.seed, cell.label) for cell in cells if cell.task == "b" and cell.shots == 4]
    assert four[:4] == [(0, "embedding from mean"), (0, "embedding from scored"), (0, "lora"), (0, "in-context")]
    assert len(four) == 8
    assert notes == ["b has 50 training rows: its cells with 100 shots are left out."]
    assert plan(config_of(shots=[2, 4], choose="held-out"), {"a": 9})[1][0].startswith("Of 2 shots no quarter")
    dealt = [share(cells, rank, 3) for rank in range(3)]
    assert sorted(cell for part in dealt for cell in part) == sorted(cells)


def test_a_cell_is_known_by_all_that_its_result_depends_on_and_nothing_else():
    cell, config = Cell("a", 4, 0, "lora"), config_of()
    first = cell_id(cell, settings_of(cell, config), {"task": "x"})
    other = {
        "shots": [4],
        "output": "elsewhere",
        "eval_batch_size": 3,
        "learning_rate": ["full=1"],
        "context_length": 99,
    }
    assert cell_id(cell, settings_of(cell, config_of(**other)), {"task": "x"}) == first
    for change in ({"steps": 7}, {"learning_rate": 0.5}, {"choose": "held-out"}, {"limit": 5}, {"loss": "t-few"}):
        assert cell_id(cell, settings_of(cell, config_of(**change)), {"task": "x"}) != first
    assert cell_id(cell, settings_of(cell, config), {"task": "y"}) != first
    zero = Cell("a", 0, 0, "zero-shot", "mean")
    assert settings_of(zero, config) == settings_of(zero, config_of(steps=7))


# ----------------------------------------------------------------------------------------------------------- records


def append_many(path, name):
    for number in range(50):
        records.append(path, {"cell": f"{name}-{number}", "text": "x" * 5000})


def test_records_of_several_processes_never_mix(tmp_path):
    path = tmp_path / "out" / records.CELLS
    workers = [multiprocessing.get_context("fork").Process(target=append_many, args=(path, name)) for name in "abc"]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert len(records.read(path)) == 150


def test_a_line_that_was_cut_short_is_not_counted_and_spoils_no_other(tmp_path):
    path = tmp_path / records.CELLS
    records.append(path, {"cell": "a", "score": float("nan")})
    with path.open("a") as file:
        file.write('{"cell": "b", "sco')
    assert records.read(path) == {"a": {"cell": "a", "score": None}}
    records.append(path, {"cell": "b", "score": 2.0})
    assert records.read(path)["b"]["score"] == 2.0
    assert json.loads(path.read_text().splitlines()[-1])["cell"] == "b"


# ----------------------------------------------------------------------------------------------------------- summary


def test_statistics_are_those_of_the_books():
    values = [61.0, 70.5, 66.0, 80.0, 59.5]
    found = describe(values)
    assert found["sd"] == pytest.approx(np.std(values, ddof=1))
    assert [found["q25"], found["median"], found["q75"]] == pytest.approx(np.percentile(values, [25, 50, 75]))
    assert (found["low"], found["high"]) == pytest.approx(t.interval(0.95, 4, np.mean(values), sem(values)))
    assert describe([3.0])["sd"] is None


def test_the_average_takes_each_seed_over_all_tasks():
    def cell(task, seed, score, shots=4, adapt="lora", start=""):
        return {
            "task": task,
            "shots": shots,
            "seed": seed,
            "adapt": adapt,
            "start": start,
            "score": score,
            "trainable": 9,
        }

    cells = [
        cell("a", 0, 10.0),
        cell("a", 1, 30.0),
        cell("b", 0, 20.0),
        cell("b", 1, 60.0),
        cell("b", 0, 5.0, shots=16),
    ]
    rows = summarise(cells, {"a": 50.0, "b": 40.0})
    assert [(row["task"], row["shots"], row["n"]) for row in rows] == [
        ("a", 4, 2),
        ("b", 4, 2),
        ("b", 16, 1),
        ("average", 4, 2),
    ]
    average = rows[-1]
    assert (average["mean"], average["majority"], average["label"]) == (30.0, 45.0, "lora")
    assert average["sd"] == pytest.approx(statistics.stdev([15.0, 45.0]))


def test_a_record_that_was_changed_is_not_counted(tmp_path):
    path = tmp_path / records.CELLS
    for cell in ("a", "b"):
        records.append(path, {"cell": cell, "score": 31.25, "rows": [1, 2], "fit": {"loss": float("nan")}})
    whole = path.read_text()
    assert records.read(path)["a"] == {"cell": "a", "score": 31.25, "rows": [1, 2], "fit": {"loss": None}}
    path.write_text(whole.replace("31.25", "91.25", 1) + '{"cell": "old", "score": 1.0}\n')
    assert set(records.read(path)) == {"b", "old"}, "those of earlier versions have no checksum"


def test_a_cell_belongs_to_one_process_at_a_time(tmp_path):
    path = tmp_path / "out" / records.CELLS
    with records.claimed(path, "a") as first, records.claimed(path, "a") as second, records.claimed(path, "b") as third:
        assert (first, second, third) == (True, False, True)
    with records.claimed(path, "a") as again:
        assert again
    assert not list(path.parent.iterdir())


def test_a_transfer_takes_the_place_of_nothing_but_a_transfer(tmp_path):
    records.check_place(tmp_path / "new")
    (tmp_path / "report.html").write_text("of a run")
    with pytest.raises(UserError, match=r"holds report\.html, which no transfer wrote"):
        records.check_place(tmp_path)
    records.append(tmp_path / records.CELLS, {"cell": "a"})
    records.check_place(tmp_path)
