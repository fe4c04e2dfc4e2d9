"""The command line: its frozen surface, what it prints, and how every mistake ends. One small run serves all tests."""

from __future__ import annotations

import io
import itertools
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import typer
import warm
from rich.console import Console
from small_models import make_t5
from small_runs import write_run
from task_support import own_registry

from hyperpelt import cli, methods, tasks
from hyperpelt.commands import common
from hyperpelt.model.tuned import TunedModel
from hyperpelt.tasks import plugins

# Every command and flag. A change here is a change of what users type: document it.
COMMON = {"--debug"}
LISTS = COMMON | {"--json"}
DATA = {"--data-root", "--plugin"}
SURFACE = {
    "": COMMON | {"--version"},
    "train": LISTS | DATA | {"run", "--keys", "--add", "--from"},
    "evaluate": LISTS
    | DATA
    | {
        "run",
        "--backbone",
        "--tasks",
        "--split",
        "--limit",
        "--frozen",
        "--normalisation",
        "--regression",
        "--batch-size",
        "--num-beams",
        "--blind",
        "--seeing",
        "--features",
        "--skip-bad-images",
        "--output",
        "--intervals",
        "--seed",
        "--log-samples",
    },
    "transfer": LISTS
    | DATA
    | {
        "run",
        "--tasks",
        "--shots",
        "--seeds",
        "--adapt",
        "--baselines",
        "--from",
        "--recipe",
        "--sampling",
        "--choose",
        "--loss",
        "--steps",
        "--batch-size",
        "--learning-rate",
        "--split",
        "--limit",
        "--context-length",
        "--normalisation",
        "--processes",
        "--cpu",
        "--output",
    },
    "lm-eval": set(),  # all of it is the harness's
    "geometry": LISTS | DATA | {"run", "--output", "--matrix", "--split", "--limit", "--cpu"},
    "predict": COMMON
    | {
        "run",
        "file",
        "--task",
        "--normalisation",
        "--regression",
        "--batch-size",
        "--plugin",
        "--num-beams",
        "--allow-urls",
        "--format",
        "--id",
        "--backbone",
    },
    "export": LISTS | {"run", "--task", "--to", "--output", "--plugin", "--backbone"},
    "plan": LISTS
    | {"run", "--card", "--fsdp", "--memory", "--methods", "--num-tasks", "--picture", "--plugin", "--processes"},
    "report": LISTS | {"runs", "--output"},
    "tasks list": LISTS | {"pattern", "--plugin"},
    "tasks show": LISTS | DATA | {"name", "--rows"},
    "tasks check": LISTS | DATA | {"names", "--backbone", "--max-source-length", "--max-target-length", "--limit"},
    "tasks new": LISTS | {"name", "--folder"},
    "methods list": LISTS | {"--backbone", "--num-tasks", "--plugin"},
    "methods show": LISTS | {"name", "--backbone", "--num-tasks", "--plugin"},
    "features build": LISTS
    | DATA
    | {
        "names",
        "--encoder",
        "--grid",
        "--split",
        "--limit",
        "--device",
        "--max-size",
        "--skip-bad-images",
        "--features-dir",
    },
    "features show": LISTS | {"--features-dir"},
    "features clear": LISTS | {"--encoder", "--features-dir"},
}


def test_lines_of_help_are_the_terminal_s_and_not_the_docstrings(monkeypatch, capsys):
    monkeypatch.setenv("COLUMNS", "100")
    monkeypatch.setenv("TERMINAL_WIDTH", "100")
    assert cli.run(["predict", "--help"]) == 0
    text = capsys.readouterr().out.split("Arguments")[0].splitlines()
    paragraph = text[next(n for n, line in enumerate(text) if "Rows are read" in line) :]
    lines = [line.rstrip() for line in paragraph[: next(n for n, line in enumerate(paragraph) if not line.strip())]]
    assert len(lines) > 3
    for line, following in itertools.pairwise(lines):
        assert len(f"{line} {following.split()[0]}") > 97, "the next word would have stood on this line"


def surface(command, name=""):
    found = (
        {} if name in ("tasks", "methods", "features") else {name: {flag for p in command.params for flag in flags(p)}}
    )
    for child, inner in getattr(command, "commands", {}).items():
        found |= surface(inner, f"{name} {child}".strip())
    return found


def flags(parameter):
    if parameter.param_type_name == "argument":
        return {parameter.name}
    return {option for option in (*parameter.opts, *parameter.secondary_opts) if option not in ("--help", "-h")}


def test_commands_and_flags_are_these_and_no_others():
    assert surface(typer.main.get_command(cli.app)) == SURFACE


class Shell:
    """`hyperpelt ...` in this process: exit status, stdout, stderr."""

    def __init__(self, capsys, monkeypatch):
        self.capsys, self.monkeypatch = capsys, monkeypatch

    def __call__(self, *arguments, stdin=""):
        source = os.memfd_create("stdin")
        os.write(source, stdin.encode() if isinstance(stdin, str) else stdin)
        os.lseek(source, 0, os.SEEK_SET)
        with os.fdopen(source) as stream:
            self.monkeypatch.setattr(sys, "stdin", stream)
            status = cli.run([str(argument) for argument in arguments])
        out, err = self.capsys.readouterr()
        return status, out, err

    def json(self, *arguments, **options):
        status, out, err = self(*arguments, "--json", **options)
        assert status == 0, err
        return json.loads(out)

    def fails(self, *arguments, status=2, **options):
        """The one sentence that a mistake ends in."""
        got, _, err = self(*arguments, **options)
        assert got == status, err
        assert "Traceback" not in err
        last = err.strip().splitlines()[-1]
        assert last.startswith("hyperpelt: ")
        return last


@pytest.fixture
def shell(capsys, monkeypatch):
    monkeypatch.setenv("TERM", "dumb")
    monkeypatch.setenv("COLUMNS", "160")
    monkeypatch.setattr(plugins, "_NAMED", {})  # each command line is as good as a process of its own
    with own_registry():
        yield Shell(capsys, monkeypatch)


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """(run folder, what `train` printed) of a run made by the command in a process of its own."""
    folder = tmp_path_factory.mktemp("cli")
    overrides = write_run(folder, make_tokenizer())
    with pytest.MonkeyPatch.context() as environment:
        environment.setenv("HYPERPELT_CACHE", str(folder / "cache"))
        done = hyperpelt("train", *overrides, "eval_steps=2", "frozen_row=true")
        assert done.returncode == 0, done.stderr
        yield folder / "run", done


def make_tokenizer():
    from conftest import tiny_tokenizer

    return tiny_tokenizer.__wrapped__()


def hyperpelt(*arguments, **options):
    command = [warm.python(), "-m", "hyperpelt.cli", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, **options)


@pytest.fixture
def run(trained):
    return trained[0]


@pytest.fixture
def copy(run, tmp_path):
    return Path(shutil.copytree(run, tmp_path / "copy"))


# Training, and the same numbers afterwards ---------------------------------------------------------------------------


def test_train_ends_with_the_table_the_folder_and_commands_that_work(trained, shell):
    run, done = trained
    for expected in (
        "toy/mood",
        "toy/truth",
        "majority",
        "frozen",
        "average",
        f"Run folder  {run}",
        f"{run}/report.html",
    ):
        assert expected in done.stdout
    assert {path.name for path in run.iterdir()} >= {
        "config.json", "model.safetensors", "results.json", "run.yaml", "report.html",
    }  # fmt: skip
    suggested = [line.strip() for line in done.stdout.splitlines() if line.startswith("  ") and "hyperpelt " in line]
    assert len(suggested) == 3
    predicting = next(line for line in suggested if "predict" in line)
    answer = subprocess.run(predicting, shell=True, capture_output=True, text=True, timeout=120)
    assert answer.returncode == 0, answer.stderr
    assert json.loads(answer.stdout)["answer"] in ("bad", "good")


def test_evaluate_in_another_process_gives_the_numbers_of_training(run, shell):
    saved = json.loads((run / "results.json").read_text())
    again = shell.json("evaluate", run, "--frozen")
    for name, task in saved["tasks"].items():
        assert again["tasks"][name]["metrics"] == task["metrics"]
        assert again["tasks"][name]["majority"] == task["majority"]
        assert again["tasks"][name]["frozen"] == task["frozen"]
    assert again["average"] == saved["average"]
    assert again["model"]["seed"] == 42


def test_two_processes_give_the_numbers_of_one(run, shell):
    alone = shell.json("evaluate", run)
    world = {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port()), "ACCELERATE_USE_CPU": "1"}
    command = [warm.python(), "-m", "hyperpelt.cli", "evaluate", str(run), "--json"]
    workers = [
        subprocess.Popen(
            command,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=os.environ | world | {"RANK": str(rank), "LOCAL_RANK": str(rank)},
        )
        for rank in range(2)
    ]
    printed = [worker.communicate(timeout=120) for worker in workers]
    assert [worker.returncode for worker in workers] == [0, 0], printed
    together = json.loads(printed[0][0])
    assert printed[1][0] == "", "only the main process prints"
    for content in (alone, together):
        for task in content["tasks"].values():
            task.pop("seconds")
    assert together == alone


def free_port():
    import socket

    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return found.getsockname()[1]


def test_evaluate_prints_a_table_for_people_and_writes_json_when_asked(run, shell, tmp_path):
    status, out, _ = shell("evaluate", run, "--tasks", "toy/mood", "--limit", 3, "--output", tmp_path / "out.json")
    assert status == 0
    assert "toy/mood" in out
    assert "toy/truth" not in out
    content = json.loads((tmp_path / "out.json").read_text())
    assert content["tasks"]["toy/mood"]["rows"] == content["limit"] == 3


def test_evaluate_makes_the_place_of_its_output_before_it_measures(run, shell, tmp_path, monkeypatch):
    output = tmp_path / "new" / "deep" / "out.json"
    arguments = ("evaluate", run, "--tasks", "toy/mood", "--limit", 2, "--output")
    assert shell(*arguments, output)[0] == 0
    assert json.loads(output.read_text())["limit"] == 2
    monkeypatch.setattr("hyperpelt.evaluation.run.evaluate", None)  # nothing is measured in vain
    assert "it is a folder" in shell.fails(*arguments, tmp_path)
    assert "out.json: File exists" in shell.fails(*arguments, output / "out.json")


def test_what_the_system_refuses_is_the_users_to_mend(run, shell, tmp_path):
    (tmp_path / "file").write_text("")
    place = tmp_path / "file" / "inside"
    for command in (
        ("report", run, "--output", place),
        ("export", run, "--task", "toy/mood", "--output", place),
        ("tasks", "new", "my-tasks", "--folder", place),
        ("geometry", run, "--output", place, "--cpu"),
    ):
        assert "file" in shell.fails(*command), command


def test_train_keys_and_json(shell, tmp_path):
    keys = {row["key"]: row for row in shell.json("train", "--keys")}
    assert keys["output_dir"]["required"]
    assert keys["warmup_steps"]["default"] == 0.05


# Predicting ----------------------------------------------------------------------------------------------------------


def test_predict_reads_rows_and_keeps_going_past_a_bad_one(run, shell):
    lines = '{"text": "good maybe", "id": "x7"}\nplain words\n\n{"txt": "x"}\n["good"]\n{"text": \n{"text": "bad"}\n'
    status, out, err = shell("predict", run, "--task", "toy/mood", stdin=lines)
    assert status == 2
    answers = [json.loads(line) for line in out.splitlines()]
    assert [sorted(answer) for answer in answers] == [
        ["answer", "id", "line", "probabilities"],
        *4 * [["error", "line"]],
        ["answer", "line", "probabilities"],
    ]
    assert [answer["line"] for answer in answers] == [1, 2, 4, 5, 6, 7], "answers stay with their lines"
    assert answers[0]["id"] == "x7"
    for number in (2, 4, 5, 6):
        assert f"line {number}: " in err
    assert "'text'" in err
    for answer in answers:
        if "answer" in answer:
            assert list(answer["probabilities"]) == ["bad", "good"]
            assert sum(answer["probabilities"].values()) == pytest.approx(1)


def test_one_row_has_one_answer_whatever_file_holds_it(run, shell, tmp_path):
    _, from_line, _ = shell("predict", run, "--task", "toy/mood", stdin="good maybe\n")
    expected = {key: value for key, value in json.loads(from_line).items() if key != "line"}
    files = {
        "rows.jsonl": '{"text": "good maybe"}\n',
        "rows.json": '[\n {\n  "text": "good maybe"\n }\n]',
        "rows.csv": "text,label\ngood maybe,\n",
        "rows.tsv": "label\ttext\n1\tgood maybe\n",
        "rows.txt": "good maybe\n",
    }
    for name, content in files.items():
        (tmp_path / name).write_text(content)
        status, from_file, err = shell("predict", run, tmp_path / name, "--task", "toy/mood")
        assert status == 0, err
        found = json.loads(from_file)
        assert found.pop("line", found.pop("row", None)) in (0, 1)
        assert found == expected, name
    _, from_stdin, _ = shell("predict", run, "--task", "toy/mood", "--format", "csv", stdin=files["rows.csv"])
    assert json.loads(from_stdin) == {"row": 0, **expected}
    assert "is the header of a table" in shell.fails("predict", run, "--task", "toy/mood", stdin=files["rows.csv"])


def test_predict_reports_bytes_that_are_no_text_and_files_that_are_not_there(run, shell, tmp_path):
    status, out, _ = shell("predict", run, "--task", "toy/mood", stdin=b"\xff\xfe\ngood\n")
    assert status == 2
    assert "UTF-8" in json.loads(out.splitlines()[0])["error"]
    assert "answer" in json.loads(out.splitlines()[1])
    assert "rows.txt" in shell.fails("predict", run, tmp_path / "rows.txt", "--task", "toy/mood")
    assert "toy/mood" in shell.fails("predict", run, "--task", "toy/mod", stdin="x\n")


def test_predict_says_which_rows_it_read_only_a_part_of(run, shell):
    lines = ["good", "good " * 60, "bad", "bad " * 70]
    status, out, err = shell("predict", run, "--task", "toy/mood", stdin="\n".join(lines) + "\n")
    assert status == 0
    assert [json.loads(line).get("cut", False) for line in out.splitlines()] == [False, True, False, True]
    assert "2 of the rows are longer than the run reads (max_source_length): `cut` says which." in err


def test_a_line_that_no_text_can_hold_is_its_own_error_alone(run, shell):
    odd = ['{"text": "half \\ud800"}', f'{{"text": {"9" * 5000}}}', '{"text": ' + "[" * 100_000, '{"\\ud800": 1}']
    status, out, _ = shell("predict", run, "--task", "toy/mood", stdin="\n".join(["good", *odd, "bad"]) + "\n")
    assert status == 2
    answers = [json.loads(line) for line in out.splitlines()]
    assert ["answer" in answer for answer in answers] == [True, *4 * [False], True]
    assert [answer["line"] for answer in answers] == [1, 2, 3, 4, 5, 6]
    assert "half a character" in answers[1]["error"]


def test_a_byte_order_mark_is_no_text(run, shell):
    row = '{"text": "good maybe"}\n'
    assert shell("predict", run, "--task", "toy/mood", stdin="\ufeff" + row) == shell(
        "predict", run, "--task", "toy/mood", stdin=row
    )


def test_only_what_a_person_types_is_answered_line_by_line(run, shell, tmp_path, monkeypatch):
    from hyperpelt.evaluation import prediction

    (tmp_path / "rows.txt").write_text("good\nbad\nmaybe\n")
    sizes, predict = [], prediction.predict_mixed

    def counted(model, tasks, rows, **how):
        sizes.append(len(rows))
        return predict(model, tasks, rows, **how)

    monkeypatch.setattr(prediction, "predict_mixed", counted)
    monkeypatch.setattr("hyperpelt.commands.predict.sys", SimpleNamespace(stdin=SimpleNamespace(isatty=lambda: True)))
    assert shell("predict", run, tmp_path / "rows.txt", "--task", "toy/mood")[0] == 0
    assert sizes == [3]


def test_an_export_never_takes_the_place_of_a_run(copy, run, shell, tmp_path):
    before = {path.name: path.read_bytes() for path in copy.iterdir() if path.is_file()}
    alias = tmp_path / "alias"
    alias.symlink_to(copy)
    for form in ("baked", "merged", "peft"):
        arguments = ("--task", "toy/mood", "--to", form, "--output")
        assert "is the run that is read" in shell.fails("export", copy, *arguments, alias)
        assert "which is no part of an export" in shell.fails("export", run, *arguments, copy)
    assert {path.name: path.read_bytes() for path in copy.iterdir() if path.is_file()} == before
    for _ in range(2):  # an export may be made anew
        assert shell("export", run, "--task", "toy/mood", "--output", tmp_path / "baked")[0] == 0


def test_no_output_takes_the_place_of_a_part_of_a_run(copy, shell):
    before = {path.name: path.read_bytes() for path in copy.iterdir() if path.is_file()}
    for name in ("config.json", "results.json", "run.yaml"):
        arguments = ("evaluate", copy, "--tasks", "toy/mood", "--limit", 2, "--output", copy / name)
        assert "belongs to the run or model in" in shell.fails(*arguments)
        assert "is no HTML page" in shell.fails("report", copy, "--output", copy / name)
    assert "which no transfer wrote" in shell.fails("transfer", copy, "--tasks", "toy/truth", "--output", copy)
    assert {path.name: path.read_bytes() for path in copy.iterdir() if path.is_file()} == before


def test_predict_answers_a_baked_export_alike(run, shell, tmp_path):
    row = '{"text": "good maybe"}\n'
    _, whole, _ = shell("predict", run, "--task", "toy/mood", stdin=row)
    content = shell.json("export", run, "--task", "toy/mood", "--output", tmp_path / "baked")
    assert content["form"] == "baked"
    plugin = run.parent / "toy_plugin.py"
    _, baked, err = shell("predict", tmp_path / "baked", "--task", "toy/mood", "--plugin", plugin, stdin=row)
    assert baked == whole, err
    assert "PEFT cannot hold" in shell.fails("export", run, "--task", "toy/mood", "--to", "peft")


# Tasks and methods ---------------------------------------------------------------------------------------------------


def test_tasks_list_and_show_are_json_and_say_where_each_comes_from(run, shell):
    plugin = run.parent / "toy_plugin.py"
    rows = {row["name"]: row for row in shell.json("tasks", "list", "--plugin", plugin)}
    assert "toy_plugin.py:" in rows["toy/mood"]["origin"]
    assert "glue.py:" in rows["glue/rte"]["origin"]
    shown = shell.json("tasks", "show", "toy/mood", "--plugin", plugin, "--rows", 1)
    assert shown["examples"]["train"][0]["input"].startswith("mood: ")
    assert shown["sizes"] == {"train": 48, "validation": 8, "test": 8}
    status, out, _ = shell("tasks", "list", "glue/*")
    assert status == 0
    assert "glue/stsb" in out
    assert "super_glue/cb" not in out
    status, out, _ = shell("tasks", "show", "toy/mood")
    assert "mood: " in out
    assert "No task matches" in shell.fails("tasks", "list", "gleu/*")
    assert "Did you mean 'toy/mood'" in shell.fails("tasks", "show", "toy/moood")


TASK_FILE = """
from hyperpelt import Example, Generator, task

def rows(split):
    start = {"train": 0, "validation": 20, "test": 30}[split]
    return [{"text": f"thing {i} is red or blue", "label": i % 2} for i in range(start, start + 10)]

@task(name="mine/colours", source=Generator(rows), choices=("red", "blue"), description="Which colour is it?")
def colours(row):
    return Example(input=f"colour: {row['text']}", label=row["label"])
"""


def test_tasks_check_fails_a_task_with_errors(shell, tmp_path):
    (tmp_path / "good.py").write_text(TASK_FILE)
    status, out, _ = shell("tasks", "check", "mine/colours", "--plugin", tmp_path / "good.py")
    assert status == 0, out
    assert "mine/colours" in out
    (tmp_path / "broken.py").write_text(TASK_FILE.replace("mine/", "torn/").replace("row['text']", "row['txt']"))
    message = shell.fails("tasks", "check", "torn/colours", "--plugin", tmp_path / "broken.py")
    assert "torn/colours" in message
    (report,) = json.loads(shell("tasks", "check", "torn/colours", "--json")[1])
    assert not report["ok"]
    assert "'txt'" in str(report["findings"])


def test_tasks_new_writes_a_plugin(shell, tmp_path):
    files = shell.json("tasks", "new", "my-tasks", "--folder", tmp_path / "mine")
    assert all(Path(file).is_file() for file in files)
    assert any("test" in file for file in files)
    assert "not an empty folder" in shell.fails("tasks", "new", "my-tasks", "--folder", tmp_path / "mine")


@pytest.mark.parametrize("name", ["class", "json", "hyperpelt", "hyperpelt-tasks"])
def test_tasks_new_refuses_names_that_python_or_hyperpelt_has(shell, tmp_path, name):
    assert "name the plugin otherwise" in shell.fails("tasks", "new", name, "--folder", tmp_path / "mine")
    assert not (tmp_path / "mine").exists()


def test_flags_are_no_yaml(run, shell, tmp_path, monkeypatch):
    seen = []
    monkeypatch.setattr("hyperpelt.training.train", lambda config: seen.append(config) or sys.exit(0))
    root = tmp_path / "data #1"
    root.mkdir()
    with pytest.raises(SystemExit):
        shell("train", "tasks=toy/mood", "output_dir=x", "--data-root", root)
    shutil.copytree(run, tmp_path / "123")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit):
        shell("train", "--add", "toy/mood", "--from", "123")
    assert seen[0].data_root == str(root)
    assert seen[1].from_run == str(tmp_path / "123")


def test_methods_are_counted_on_a_folder_that_holds_only_a_configuration(run, shell, tmp_path):
    shutil.copy(run.parent / "t5" / "config.json", tmp_path)
    rows = shell.json("methods", "list", "--backbone", tmp_path, "--num-tasks", 2)
    found = {row["name"]: row for row in rows}
    told = {
        "name",
        "family",
        "trainable",
        "percent",
        "mergeable",
        "where",
        "source",
        "operations",
        "paper",
        "equations",
    }
    assert set(rows[0]) == told
    assert (found["lora"]["mergeable"], found["hyperpelt"]["mergeable"]) == ("yes", "in part")
    assert found["hyperdecoders"]["where"].startswith(
        "encoder.*.feed_forward: shared; decoder.*.feed_forward: instance"
    )
    assert found["frozen"]["trainable"] == 0
    built = TunedModel.build(make_t5(), method="hyperpelt", tasks=["one", "two"])
    assert found["hyperpelt"]["trainable"] == built.num_trainable()
    shown = shell.json("methods", "show", "hyper-lora", "--backbone", tmp_path)
    assert shown["parts"][0]["source"] == "hypernetwork"
    assert shown["parameters"]["rank"] == 8
    assert shown["parameters"]["hypernetwork"]["hidden_dim"] == 128
    status, out, _ = shell("methods", "show", "hyperpelt", "--backbone", tmp_path)
    assert status == 0
    assert "prefix_length: 49" in out
    assert "Did you mean 'hyperpelt'" in shell.fails("methods", "show", "hyperplet", "--backbone", tmp_path)


def test_methods_are_listed_by_family_a_line_each_in_a_pipe_and_within_eighty_columns_elsewhere(
    run, shell, monkeypatch
):
    command = ("methods", "list", "--backbone", run.parent / "t5", "--num-tasks", 2)
    lines = shell(*command)[1].splitlines()
    families = [line.split("  ")[0] for line in lines if line[:4].isupper()]
    assert families[:2] == ["HYPERNETWORKS", "PREFIXES, PROMPTS"]
    (lora,) = [line for line in lines if line.startswith("lora ")]
    assert lora.split()[3:] == ["yes", "2106.09685", "q,", "v:", "per_task"]
    monkeypatch.setattr("hyperpelt.commands.common.console", lambda: Console(width=80, highlight=False))
    narrow = shell(*command)[1].splitlines()
    assert max(map(len, narrow)) <= 80
    assert {line.split()[0] for line in narrow if line[:1].islower()} == set(methods.names())
    assert narrow[[line.split(" ")[0] for line in narrow].index("lora") + 1] == "    q, v: per_task"


# Mistakes ------------------------------------------------------------------------------------------------------------


def test_a_wrong_command_line_is_one_sentence(shell):
    assert "Did you mean 'evaluate'" in shell.fails("evaluat", "x")
    assert "--tsk" in shell.fails("evaluate", "x", "--tsk", "y")
    assert "RUN" in shell.fails("evaluate")
    assert "'sums'" in shell.fails("evaluate", "x", "--normalisation", "sums")


def test_mistakes_in_a_run_are_named(run, shell, tmp_path):
    assert "no.yaml" in shell.fails("train", tmp_path / "no.yaml")
    assert "learning_rate" in shell.fails("train", "learning_rat=1", "tasks=glue/rte", f"output_dir={tmp_path / 'r'}")
    assert "fp16" in shell.fails("train", run, "precision=fp16")
    assert "overwrite" in shell.fails("train", run)
    assert "glue/rte" in shell.fails("train", run, "tasks=glue/rtee", f"output_dir={tmp_path / 'r'}")
    empty = tmp_path / "data"
    empty.mkdir()
    arguments = ("train", run, "tasks=glue/rte", f"output_dir={tmp_path / 'r'}", "--data-root", empty)
    assert "nyu-mll/glue" in shell.fails(*arguments)
    assert "boom" in shell.fails("tasks", "list", "--plugin", broken_plugin(tmp_path))


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("row['text']", "row['txt']", r"mine/colours.*row 0.*'txt'"),
        ('"label": i % 2', '"label": i % 3', r"mine/colours.*row \d+.*label 2"),
        ("range(start, start + 10)", "()", r"mine/colours.*empty"),
    ],
)
def test_mistakes_in_a_task_name_the_task_and_the_row(run, shell, tmp_path, old, new, said):
    (tmp_path / "mine.py").write_text(TASK_FILE.replace(old, new))
    arguments = ("train", run, "tasks=mine/colours", f"output_dir={tmp_path / 'r'}", "--plugin", tmp_path / "mine.py")
    assert re.search(said, shell.fails(*arguments))


def test_wrong_types_in_a_yaml_name_the_file_and_the_key(shell, tmp_path):
    (tmp_path / "run.yaml").write_text(f"tasks: [glue/rte]\noutput_dir: {tmp_path / 'r'}\nlearning_rate: fast\n")
    message = shell.fails("train", tmp_path / "run.yaml")
    assert "run.yaml" in message
    assert "learning_rate" in message
    assert "fast" in message


def broken_plugin(folder):
    (folder / "broken.py").write_text("raise RuntimeError('boom')\n")
    return folder / "broken.py"


def test_what_is_no_run_is_named(shell, tmp_path):
    assert str(tmp_path) in shell.fails("evaluate", tmp_path)
    assert str(tmp_path) in shell.fails("report", tmp_path)


def test_a_truncated_model_file_is_one_sentence(copy, shell):
    path = copy / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-100])
    assert "truncated or was changed" in shell.fails("evaluate", copy)
    assert "truncated or was changed" in shell.fails("predict", copy, "--task", "toy/mood", stdin="x\n")


def test_an_edited_configuration_is_one_sentence(copy, shell):
    path = copy / "config.json"
    content = json.loads(path.read_text())
    content["tasks"].reverse()
    path.write_text(json.dumps(content))
    assert "changed after it was saved" in shell.fails("evaluate", copy)
    path.write_text(path.read_text()[:40])
    assert "not valid JSON" in shell.fails("evaluate", copy)


def test_another_backbone_in_the_place_of_the_first_is_one_sentence(run, shell):
    backbone = run.parent / "t5"
    kept = Path(shutil.copytree(backbone, run.parent / "kept"))
    try:
        make_t5(d_ff=48).save_pretrained(backbone)
        assert "configuration" in shell.fails("evaluate", run)
        make_t5(seed=7).save_pretrained(backbone)
        assert "other weights" in shell.fails("evaluate", run)
    finally:
        shutil.rmtree(backbone)
        kept.rename(backbone)


def test_debug_shows_the_traceback_and_our_own_defects_end_with_1(run, shell, monkeypatch):
    status, _, err = shell("evaluate", run, "--tasks", "toy/nothing", "--debug")
    assert status == 2
    assert "Traceback" in err
    assert "UserError" in err

    def defect(pattern):
        raise ZeroDivisionError("in here")

    monkeypatch.setattr("hyperpelt.tasks.listing.list_tasks", defect)
    message = shell.fails("tasks", "list", status=1)
    assert "ZeroDivisionError: in here" in message
    assert "--debug" in message


def test_ctrl_c_is_130(shell, monkeypatch):
    def interrupted(pattern):
        raise KeyboardInterrupt

    monkeypatch.setattr("hyperpelt.tasks.listing.list_tasks", interrupted)
    assert shell.fails("tasks", "list", status=130) == "hyperpelt: interrupted."


def test_ctrl_c_is_130_whatever_a_library_makes_of_it(shell, monkeypatch):
    import signal

    def imported(pattern):
        try:
            signal.raise_signal(signal.SIGINT)
        except KeyboardInterrupt:
            raise ImportError("initialization failed") from None

    monkeypatch.setattr("hyperpelt.tasks.listing.list_tasks", imported)
    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background jobs ignore it
    try:
        assert shell.fails("tasks", "list", status=130) == "hyperpelt: interrupted."
        assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    finally:
        signal.signal(signal.SIGINT, before)


@pytest.mark.parametrize(
    ("file", "told"),
    [
        ("run.yaml", "is a run that was not finished, so it has no model yet: go on with it (hyperpelt train"),
        ("trainer.json", "is a checkpoint of a run, from which training goes on"),
        ("adapter_config.json", "is an adapter of PEFT's: hyperpelt.from_peft"),
    ],
)
def test_a_folder_without_a_model_is_told_by_what_it_is(shell, tmp_path, file, told):
    (tmp_path / file).write_text("tasks: [toy/mood]\n")
    assert told in shell.fails("evaluate", tmp_path)


def test_an_interrupted_training_says_how_to_go_on(shell, monkeypatch, tmp_path, run):
    import signal

    folder = tmp_path / "my lr=0.1"  # a space and a sign of a setting
    overrides = ("max_steps=100000", f"output_dir={folder}", "save_steps=null", "overwrite=true")
    command = [warm.python(), "-m", "hyperpelt.cli", "train", str(run), *overrides]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        for line in process.stderr:
            if line.startswith("step "):
                break
        process.send_signal(signal.SIGTERM)
        out, err = process.communicate(timeout=120)
    assert process.returncode == 143, err
    last = err.strip().splitlines()[-1]
    assert last.startswith("hyperpelt: ")
    assert out == ""
    (steps,) = re.findall(r"after step (\d+)", last)
    _, *again = shlex.split(last.rpartition("Go on with: ")[2])
    assert again == ["train", str(folder), "resume=true"]
    assert shell.json(*again, f"max_steps={int(steps) + 1}")["training"]["steps"] == int(steps) + 1


def test_a_training_goes_on_when_nobody_reads_what_it_says(tmp_path, run):
    folder = tmp_path / "unheard"
    command = [warm.python(), "-m", "hyperpelt.cli", "train", str(run), "max_steps=60", "log_steps=1"]
    with subprocess.Popen(
        [*command, f"output_dir={folder}"], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        for line in process.stderr:
            if line.startswith("step 1/"):
                break
        process.stderr.close()
        out = process.stdout.read()
    assert process.returncode == 0
    assert json.loads((folder / "results.json").read_text())["training"]["steps"] == 60
    assert "average" in out


def test_a_path_may_look_like_a_setting_and_a_setting_is_no_path(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("lr=0.1").mkdir()
    assert common.settings_taken(["lr=0.1", "seed=1"]) is None
    Path("lr=0.1/run.yaml").touch()
    for name in ("lr=0.1", "lr=0.1/run.yaml", "not there"):
        arguments = [name, "seed=1"]
        assert common.settings_taken(arguments) == Path(name)
        assert arguments == ["seed=1"]
    assert common.settings_taken(["seed=1"]) is None


# Quick help ----------------------------------------------------------------------------------------------------------


def test_help_imports_no_heavy_library():
    script = "import sys; from hyperpelt.cli import run; status = run(['--help']); print(status, *sys.modules)"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=60)
    status, *modules = done.stdout.splitlines()[-1].split()
    assert status == "0"
    heavy = {"torch", "transformers", "datasets", "accelerate", "sklearn", "scipy", "matplotlib", "pydantic", "numpy"}
    assert not heavy & set(modules)


def test_a_reader_that_goes_away_is_no_error():
    done = subprocess.run(
        f"{sys.executable} -m hyperpelt.cli tasks list --json | head -c 10; echo status ${{PIPESTATUS[0]}}",
        shell=True, executable="/bin/bash", capture_output=True, text=True, timeout=60,
    )  # fmt: skip
    assert done.stdout.endswith("status 0\n")
    assert done.stderr == ""


def test_names_of_length_rules_are_those_of_the_library():
    from hyperpelt.commands import common
    from hyperpelt.evaluation import settings as evaluation_settings
    from hyperpelt.model import scoring

    assert tuple(common.Rule) == scoring.NORMALISATIONS
    assert tuple(common.Number) == evaluation_settings.REGRESSION
    assert tasks.names()


@pytest.mark.parametrize("encoding", ["ascii", "latin-1"])
def test_a_letter_that_the_terminal_does_not_have_ends_no_command(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, encoding: str
) -> None:
    (tmp_path / "rows.jsonl").write_text('{"text": "\u2603 in M\u00fcnchen", "label": "yes"}', encoding="utf8")
    (tmp_path / "my.yaml").write_text(
        "name: my/snow\nsource: {files: {train: rows.jsonl}}\ninput: '{text}'\nchoices: [no, yes]\n"
        "splits: {validation: null, test: null}\n",
        encoding="utf8",
    )
    written = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(written, encoding=encoding))
    monkeypatch.setattr(sys, "argv", ["hyperpelt", "tasks", "show", "my/snow", "--plugin", str(tmp_path / "my.yaml")])
    with own_registry(), pytest.raises(SystemExit) as ended:
        cli.main()
    assert ended.value.code == 0
    city = "M\u00fcnchen" if encoding == "latin-1" else r"M\xfcnchen"
    assert rf"\u2603 in {city}" in written.getvalue().decode(encoding)
