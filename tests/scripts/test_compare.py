"""`scripts/compare`: runs methods x seeds, goes on where it stopped, writes the table of what is finished."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
import warm
import yaml
from small_runs import forget_tasks, write_run
from transformers import BartConfig, BartForConditionalGeneration
from typer.testing import CliRunner

from hyperpelt import methods
from hyperpelt.config import load_run, to_yaml
from hyperpelt.errors import UserError
from hyperpelt.methods.assemble import count_trainable
from hyperpelt.model.sight import for_features
from hyperpelt.operations import list_operations
from hyperpelt.planning import plan_run
from hyperpelt.report.run_records import Curve
from hyperpelt.vision import load_image_encoder

SCRIPT = Path(__file__).parents[2] / "scripts" / "compare"
sys.path.insert(0, str(SCRIPT.parent))

from comparing import study as study_module  # noqa: E402
from comparing.main import app  # noqa: E402
from comparing.pictures import _mean_curve  # noqa: E402
from comparing.study import cells, read_study  # noqa: E402
from comparing.tables import by_method, cell_record, computed, earlier, markdown  # noqa: E402

METHODS = {"layer-norm": {}, "small": {"method": {"name": "lora", "rank": 2}, "learning_rate": 0.02}}


def compare(*arguments: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run([warm.python(), SCRIPT, *map(str, arguments)], capture_output=True, text=True, check=False)


def write_study(folder: Path, methods: dict, **changes: object) -> Path:
    from conftest import tiny_tokenizer

    settings = dict(pair.split("=", 1) for pair in write_run(folder, tiny_tokenizer.__wrapped__()))
    settings.pop("output_dir")
    run = {name: yaml.safe_load(value) for name, value in settings.items()}
    (folder / "run.yaml").write_text(yaml.safe_dump(run), encoding="utf8")
    study = {"title": "Two methods", "run": "run.yaml", "seeds": [0, 1], "methods": methods, **changes}
    path = folder / "compare_toys.yaml"
    path.write_text(yaml.safe_dump(study, sort_keys=False), encoding="utf8")
    return path


@pytest.fixture(autouse=True)
def no_study_leaves_its_tasks() -> Iterator[None]:
    """Each loads the toy tasks of a folder of its own."""
    yield
    forget_tasks()


@pytest.fixture(scope="module")
def compared(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list]:
    folder = tmp_path_factory.mktemp("compare")
    study = write_study(folder, METHODS)
    command = [study, "--runs", folder / "runs", "--output", folder / "out", "--parallel", 2, "max_steps=2"]
    done = compare(*command)
    assert done.returncode == 0, done.stdout + done.stderr
    for part in ("out", "runs"):  # as they were, whatever a test does to the others
        shutil.copytree(folder / part, folder / "first" / part)
    return folder, command


def test_the_table_holds_every_method_with_its_seeds_and_settings(compared: tuple[Path, list]) -> None:
    folder, _ = compared
    text = (folder / "out" / "toys.md").read_text(encoding="utf8")
    found = json.loads((folder / "out" / "toys.json").read_text(encoding="utf8"))
    assert [(cell["method"], cell["seed"]) for cell in found["cells"]] == [
        ("layer-norm", 0),
        ("layer-norm", 1),
        ("small", 0),
        ("small", 1),
    ]
    for cell in found["cells"]:
        assert cell["training"]["steps"] == 2
        own = json.loads((folder / "runs/toys" / f"{cell['method']}-{cell['seed']}" / "results.json").read_text())
        assert cell["average"] == own["average"]
        assert cell["trainable"] == own["model"]["trainable"] > 0
    assert "| small | " in text
    assert "0, 1" in text
    assert "±" in text
    assert "learning_rate=0.02" in text
    assert "| majority |" in text
    losses = [cell["training"]["loss"] for cell in found["cells"] if cell["method"] == "small"]
    assert f"{sum(losses) / 2:.3f} ± " in text


def test_a_table_says_in_what_its_runs_were_computed(compared: tuple[Path, list]) -> None:
    folder, _ = compared
    found = json.loads((folder / "first" / "out" / "toys.json").read_text(encoding="utf8"))
    (way,) = {f"{cell['training']['precision']} on cpu" for cell in found["cells"]}
    assert f". Computed in {way}." in (folder / "first" / "out" / "toys.md").read_text(encoding="utf8")
    found["cells"][0]["training"] |= {"precision": "bf16", "device": "cuda"}
    other = "fp32 on cpu" if way != "fp32 on cpu" else "bf16-mixed on cpu"
    found["cells"][1]["training"]["precision"] = other.split()[0]
    said = computed(by_method(found))
    assert said == f"Computed in bf16 on cuda and {other} (`layer-norm`); {way} (`small`)."


def test_pictures_show_every_task_and_the_mean_loss_of_every_method(compared: tuple[Path, list]) -> None:
    folder, _ = compared
    out = folder / "out"
    text = (out / "toys.md").read_text(encoding="utf8")
    found = json.loads((out / "toys.json").read_text(encoding="utf8"))
    for picture in ("toys-tasks.svg", "toys-loss.svg"):
        assert f"]({picture})" in text
        assert "<svg" in (out / picture).read_text(encoding="utf8")
    for cell in found["cells"]:
        assert cell["curve"]["steps"][-1] == 2
        assert cell["curve"]["loss"][-1] == pytest.approx(cell["training"]["loss"], abs=1e-3)
    cells = by_method(found)["small"]
    assert _mean_curve(cells).values[-1] == pytest.approx(sum(cell["curve"]["loss"][-1] for cell in cells) / 2)
    del cells[0]["curve"]["steps"][-1], cells[0]["curve"]["loss"][-1]  # one seed has logged less
    assert 2 not in (_mean_curve(cells) or Curve([], [])).steps


def test_finished_runs_are_kept_and_changed_ones_made_anew(compared: tuple[Path, list]) -> None:
    folder, command = compared
    results = folder / "runs/toys/small-0/results.json"
    before = results.stat().st_mtime_ns
    assert compare(*command).returncode == 0
    assert results.stat().st_mtime_ns == before
    changed = [*command, "--methods", "small", "--seeds", "0", "learning_rate=0.03"]
    done = compare(*changed)
    assert done.returncode == 2
    assert "small-0 holds a finished run of other settings (learning_rate)" in done.stderr
    assert "--force" in done.stderr
    assert results.stat().st_mtime_ns == before
    done = compare(*changed, "--force")
    assert done.returncode == 0, done.stderr
    assert results.stat().st_mtime_ns > before
    assert "learning_rate=0.03" in json.loads((folder / "out" / "toys.json").read_text())["command"]


def test_a_studys_settings_stand_between_the_configurations_and_a_methods(tmp_path: Path) -> None:
    methods = {"layer-norm": {}, "lora": {"max_steps": 5}}
    study = read_study(write_study(tmp_path, methods, seeds=[0], settings={"max_steps": 7, "warmup_steps": 3}))

    def found(*overrides: str) -> list[tuple[int, int]]:
        return [(c.resolved["max_steps"], c.resolved["warmup_steps"]) for c in cells(study, tmp_path, overrides)]

    assert found() == [(7, 3), (5, 3)]
    assert found("max_steps=2") == [(2, 3), (2, 3)]


def test_a_finished_cell_is_known_by_the_run_configuration_too(tmp_path: Path) -> None:
    path = write_study(tmp_path, METHODS)
    (cell, *_) = cells(read_study(path), tmp_path / "runs", ())
    cell.folder.mkdir(parents=True)
    (cell.folder / "results.json").write_text("{}")
    marker = cell.folder / "compare.json"
    marker.write_text(json.dumps({"settings": list(cell.settings), "resolved": cell.resolved}))
    assert cell.finished
    run = yaml.safe_load((tmp_path / "run.yaml").read_text())
    for change, differing in (({"data_root": "elsewhere"}, []), ({"max_steps": 9}, ["max_steps"])):
        (tmp_path / "run.yaml").write_text(yaml.safe_dump({**run, **change}))
        (again, *_) = cells(read_study(path), tmp_path / "runs", ())
        assert again.settings == cell.settings
        assert again.differing() == differing
    marker.write_text(json.dumps(list(cell.settings)))  # as it was written before: run.yaml tells
    assert not again.finished
    (cell.folder / "run.yaml").write_text(to_yaml(load_run(tmp_path / "run.yaml", [*cell.settings, "output_dir=x"])))
    assert again.finished


def test_a_value_of_null_stays_null(tmp_path: Path) -> None:
    path = write_study(tmp_path, {"lora": {"max_grad_norm": None}})
    (cell, *_) = cells(read_study(path), tmp_path / "runs", ())
    assert "max_grad_norm=null" in cell.settings
    assert cell.resolved["max_grad_norm"] is None


def test_tables_do_not_go_where_pages_are_written_by_hand() -> None:
    said = compare("--help").stdout
    assert "runs/tables" in said
    assert "docs/results" not in said


def test_a_run_that_fails_is_named_with_its_reason_and_the_others_are_in_the_table(tmp_path: Path) -> None:
    nowhere = {"method": {"name": "lora", "at": ["decoder.99.q"]}}
    study = write_study(tmp_path, {"nowhere": nowhere, "layer-norm": {}}, seeds=[3])
    done = compare(study, "--runs", tmp_path / "runs", "--output", tmp_path / "out", "max_steps=1")
    assert done.returncode == 1
    assert "nowhere-3 ended with status 2: see train.log there (hyperpelt: " in done.stderr
    assert "decoder.99.q" in done.stderr
    assert "| layer-norm |" in (tmp_path / "out" / "toys.md").read_text(encoding="utf8")


def test_a_method_that_is_none_is_refused_before_the_first_run(tmp_path: Path) -> None:
    study = write_study(tmp_path, {"layer-norm": {}, "mine": {"method": {"name": "lora", "rnak": 2}}}, seeds=[3])
    done = compare(study, "--runs", tmp_path / "runs", "--output", tmp_path / "out", "max_steps=1")
    assert done.returncode == 2
    assert f"{study}, method mine: Unknown setting" in done.stderr
    assert "Did you mean 'rank'" in done.stderr
    assert not (tmp_path / "runs").exists()


def test_a_study_that_is_told_to_end_lets_its_runs_save(tmp_path: Path) -> None:
    study = write_study(tmp_path, {"layer-norm": {}}, seeds=[0])
    steps = "max_steps=100000"
    command = [warm.python(), SCRIPT, study, "--runs", tmp_path / "runs", "--output", tmp_path / "out", steps]
    process = subprocess.Popen([str(word) for word in command])
    log, saved = tmp_path / "runs/toys/layer-norm-0/train.log", tmp_path / "runs/toys/layer-norm-0/checkpoints"
    deadline = time.monotonic() + 120
    while not (log.is_file() and "\nstep " in log.read_text(encoding="utf8")):
        assert process.poll() is None, log.read_text(encoding="utf8")
        assert time.monotonic() < deadline
        time.sleep(0.2)
    process.terminate()
    assert process.wait(timeout=60) != 0
    assert "stopped by SIGTERM" in log.read_text(encoding="utf8"), "the run itself was not told, or not waited for"
    assert list(saved.iterdir())


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"sedes": 1}, "Did you mean 'seeds'"),
        ({"seeds": None}, "expected the keys"),
        ({"seeds": 3}, "seeds: a list of whole numbers"),
        ({"methods": ["lora"]}, "methods: a mapping"),
        ({"methods": {"lora": 3}}, "methods: a mapping"),
        ({"settings": ["max_steps=3"]}, "settings: a mapping"),
        ({"settings": {"seed": 3}}, "settings holds a seed"),
        ({"settings": {"method": "lora"}}, "settings holds a method"),
        ({"methods": {"lora": {"seed": 3}}}, "lora holds a seed"),
    ],
)
def test_a_study_with_a_mistake_is_refused(tmp_path: Path, changes: dict, expected: str) -> None:
    study = write_study(tmp_path, {"lora": {}})
    study.write_text(yaml.safe_dump({**yaml.safe_load(study.read_text()), **changes}), encoding="utf8")
    done = compare(study, "--runs", tmp_path / "runs")
    assert done.returncode == 2
    assert expected in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["--methods", "lorra"], "Did you mean 'lora'"),
        (["--seeds", "a"], "Unknown seed of the study 'a'"),
        (["--parallel", "0"], "--parallel"),
        (["learning_rat=1"], "learning_rate"),
    ],
)
def test_a_mistake_on_the_command_line_is_one_sentence(tmp_path: Path, arguments: list, expected: str) -> None:
    study = write_study(tmp_path, {"lora": {}})
    done = compare(study, "--runs", tmp_path / "runs", "--output", tmp_path / "out", *arguments)
    assert done.returncode == 2
    assert expected in done.stderr
    assert "Traceback" not in done.stderr


def test_a_study_that_is_no_yaml_is_refused(tmp_path: Path) -> None:
    (tmp_path / "compare_broken.yaml").write_text("title: [\n")
    with pytest.raises(UserError, match="not valid YAML"):
        read_study(tmp_path / "compare_broken.yaml")


def test_the_study_of_seeing_compares_equal_trainable_counts_with_the_blind_one_the_same() -> None:
    folder = Path(__file__).parents[2]
    study = yaml.safe_load((folder / "scripts" / "compare_vl.yaml").read_text(encoding="utf8"))
    run = load_run(folder / "scripts" / study["run"])
    spec = load_image_encoder(run.image_encoder, grid=run.image_grid).spec
    with torch.device("meta"):
        backbone = BartForConditionalGeneration(BartConfig.from_pretrained(folder / "hyperpelt/assets/mini-bart"))
    counts = {}
    for name, settings in study["methods"].items():
        operations = list_operations(backbone)
        made = for_features(methods.get(settings["method"]), spec, operations)
        counts[name] = count_trainable(made, backbone, operations, len(run.task_rates))
    assert max(counts.values()) < 1.01 * min(counts.values()), counts
    seeing, blind = study["methods"]["vl-hyperpelt"], study["methods"]["blind"]
    assert blind == {**seeing, "blind": True}


@pytest.mark.parametrize("path", sorted(SCRIPT.parent.glob("compare_*.yaml")), ids=lambda path: path.stem)
def test_the_projects_own_studies_are_read_and_every_run_of_theirs_has_settings_that_are_known(path: Path) -> None:
    study = read_study(path)
    runs = list(cells(study, Path("runs"), ()))
    assert len({run.folder for run in runs}) == len(runs) == len(study.seeds) * len(study.methods)
    assert all(methods.get(run.resolved["method"]).name for run in runs)


def test_an_earlier_table_stays_where_nothing_was_run(compared: tuple[Path, list], tmp_path: Path) -> None:
    folder, command = compared
    found = json.loads((folder / "first" / "out" / "toys.json").read_text(encoding="utf8"))
    for cell in found["cells"]:
        cell["average"] = 12.5
    before = tmp_path / "before.json"
    before.write_text(json.dumps(found), encoding="utf8")
    runs, out = tmp_path / "runs", tmp_path / "out"
    shutil.copytree(folder / "first" / "runs" / "toys" / "small-0", runs / "toys" / "small-0")
    again = [command[0], "max_steps=2", "--runs", runs, "--output", out, "--table-only", "--keep", before]
    done = compare(*again)
    assert done.returncode == 0, done.stderr
    cells = json.loads((out / "toys.json").read_text(encoding="utf8"))["cells"]
    assert [(cell["method"], cell["seed"]) for cell in cells] == [
        ("layer-norm", 0), ("layer-norm", 1), ("small", 0), ("small", 1)
    ]  # fmt: skip
    assert [cell["average"] == 12.5 for cell in cells] == [True, True, False, True]
    before.write_text(json.dumps({**found, "rows": {"glue/rte": 3}}), encoding="utf8")
    done = compare(*again)
    assert done.returncode == 2
    assert "other tasks or test rows" in done.stderr


def test_a_row_of_the_table_holds_runs_of_one_method_alone(compared: tuple[Path, list], tmp_path: Path) -> None:
    """Its mean and deviation are over seeds: other settings, other scoring, a seed twice would be hidden in it."""
    folder, command = compared
    found = json.loads((folder / "first" / "out" / "toys.json").read_text(encoding="utf8"))
    study = read_study(Path(command[0]))
    results = next(cells(study, folder / "first" / "runs" / "toys", ())).results()
    new, kept = [cell for cell in found["cells"] if cell["seed"] == 0], tmp_path / "before.json"

    def beside(**changes: object) -> list:
        kept.write_text(json.dumps({**found, **changes}), encoding="utf8")
        return earlier(kept, study, results, new)

    assert len(beside()) == 4
    longer = [{**cell, "settings": [*cell["settings"], "max_steps=9", "save_steps=3"]} for cell in found["cells"]]
    assert len(beside(cells=[cell for cell in longer if cell["seed"] == 0])) == 2  # all of them give way
    with pytest.raises(UserError, match=r"seeds of 'layer-norm' with other settings than those here \(max_steps\)"):
        beside(cells=longer)
    with pytest.raises(UserError, match=r"scored otherwise \(normalisation\)"):
        beside(settings={**found["settings"], "normalisation": "character"})
    for same, told in (("seed=5", "--seeds"), ("method=lora", "--methods"), ("output_dir=x", "--runs")):
        with pytest.raises(UserError, match=f"would be the same in every run of the study.*{told}"):
            list(cells(study, tmp_path, (same,)))
    with pytest.raises(UserError, match="seeds: each once"):
        read_study(write_study(tmp_path, METHODS, seeds=[0, 1, 0]))
    found["cells"][1]["training"]["steps"] = 1
    assert "| 1 to 2 x 8 |" in markdown(study, found)


def test_what_a_method_asks_for_is_counted_and_drawn(compared: tuple[Path, list]) -> None:
    folder, _ = compared
    found = json.loads((folder / "first" / "out" / "toys.json").read_text(encoding="utf8"))
    costs = found["costs"]
    assert set(costs) == {"layer-norm", "small"}
    assert all(cost["kept"] > 0 and cost["flops"] > 0 for cost in costs.values())
    config = load_run(folder / "run.yaml", ['method={"name": "lora", "rank": 2}', "output_dir=-"])
    assert costs["small"]["kept"] == plan_run(config, memory=(), on="cpu").costs.kept
    drawn = (folder / "first" / "out" / "toys-trade.svg").read_text(encoding="utf8")
    assert "MB kept for backward" in drawn
    assert "| kept MB | GFLOP |" in (folder / "first" / "out" / "toys.md").read_text(encoding="utf8")


def test_ctrl_c_says_what_is_finished(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def stopped(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("comparing.main.run_study", stopped)
    study = write_study(tmp_path, METHODS)
    found = CliRunner().invoke(app, [str(study), "--runs", str(tmp_path / "runs"), "--output", str(tmp_path / "out")])
    assert found.exit_code == 130
    assert found.stderr == (
        "compare: interrupted; 0 of 4 runs are finished, and the same command goes on with the others.\n"
    )


def test_weights_of_an_embedded_backbone_are_named_and_never_mixed(
    compared: tuple[Path, list], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A later version of the package may have others under the same name."""
    mine, other = study_module.weights_of("mini-bart"), study_module.weights_of("mini-t5")
    assert mine != other
    assert study_module.weights_of("google-t5/t5-base") is None
    folder, command = compared
    shutil.copytree(folder / "first" / "runs", tmp_path / "runs")
    marker = tmp_path / "runs" / "toys" / "small-0" / "compare.json"
    content = json.loads(marker.read_text())
    assert content["weights"] is None
    marker.write_text(json.dumps({**content, "weights": mine}))
    study = read_study(Path(command[0]))
    (cell,) = [
        cell for cell in cells(study, tmp_path / "runs" / "toys", ("max_steps=2",)) if cell.folder == marker.parent
    ]
    monkeypatch.setattr(study_module, "weights_of", lambda backbone: mine)
    assert cell.finished
    record = cell_record(cell, cell.results())
    assert record["weights"] == mine
    table = tmp_path / "table.json"
    rows = {name: task.rows for name, task in cell.results().tasks.items()}
    table.write_text(json.dumps({"rows": rows, "cells": [record]}))
    assert earlier(table, study, cell.results(), [record]) == [record]
    found = json.loads((folder / "first" / "out" / "toys.json").read_text(encoding="utf8"))
    assert f". Weights of `{record['backbone']}`: {mine}.\n" in markdown(study, {**found, "cells": [record]})
    monkeypatch.setattr(study_module, "weights_of", lambda backbone: other)
    assert cell.differing() == ["weights"]
    with pytest.raises(UserError, match=f"with other weights \\({mine}, here {other}\\)"):
        earlier(table, study, cell.results(), [cell_record(cell, cell.results())])
