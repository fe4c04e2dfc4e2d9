"""Maps of how near tasks are, the transfer matrix, and what is written for TensorBoard; the commands around a run."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from small_models import make_bart
from transfer_runs import trained_run

from hyperpelt import cli, evaluate
from hyperpelt.commands import adding
from hyperpelt.config import load_run, to_yaml
from hyperpelt.errors import UserError
from hyperpelt.model.tuned import TunedModel
from hyperpelt.report import write_report
from hyperpelt.transfer import geometry
from hyperpelt.transfer.answering import as_the_run
from hyperpelt.transfer.geometry import measure, similarities


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    with trained_run(tmp_path_factory.mktemp("run")) as folder:
        yield folder


def test_maps_are_cosines_of_what_tasks_have():
    model = TunedModel.build(make_bart(), method="hyper-lora", tasks=["a", "b", "c"])
    network = model.sources["hypernetwork"]
    with torch.no_grad():
        network.task_embeddings[1] = network.task_embeddings[0]
    maps = similarities(model)
    assert set(maps) == {"embeddings", "read", "weights"}
    flat = network.task_embeddings.detach().flatten(1).double().numpy()
    unit = flat / np.linalg.norm(flat, axis=1, keepdims=True)
    np.testing.assert_allclose(maps["embeddings"], unit @ unit.T, atol=1e-6)
    assert maps["read"][0, 1] == pytest.approx(1)
    assert maps["read"][0, 2] < 0.9
    assert np.isfinite(maps["weights"]).all()  # all tasks start from the same weights: no difference, no direction
    per_task = TunedModel.build(make_bart(), method="lora", tasks=["a", "b"])
    with torch.no_grad():
        for _, parameter in per_task.trainable_parameters():
            parameter[1] += 0.1
    assert similarities(per_task)["weights"] == pytest.approx(np.array([[1.0, -1.0], [-1.0, 1.0]]))


def test_the_matrix_holds_every_task_under_every_tasks_weights(run, tmp_path):
    found = measure(run, output=tmp_path, matrix=True, split="test", limit=6, use_cpu=True, progress=False)
    settings = load_run(run / "run.yaml")
    how = {"split": "test", "limit": 6, "max_source_length": settings.max_source_length, "progress": False}
    own = evaluate(TunedModel.from_pretrained(run), ["toy/mood", "toy/truth"], **how)
    assert np.diag(found["maps"]["transfer"]).tolist() == [own.tasks[name].score for name in found["tasks"]]
    assert json.loads((tmp_path / "geometry.json").read_text())["maps"].keys() == found["maps"].keys()
    assert found["maps"].keys() == {"embeddings", "read", "weights", "words", "transfer"}
    for name in found["maps"]:
        assert "</svg>" in (tmp_path / f"{name}.svg").read_text()
    points = list((tmp_path / "projector").glob("*/embeddings/metadata.tsv"))
    words = "(by its words)"
    assert points[0].read_text().split("\n")[:4] == ["toy/mood", "toy/truth", f"toy/mood {words}", f"toy/truth {words}"]
    assert len(points[0].with_name("tensors.tsv").read_text().strip().split("\n")) == 4


def test_the_matrix_is_measured_as_the_run_sees(run, tmp_path, monkeypatch):
    """Blind or seeing, with its feature store, and with its rule for bad images."""
    seen = []

    def measured(model, tasks, **options):
        seen.append(options)
        return SimpleNamespace(tasks={task.name: SimpleNamespace(score=1.0) for task in tasks})

    monkeypatch.setattr(geometry, "evaluate", measured)
    copy = shutil.copytree(run, tmp_path / "copy")
    settings = load_run(run / "run.yaml", [f"features_dir={tmp_path}", "on_bad_image=skip", "scoring=token"])
    (copy / "run.yaml").write_text(to_yaml(settings), encoding="utf8")
    measure(copy, output=tmp_path / "out", matrix=True, use_cpu=True, progress=False)
    assert {options["features_dir"] for options in seen} == {str(tmp_path)}
    assert {options["on_bad_image"] for options in seen} == {"skip"}
    assert {options["normalisation"] for options in seen} == {"token"}
    assert {options["blind"] for options in seen} == {True}, "a model without a visual part sees nothing"
    model = SimpleNamespace(visual="there")
    assert as_the_run(settings.model_copy(update={"blind": True}), model)["blind"]
    assert not as_the_run(settings, model)["blind"]


def test_a_run_of_one_task_has_no_geometry(run, tmp_path):
    model = TunedModel.from_pretrained(run)
    alone = TunedModel.build(model.backbone, method="lora", tasks=["toy/mood"], tokenizer=model.tokenizer)
    alone.backbone_name = model.backbone_name
    alone.save_pretrained(tmp_path)
    with pytest.raises(UserError, match="nothing to compare"):
        measure(tmp_path, use_cpu=True, progress=False)


def test_a_projector_is_written_anew_and_in_silence(tmp_path, capsys):
    model = TunedModel.build(make_bart(), method="lora", tasks=["a", "b"])
    for _ in range(2):
        geometry.write_projector(tmp_path / "projector", model)
    assert capsys.readouterr().out == ""
    assert len(list((tmp_path / "projector").glob("events.*"))) == 1
    assert (tmp_path / "projector" / "projector_config.pbtxt").is_file()


def test_a_warm_up_in_steps_belongs_to_the_run_that_is_added_to(run, tmp_path):
    """500 steps of it would fill the 300 of an added task, whose rate would never reach its peak."""
    other = Path(shutil.copytree(run, tmp_path / "other"))
    share = dict(adding.settings_of(["toy/word"], str(other), [])[1])
    assert "warmup_steps" not in share
    text = (other / "run.yaml").read_text().replace("warmup_steps: 0.05", "warmup_steps: 500")
    (other / "run.yaml").write_text(text)
    for said, expected in (([], 0.05), (["warmup_steps=7"], 7)):
        path, changes = adding.settings_of(["toy/word"], str(other), said)
        assert load_run(path, [*changes, *said]).warmup_steps == expected


def test_from_the_shell_a_task_is_added_transferred_to_and_reported(run, tmp_path, capsys):
    added = ["train", "--add", "toy/word", "--from", str(run), "max_steps=2", f"output_dir={tmp_path / 'more'}"]
    assert cli.run([*added, "start_from=nearest"]) == 0
    settings = load_run(tmp_path / "more" / "run.yaml")
    assert (settings.tasks, settings.from_run, settings.learning_rate) == (["toy/word"], str(run), 0.03)
    assert TunedModel.from_pretrained(tmp_path / "more").tasks == ("toy/mood", "toy/truth", "toy/word")
    capsys.readouterr()
    arguments = ["--tasks", "toy/pick", "--shots", "0", "--seeds", "1", "--adapt", "embedding", "--cpu", "--json"]
    assert cli.run(["transfer", str(tmp_path / "more"), *arguments]) == 0
    found = json.loads(capsys.readouterr().out)
    assert [cell["adapt"] for cell in found["cells"]] == ["zero-shot"]
    page = write_report([tmp_path / "more"], tmp_path / "report.html").read_text()
    assert "Transfer to tasks that were not trained" in page
    assert "zero-shot from mean" in page
    assert cli.run(["train", "--add", "toy/word", f"output_dir={tmp_path / 'none'}"]) == 2
    assert "must be given together" in capsys.readouterr().err
