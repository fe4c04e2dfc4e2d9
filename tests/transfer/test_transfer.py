"""A whole transfer on a small run: every way of adapting, resumed, spread over processes, from Python and the shell."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from dataclasses import dataclass, replace
from pathlib import Path
from types import SimpleNamespace
from typing import ClassVar

import pytest
import torch
import warm
from safetensors.torch import load_file
from transfer_runs import SIZES, make_run, trained_run

import hyperpelt
from hyperpelt import Method, Part, cli
from hyperpelt import tasks as registry
from hyperpelt.config import load_run
from hyperpelt.errors import UserError
from hyperpelt.methods import Course
from hyperpelt.model.saving import read_config
from hyperpelt.model.starts import losses, start_task
from hyperpelt.transfer import processes, records, worker
from hyperpelt.transfer.bench import Bench
from hyperpelt.transfer.cells import Cell
from hyperpelt.transfer.fit import _Fit
from hyperpelt.transfer.identity import Identities
from hyperpelt.transfer.run import transfer, work
from hyperpelt.transfer.settings import build
from hyperpelt.transfer.shots import Shots
from hyperpelt.tuners import Bias, TensorSpec

QUICK = {"steps": 3, "use_cpu": True, "progress": False, "batch_size": 4}


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    with trained_run(tmp_path_factory.mktemp("run")) as folder:
        yield folder


def bench_of(run, tasks=("toy/word",), **settings):
    config = build({"run": str(run), "tasks": list(tasks), "steps": 3, "batch_size": 4, **settings})
    return Bench(config, [registry.get(name) for name in tasks], load_run(run / "run.yaml"), torch.device("cpu"))


def without_time(record):
    return {name: value for name, value in record.items() if name != "seconds"}


def test_every_way_of_adapting_every_kind_of_task(run, tmp_path):
    """Zero shots and few, from the run, from nothing and in context; a second call does nothing again."""
    adapt = ["embedding", "hypernetwork", "all", "scratch", "lora", "full", "in-context"]
    settings = {"shots": [0, 4], "seeds": [3], "adapt": adapt, "start": ["mean", "described", "scored"], **QUICK}
    tasks = ["toy/word", "toy/pick", "toy/echo"]
    found = hyperpelt.transfer(run, tasks=tasks, output=str(tmp_path), **settings)
    assert len(found["cells"]) == 3 * (4 + 3 * 3 + 4)
    counts = {row["label"]: row["trainable"] for row in found["summary"] if row["shots"] == 4}
    assert counts["embedding from mean"] == 3 * 8  # N rows of width t
    assert counts["embedding from mean"] < counts["hypernetwork from mean"] < counts["all from mean"]
    assert counts["in-context"] is None
    for cell in found["cells"]:
        assert len(cell.get("rows", ())) == (cell["shots"] if "rows" in cell else 0)
        if "fit" in cell:
            assert cell["fit"]["kept_step"] == 3
            assert cell["fit"]["diverged_at"] is None
    written = {path.name for path in tmp_path.iterdir()}
    assert written >= {
        "cells.jsonl",
        "summary.json",
        "table.md",
        "report.html",
        "curves-average.svg",
        "curves-toy-word.svg",
    }
    before = (tmp_path / records.CELLS).read_bytes()
    again = hyperpelt.transfer(run, tasks=tasks, output=str(tmp_path), **settings)
    assert (tmp_path / records.CELLS).read_bytes() == before
    assert again["summary"] == found["summary"]


def test_a_stopped_transfer_says_what_is_kept(run, tmp_path, monkeypatch, capsys):
    one = {"cell": Bench.run, "left": 1}

    def stopped(self, cell):
        one["left"] -= 1
        if one["left"] < 0:
            raise KeyboardInterrupt
        return one["cell"](self, cell)

    monkeypatch.setattr(Bench, "run", stopped)
    how = {**QUICK, "progress": True}
    with pytest.raises(
        KeyboardInterrupt, match=r"1 of 2 cells are in .*cells\.jsonl, and the same command goes on from"
    ):
        hyperpelt.transfer(run, tasks=["toy/word"], output=str(tmp_path), shots=[0], adapt=["embedding", "lora"], **how)
    lines = capsys.readouterr().err.splitlines()
    assert [line for line in lines if re.fullmatch(r"transfer: toy/word, 0 shots, .+, seed 0: \d+\.\d", line)]


def test_cells_do_not_depend_on_those_before_them(run):
    """The run's own tensors come back, and so do random states: any order, any process."""
    cells = [
        Cell("toy/word", 4, 1, adapt, start) for adapt, start in (("all", "mean"), ("lora", ""), ("embedding", "mean"))
    ]
    bench = bench_of(run)
    state = torch.get_rng_state()
    there = [without_time(bench.run(cell)) for cell in cells]
    back = [without_time(bench.run(cell)) for cell in reversed(cells)]
    assert there == back[::-1]
    assert there == [without_time(bench_of(run).run(cell)) for cell in cells]
    assert torch.equal(torch.get_rng_state(), state)
    saved = load_file(run / "model.safetensors")
    bench.model.load_method_state(bench.state)
    for name, tensor in bench.model.method_state().items():
        assert torch.equal(tensor[: len(saved[name])] if tensor.dim() else tensor, saved[name]), name


def test_each_template_is_asked_with_shots_of_its_own_before_the_question(run, monkeypatch):
    """In-context cells of a task with templates were measured without their shots."""
    task, asked = registry.get("toy/word"), []
    ways = tuple(
        (word, lambda row, word=word: replace(task.render(row), input=f"{word} it?")) for word in ("is", "was")
    )
    bench = bench_of(run)
    bench.tasks["toy/word"] = replace(task, templates=ways)
    monkeypatch.setattr("hyperpelt.transfer.bench.evaluate", lambda model, tasks, **_: asked.extend(tasks) or Found)
    found = bench.run(Cell("toy/word", 4, 0, "in-context"))
    (measured,) = asked
    for word, one in measured.variants():
        text = one.examples("test")[0].input
        assert text.count(f"{word} it? answer:") == 1 + found["shots_in_prompt"] > 1
    assert len(measured.variants()) == 2


class Found:
    tasks: ClassVar[dict] = {"toy/word": SimpleNamespace(score=0.0, metrics={}, rows=1, num_cut=0)}


def test_adapting_the_embedding_moves_nothing_else(run):
    bench = bench_of(run)
    before = {name: tensor.clone() for name, tensor in bench.state.items()}
    record = bench.run(Cell("toy/word", 4, 0, "embedding", "mean"))
    moved = {name for name, tensor in bench.model.method_state().items() if not torch.equal(tensor, before[name])}
    assert moved == {"hypernetwork.task_embeddings"}
    after = bench.model.method_state()["hypernetwork.task_embeddings"]
    assert torch.equal(after[:2], before["hypernetwork.task_embeddings"][:2])
    assert record["trainable"] == after[2].numel()
    assert record["fit"]["last_loss"] < record["fit"]["first_loss"]


def test_the_best_on_the_held_out_shots_is_kept(run):
    bench = bench_of(run, choose="held-out", steps=20, learning_rate=0.5)
    record = bench.run(Cell("toy/word", 16, 0, "all", "mean"))
    assert len(record["held_out"]) == 4
    assert not set(record["held_out"]) & set(record["rows"])
    assert record["fit"]["kept_step"] % 2 == 0
    held_out = bench._data_of(registry.get("toy/word"), Shots((), tuple(record["held_out"])))
    data = held_out.in_order(bench.model, record["held_out"], 4)
    from hyperpelt.model.starts import losses

    assert losses(bench.model, ["toy/word"], data)["toy/word"] == pytest.approx(
        record["fit"]["held_out_loss"], rel=1e-5
    )


@dataclass(frozen=True, kw_only=True)
class Counted(Bias):
    """A bias whose state says how many steps it has seen."""

    type_name: ClassVar[str] = "counted_of_tests"

    def tensors(self, operation):
        return {**super().tensors(operation), "steps": TensorSpec((1,), role="state")}


@dataclass(frozen=True, kw_only=True)
class Count(Course):
    type_name: ClassVar[str] = "count_of_tests"

    def after_step(self, now):
        for _, steps in now.states(self.part)["steps"]:
            steps.add_(1)


@pytest.mark.parametrize(("settings", "kept"), [({"choose": "held-out"}, (2, 4)), ({"learning_rate": 1e38}, (0, 0))])
def test_weights_that_are_kept_keep_what_a_course_had_set_by_then(run, settings, kept, monkeypatch):
    look = _Fit._look
    monkeypatch.setattr(_Fit, "_look", lambda fit, step: look(fit, step) if step <= 4 else None)
    bench = bench_of(run, **{"steps": 20, "learning_rate": 0.5, **settings})
    method = Method(name="counted", parts=(Part(name="b", tuner=Counted(), at=("q",)),), courses=(Count(part="b"),))
    cell = Cell("toy/word", 16, 0, "counted")
    model = bench._fresh(method, cell)
    step = bench._fitted(cell, model, bench._shots(cell))["fit"]["kept_step"]
    assert kept[0] <= step <= kept[1]
    assert {float(value) for value in model.method_state()["state.b__steps"].unique()} == {step}
    model.detach()


def test_a_fit_that_diverges_keeps_the_weights_before_the_update_that_led_there_and_says_so(run, tmp_path):
    bench = bench_of(run, steps=30, learning_rate=1e38)
    record = bench.run(Cell("toy/word", 4, 0, "all", "mean"))
    assert record["fit"]["diverged_at"] == 2, "the first update is too far already"
    assert record["fit"]["kept_step"] == 0
    for name, tensor in bench.model.method_state().items():
        assert torch.equal(tensor, bench.state[name]), f"{name} is not what it was before the first update"
    settings = {"shots": [4], "seeds": [0, 1], "adapt": ["lora"], **QUICK, "learning_rate": 1e38}
    (note,) = transfer(run, tasks="toy/word", output=str(tmp_path), **settings)["notes"]
    assert "2 cells diverged" in note
    assert "toy/word k=4 lora (seed 0, 1)" in note


def test_the_last_update_of_a_fit_is_looked_at_too(run, monkeypatch):
    step = _Fit._step

    def spoilt(self, number):
        loss = step(self, number)
        if number == 2:
            self.parameters[0].data.fill_(float("nan"))
        return loss

    monkeypatch.setattr(_Fit, "_step", spoilt)
    fit = bench_of(run).run(Cell("toy/word", 4, 0, "all", "mean"))["fit"]
    assert (fit["diverged_at"], fit["kept_step"]) == (3, 2)


# ----------------------------------------------------------------------------- what is recorded, and when it counts


ONE = {"shots": [4], "seeds": [0], "adapt": ["embedding"], **QUICK}


def word(offset: int):
    """toy/word with other rows: the same definition, since its source is a function without a state that tells."""
    like = registry.get("toy/word")
    state = {"offset": offset}

    def rows(split):
        return [{**row, "text": row["text"] + " no" * state["offset"]} for row in like.rows(split)]

    return replace(like, source=hyperpelt.Generator(rows))


def test_cells_of_other_rows_are_measured_anew(run, tmp_path, monkeypatch):
    task = word(0)
    monkeypatch.setattr(type(task), "fingerprint", lambda self: "the same definition")
    first = transfer(run, tasks=task, output=str(tmp_path), **ONE)
    again = transfer(run, tasks=word(0), output=str(tmp_path), **ONE)
    assert [cell["cell"] for cell in again["cells"]] == [cell["cell"] for cell in first["cells"]]
    other = transfer(run, tasks=word(1), output=str(tmp_path), **ONE)
    assert other["cells"][0]["cell"] != first["cells"][0]["cell"]
    assert len(records.read(tmp_path / records.CELLS)) == 2
    assert len(other["summary"]) == 1, "what was found on other rows does not count"


def test_a_cell_is_known_by_how_its_run_sees_and_counts(run):
    config = build({"run": str(run), "tasks": ["toy/word"]})
    saved, settings = read_config(run), load_run(run / "run.yaml")
    task, cell = registry.get("toy/word"), Cell("toy/word", 4, 0, "lora")
    first = Identities(config, saved, settings).of(cell, task)
    for change in ({"precision": "bf16"}, {"blind": True}, {"max_source_length": 16}):
        assert Identities(config, saved, settings.model_copy(update=change)).of(cell, task) != first
    assert Identities(config, saved, settings.model_copy(update={"seed": 1})).of(cell, task) == first
    for change in ({"quantization": "nf4"}, {"target_language": "de_DE"}):
        assert Identities(config, saved | change, settings).of(cell, task) != first
    seen = saved | {"visual": {"encoder": "mini-vision"}}
    assert Identities(config, seen, settings).of(cell, task) == first, "a text is read alike beside any images"
    images = replace(task, modalities=("text", "image"))
    assert Identities(config, seen, settings).of(cell, images) != Identities(config, saved, settings).of(cell, images)


def test_a_second_transfer_into_a_folder_adds_to_its_table(run, tmp_path):
    transfer(run, tasks="toy/word", output=str(tmp_path), **ONE)
    found = transfer(run, tasks="toy/pick", output=str(tmp_path), **ONE)
    rows = [(row["task"], row["adapt"], row["n"]) for row in found["summary"]]
    assert rows == [("toy/pick", "embedding", 1), ("toy/word", "embedding", 1), ("average", "embedding", 1)]
    assert [cell["task"] for cell in found["cells"]] == ["toy/pick"]
    assert "1 cells of earlier transfers" in found["notes"][0]
    text = (tmp_path / "table.md").read_text()
    assert "| toy/word |" in text
    more = transfer(run, tasks="toy/word", output=str(tmp_path), **{**ONE, "seeds": [1]})
    assert [row["n"] for row in more["summary"] if row["task"] == "toy/word"] == [2]
    longer = transfer(run, tasks="toy/word", output=str(tmp_path), **{**ONE, "steps": 4})
    assert [row["n"] for row in longer["summary"] if row["task"] == "toy/word"] == [1], "other settings, other row"
    limited = transfer(run, tasks="toy/word", output=str(tmp_path), **ONE, limit=3)
    assert [row["task"] for row in limited["summary"]] == ["toy/word"], "measured on other rows"


def test_several_processes_are_dealt_what_is_missing(run, tmp_path, monkeypatch):
    settings = {"tasks": "toy/word", "shots": [4], "seeds": 4, "adapt": ["embedding"], **QUICK}
    transfer(run, output=str(tmp_path), **{**settings, "seeds": [0, 2]})
    dealt = []
    monkeypatch.setattr(
        "hyperpelt.transfer.run.run_workers",
        lambda request, number, path, missing, shown: dealt.append((number, json.loads(request.read_text())["cells"])),
    )
    found = transfer(run, output=str(tmp_path), processes=2, **settings)
    assert len(found["cells"]) == 2
    ((number, missing),) = dealt
    assert number == len(missing) == 2
    path = tmp_path / records.CELLS
    monkeypatch.setenv("RANK", "1")
    monkeypatch.setenv("WORLD_SIZE", "2")
    work(build({"run": str(run), "output": str(tmp_path), **without(settings, "progress")}), missing)
    assert list(records.read(path))[2:] == missing[::-1], "its own share first, then what nobody is at"
    (tmp_path / ".request.json.999999.tmp").touch()  # of a process that was killed
    monkeypatch.delenv("WORLD_SIZE")
    transfer(run, output=str(tmp_path), processes=2, **settings)
    assert not list(tmp_path.glob(".request*"))


def test_what_ended_a_worker_is_said(tmp_path, monkeypatch, capsys):
    def start(request, rank, world, log):
        log.touch()
        return subprocess.Popen([sys.executable, "-c", "import os; os.kill(os.getpid(), 9)"])

    monkeypatch.setattr(processes, "_start", start)
    monkeypatch.setattr(processes, "PAUSE", 0.01)
    with pytest.raises(UserError, match=r"was killed \(signal 9\).* cells are kept"):
        processes.run_workers(tmp_path / "request.json", 1, tmp_path / "cells.jsonl", [], lambda _: None)
    monkeypatch.setattr(sys, "argv", ["worker", str(tmp_path / "nowhere.json")])
    assert worker.main() == 2
    assert "nowhere.json: No such file" in capsys.readouterr().err


def without(settings, name):
    return {key: value for key, value in settings.items() if key != name}


SHARED = """
import sys, torch
torch.set_num_threads(1)
from hyperpelt import Method, Part, cli
from hyperpelt.transfer.bench import Bench
run = Bench.run
def noted(self, cell):
    print("cell", cell.seed, file=sys.stderr, flush=True)
    return run(self, cell)
Bench.run = noted
sys.exit(cli.run(["transfer", *sys.argv[1:]]))
"""


def test_a_second_transfer_shares_the_cells_and_takes_over_those_of_a_killed_one(run, tmp_path):
    arguments = ["--tasks", "toy/word", "--shots", "4", "--seeds", "6", "--adapt", "lora", "--steps", "20", "--cpu"]
    command = [sys.executable, "-c", SHARED, str(run), *arguments, "--output", str(tmp_path)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    begun = [subprocess.Popen(command, stdout=-1, stderr=-1, text=True, env=environment) for _ in range(3)]
    for line in begun[0].stderr:
        if line.startswith("cell"):
            break
    begun[0].kill()  # in the midst of a cell
    begun[0].communicate()
    lost = int(line.split()[1])
    said = [process.communicate(timeout=240)[1] for process in begun[1:]]
    assert [process.returncode for process in begun[1:]] == [0, 0], said
    seeds = [int(line.split()[1]) for text in said for line in text.splitlines() if line.startswith("cell")]
    lines = (tmp_path / records.CELLS).read_text().splitlines()
    assert len(lines) == len(records.read(tmp_path / records.CELLS)) == 6, "nothing is done twice"
    assert sorted({*seeds, lost}) == list(range(6))
    assert len(seeds) == len(set(seeds))


def test_sigterm_stops_the_workers_too(run, tmp_path):
    arguments = ["--tasks", "toy/word", "--shots", "4", "--seeds", "40", "--adapt", "lora", "--steps", "2000", "--cpu"]
    command = [sys.executable, "-m", "hyperpelt.cli", "transfer", str(run), *arguments, "--processes", "2"]
    process = subprocess.Popen([*command, "--output", str(tmp_path)], stdout=-1, stderr=-1, text=True)
    deadline = time.monotonic() + 120
    while len(workers := children(process.pid)) < 2:
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.1)
    process.terminate()
    _, said = process.communicate(timeout=60)
    assert process.returncode == 143, said
    assert "Traceback" not in said
    assert not [pid for pid in workers if Path(f"/proc/{pid}").exists()]
    assert not list(tmp_path.glob("*request*"))


def children(pid):
    found = Path(f"/proc/{pid}/task/{pid}/children")
    return found.read_text().split() if found.exists() else []


def test_t_fews_losses_serve_every_adaptation(run):
    cells = [Cell("toy/pick", 4, 0, "embedding", "mean"), Cell("toy/echo", 4, 0, "ia3")]
    plain = [bench_of(run, ("toy/pick", "toy/echo")).run(cell) for cell in cells]
    few = [bench_of(run, ("toy/pick", "toy/echo"), loss="t-few").run(cell) for cell in cells]
    assert few[0]["fit"]["first_loss"] > plain[0]["fit"]["first_loss"] + 0.1  # two terms more
    assert few[1]["fit"]["first_loss"] == plain[1]["fit"]["first_loss"]  # an open answer has no choices


def test_several_processes_find_what_one_finds(run, tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "executable", warm.python())
    settings = {"tasks": ["toy/word", "toy/pick"], "shots": [0, 4], "seeds": 2, "adapt": ["embedding", "lora"], **QUICK}
    one = transfer(run, output=str(tmp_path / "one"), **settings)
    with (tmp_path / "one" / records.CELLS).open() as lines:
        some = [next(lines) for _ in range(3)]
    (tmp_path / "two").mkdir()
    (tmp_path / "two" / records.CELLS).write_text("".join(some) + '{"cell": "cut sh')  # a transfer that was killed
    two = transfer(run, output=str(tmp_path / "two"), processes=2, **settings)
    kept = [without_time(cell) for cell in one["cells"]]
    assert kept == [without_time(cell) for cell in two["cells"]]
    assert one["summary"] == two["summary"]
    assert not list((tmp_path / "two").glob("*request*"))


def test_a_launcher_deals_cells_out_and_its_first_process_sums_up(run, tmp_path):
    code = (
        "import sys, torch; torch.set_num_threads(1); from hyperpelt import cli;"
        "sys.exit(cli.run(['transfer', *sys.argv[1:], '--json']))"
    )
    arguments = [str(run), "--tasks", "toy/word,toy/pick", "--shots", "0,4", "--seeds", "1", "--adapt", "embedding"]
    command = [warm.python(), "-c", code, *arguments, "--steps", "2", "--cpu", "--output", str(tmp_path)]
    ranks = [
        subprocess.Popen(
            command, env={**os.environ, "RANK": str(rank), "WORLD_SIZE": "2"}, stdout=-1, stderr=-1, text=True
        )
        for rank in (0, 1)
    ]
    said = [process.communicate(timeout=120) for process in ranks]
    assert [process.returncode for process in ranks] == [0, 0], said
    assert said[1][0] == ""
    assert len(json.loads(said[0][0])["cells"]) == len(records.read(tmp_path / records.CELLS)) == 4


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--tasks", "toy/mood"], "was trained on toy/mood"),
        (["--tasks", "toy/wrod"], "Did you mean 'toy/word'"),
        (["--tasks", "toy/word", "--adapt", "embeding"], "Adaptations: embedding, hypernetwork"),
        (["--tasks", "toy/word", "--from", "like:toy/word"], "was not trained on that task"),
        (["--tasks", "toy/word", "--from", "nearset"], "Did you mean 'nearest'"),
        (["--tasks", "toy/word", "--learning-rate", "lora=1"], "which is not adapted"),
        (["--tasks", "toy/word", "--shots", "4;5"], "whole numbers such as 0,4,16"),
        (["--tasks", "toy/word", "--shots", "0", "--from", "scored", "--adapt", "embedding"], "nothing to measure"),
        (["--tasks", "toy/word", "--shots", "900"], "has 48 training rows"),
        (["--tasks", "toy/word", "--split", "train"], "holds the shots"),
        (["--tasks", "toy/word", "--learning-rate", "inf"], "greater than 0 and finite"),
    ],
)
def test_mistakes_end_in_one_sentence_before_any_work(run, capsys, tmp_path, arguments, said):
    assert cli.run(["transfer", str(run), *arguments, "--output", str(tmp_path / "none")]) == 2
    assert said in capsys.readouterr().err
    assert not (tmp_path / "none").exists()


def unlabelled(like, split):
    """The task, one row of that split without an answer."""

    def rows(asked):
        found = like.rows(asked)
        return [{**row, "label": None if asked == split and i == 5 else row["label"]} for i, row in enumerate(found)]

    return replace(like, source=hyperpelt.Generator(rows))


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda like: replace(like, metrics=("pearson",)), "'pearson' is for regression tasks"),
        (lambda like: unlabelled(like, "test"), "split test, row 5: the row has no answer"),
        (lambda like: unlabelled(like, "train"), "split train, row 5: the row has no answer"),
    ],
    ids=["metric", "measured row", "row of the majority"],
)
def test_what_could_not_be_measured_is_found_before_the_first_cell(run, tmp_path, monkeypatch, change, said):
    monkeypatch.setattr(Bench, "run", lambda self, cell: pytest.fail("a cell was begun"))
    with pytest.raises(UserError, match=said):
        transfer(run, tasks=change(registry.get("toy/word")), output=str(tmp_path / "out"), **ONE)
    assert not records.read(tmp_path / "out" / records.CELLS)


def test_a_method_that_shares_everything_can_be_adapted_as_a_whole_only(run, tmp_path, tiny_tokenizer):
    # Its plugin is loaded already: the tasks are found by name.
    other = make_run(tmp_path, tiny_tokenizer, method="shared-houlsby", plugins="[]", max_steps=1)
    settings = {"tasks": "toy/word", "shots": [4], "seeds": 1, "output": str(tmp_path / "out"), **QUICK}
    assert len(transfer(other, adapt=["all"], **settings)["cells"]) == 1
    with pytest.raises(UserError, match="keeps nothing for single tasks"):
        transfer(other, adapt=["embedding"], **settings)


NEW_TOKENS = "tuner: {type: token_rows, tokens: ['<new>']}, at: [embedding, head]"


@pytest.mark.parametrize(
    ("method", "precision"),
    [
        ("{name: unfreeze-with-care, prefix_length: 2, tokens: ['<new>']}", "bf16"),
        (f"{{parts: [{{name: tokens, {NEW_TOKENS}}}], unfreeze: 'encoder.final_layer_norm.*'}}", "fp32"),
    ],
    ids=["frozen", "unfrozen"],
)
def test_tokens_that_the_runs_method_added_are_there_in_every_adaptation(
    run, tmp_path, tiny_tokenizer, method, precision
):
    """Also where the backbone is loaded anew: for the frozen row, for other methods, and in float32."""
    settings = {"precision": precision, "plugins": "[]", "max_steps": 1, "frozen_row": "true", "eval_limit": 2}
    other = make_run(tmp_path, tiny_tokenizer, method=method, vocab_size=len(tiny_tokenizer), **settings)
    task = replace(registry.get("toy/word"), name="toy/new", choices=("bad", "<new>"))
    found = transfer(
        other,
        tasks=task,
        shots=[0, 4],
        seeds=1,
        adapt=["scratch", "full", "lora"],
        output=str(tmp_path / "out"),
        **QUICK,
    )
    assert [cell["adapt"] for cell in found["cells"]] == ["frozen", "scratch", "full", "lora"]


def test_words_decide_what_a_task_that_was_never_trained_answers(run, tmp_path, tiny_tokenizer):
    """Two tasks that read the same and differ in words and answers, known by their words alone while they were trained:
    a third one with the words of either answers as that one does."""
    for name, choices in (("good", ("bad", "good")), ("true", ("false", "true"))):
        like = registry.get("toy/word")
        registry.register(replace(like, name=f"toy/says-{name}", choices=choices, description=f"Is it {name}?"))
    method = f"{{name: hyperpelt, {SIZES}, description_dropout: 1.0}}"
    settings = {"tasks": "toy/says-good,toy/says-true", "max_steps": 60, "learning_rate": 0.02}
    other = make_run(tmp_path, tiny_tokenizer, method=method, plugins="[]", **settings)
    bench = bench_of(other)
    data = bench._data_of(registry.get("toy/word"), Shots(tuple(range(8)))).in_order  # answers good or bad
    found = {}
    for name in ("good", "true"):
        new = replace(registry.get("toy/word"), name=f"toy/new-{name}", description=f"Is it {name}?")
        bench.model.add_task(new)
        start_task(bench.model, new, "described", among=bench.trained)
        found |= losses(bench.model, [new.name], data(bench.model, range(8), 8))
    assert found["toy/new-good"] < found["toy/new-true"] - 0.3


def test_a_signal_while_a_worker_is_being_started_stops_that_one_too(tmp_path, monkeypatch):
    started: list[subprocess.Popen] = []

    def start(*_given):
        begun = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
        started.append(begun)
        os.kill(os.getpid(), signal.SIGTERM)  # before anybody knows of it
        return begun

    monkeypatch.setattr(processes, "_start", start)
    with pytest.raises(SystemExit), processes.ending_on_sigterm():
        processes.run_workers(tmp_path / "request.json", 2, tmp_path / "cells.jsonl", (), print)
    assert [begun.returncode for begun in started] == [-signal.SIGTERM]
