"""The report: one page that needs nothing else, from files that a run really writes."""

from __future__ import annotations

import base64
import json
import re
from html.parser import HTMLParser
from xml.etree import ElementTree

import numpy as np
import pytest
import torch
from torch.utils.tensorboard import SummaryWriter

from hyperpelt import UserError, report
from hyperpelt.evaluation.results import Results, TaskResult
from hyperpelt.report import page, plots, run_records


def result(score, majority):
    metrics = {"accuracy": score}
    return TaskResult(
        kind="classification", rows=10, metrics=metrics, majority={"accuracy": majority}, notes=("a note",)
    )


def write_run(folder, *, method="hyperpelt", seed=0, scores=(80.0, 60.0), finished=True):
    """What training leaves behind, with a map of two tasks."""
    folder.mkdir(parents=True)
    names = ["glue/<b>", "glue/sst2"]
    (folder / "run.yaml").write_text(f"method: {method}\nseed: {seed}\n")
    (folder / "config.json").write_text(json.dumps({"tasks": [{"name": name} for name in names]}))
    writer = SummaryWriter(str(folder / "tensorboard"))
    for step in range(1, 6):
        writer.add_scalar("train/loss", 3.0 / step, step)
        writer.add_scalar("train/loss/glue/sst2", 2.0 / step, step)
        writer.add_scalar("train/learning_rate", 1e-3, step)
        writer.add_scalar("eval/average", 10.0 * step, step)
    writer.close()
    if finished:
        training = {"seed": seed, "steps": 5, "tokens": 1234, "seconds": 61.0}
        training["task_map"] = {"tasks": names, "cosines": [[1.0, -0.5], [-0.5, 1.0]], "apart": [0.1, 0.2]}
        results = Results(
            tasks={name: result(score, 50.0) for name, score in zip(names, scores, strict=True)},
            settings={"split": "test", "normalisation": "sum", "regression": "expected", "training": training},
            model={"method": method, "backbone": "mini-bart", "trainable": 4321},
            versions={"torch": "2.13.0"},
        )
        (folder / "results.json").write_text(json.dumps(results.as_dict()))
    return folder


class Page(HTMLParser):
    """Every tag, the text, and the addresses that a page asks for."""

    def __init__(self, text):
        super().__init__()
        self.open, self.text, self.sources, self.pictures = [], "", [], []
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        values = dict(attributes)
        self.sources += [values[name] for name in ("src", "href") if name in values]
        if tag == "img":
            self.pictures.append(values)
        elif tag != "meta":
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text += data


def test_the_page_is_whole_and_needs_nothing_from_outside(tmp_path):
    path = report.write_report([write_run(tmp_path / "run")], tmp_path / "out" / "report.html")
    text = path.read_text(encoding="utf8")
    page = Page(text)
    assert page.open == []
    assert page.sources
    assert all(source.startswith("data:image/svg+xml;base64,") for source in page.sources)
    assert "<script" not in text
    assert "glue/<b>" in page.text, "names are escaped, not interpreted"
    for expected in ("80.00", "50.00", "70.00", "4,321", "0:01:01", "a note", "torch 2.13.0", "method: hyperpelt"):
        assert expected in page.text
    for picture in page.pictures:
        assert picture["alt"]
        drawing = base64.b64decode(picture["src"].partition(",")[2])
        assert ElementTree.fromstring(drawing).tag.endswith("svg")


def test_names_in_any_letters_are_drawn_as_letters():
    """A font of ours has no Chinese, but the reader's have; and no name spoils the XML."""
    names = ["\u60c5\u611f", "\u0939\u093f\u0902\u0926\u0940", "<b> & \x1b[31m"]
    drawn = plots.curves(
        {name: run_records.Curve([1, 2], [1.0, 2.0]) for name in names}, title="\u635f\u5931", ylabel="loss"
    )
    text = " ".join(ElementTree.fromstring(drawn).itertext())
    for shown in (*names[:2], "<b> & \\x1b[31m", "\u635f\u5931"):
        assert shown in text


def test_runs_of_strange_names_are_drawn_listed_and_linked_by_them(tmp_path):
    """No name is a formula, a legend leaves none out, each has its own link, and a run that is named twice is one."""
    names = ["_old", r"is $\frac$ cost$", "a-b", "a b"]
    for number, name in enumerate(names):
        write_run(tmp_path / name, method=f"method {number}", seed=number)
    found = Page(report.write_report([tmp_path, tmp_path / "_old"], tmp_path / "page.html").read_text(encoding="utf8"))
    links = [source for source in found.sources if source.startswith("#")]
    assert len(set(links)) == len(links) == len(names)
    curve = run_records.Curve([1, 2], [2.0, 1.0])
    lines = plots.curves(dict.fromkeys(names, curve), title="t", ylabel="")
    for drawn in (lines, plots.bars({name: {"a": 1.0} for name in names}, title="t")):
        written = [text.strip() for text in ElementTree.fromstring(drawn).itertext()]
        assert set(names) <= set(written)


def test_the_same_run_gives_the_same_bytes(tmp_path):
    run = write_run(tmp_path / "run")
    first = report.write_report([run], tmp_path / "1.html").read_bytes()
    assert report.write_report([run], tmp_path / "2.html").read_bytes() == first


def test_seeds_of_one_method_are_averaged_and_methods_compared(tmp_path):
    write_run(tmp_path / "a1", seed=1, scores=(80.0, 60.0))
    write_run(tmp_path / "a2", seed=2, scores=(84.0, 60.0))
    write_run(tmp_path / "b", method="lora", scores=(70.0, 70.0))
    text = report.write_report([tmp_path], tmp_path / "report.html").read_text(encoding="utf8")
    rows = [re.findall(r"<t[dh]>(.*?)</t[dh]>", line) for line in text.splitlines()]
    table = rows[next(i for i, row in enumerate(rows) if row[:2] == ["task", "majority"]) :]
    assert table[0] == ["task", "majority", "hyperpelt (n=2)", "lora"]
    assert table[1] == ["glue/&lt;b&gt;", "50.00", "82.00 ± 2.83", "70.00"]
    assert table[2] == ["glue/sst2", "50.00", "60.00 ± 0.00", "70.00"]


def test_runs_that_differ_in_more_than_the_seed_stand_apart(tmp_path):
    runs = [write_run(tmp_path / name, seed=1) for name in ("wide", "narrow")]
    page = Page(report.write_report(runs, tmp_path / "report.html").read_text(encoding="utf8"))
    assert "n=2" not in page.text
    assert page.text.count("narrow") >= 3


@pytest.mark.parametrize("change", ["settings", "limit", "split", "normalisation", "tasks"])
def test_runs_with_different_seeds_are_repetitions_only_if_all_else_is_equal(tmp_path, change):
    for seed, name in enumerate(("first", "second")):
        write_run(tmp_path / name, seed=seed)
    path = tmp_path / "second" / "results.json"
    content = json.loads(path.read_text())
    if change == "settings":
        with (tmp_path / "second" / "run.yaml").open("a") as file:
            file.write("learning_rate: 0.5\n")
    elif change == "tasks":
        content["tasks"].pop("glue/sst2")
    else:
        content[change] = {"limit": 3, "split": "validation", "normalisation": "token"}[change]
    path.write_text(json.dumps(content))
    text = report.write_report([tmp_path], tmp_path / "report.html").read_text(encoding="utf8")
    assert "(n=2)" not in text
    rows = [re.findall(r"<t[dh]>(.*?)</t[dh]>", line) for line in text.splitlines()]
    assert ["task", "majority", "first", "second"] in rows
    differing = {row[0]: row[1] for row in rows[rows.index(["what", "value (runs)"]) + 1 :] if len(row) == 2}
    said = {
        "settings": ("learning_rate", "none (first); 0.5 (second)"),
        "limit": ("measured: limit", "none (first); 3 (second)"),
        "split": ("measured: split", "test (first); validation (second)"),
        "normalisation": ("measured: normalisation", "sum (first); token (second)"),
        "tasks": ("rows of glue/sst2", "10 (first); none (second)"),
    }[change]
    assert differing[said[0]] == said[1]
    assert any(row[0].startswith("no average") for row in rows if row) == (change == "tasks")


def test_runs_that_differ_in_their_method_alone_are_alike(tmp_path):
    runs = [write_run(tmp_path / method, method=method) for method in ("lora", "hyperpelt")]
    assert "Not alike" not in report.write_report(runs, tmp_path / "report.html").read_text(encoding="utf8")


def test_repetitions_may_lie_in_other_places(tmp_path):
    for seed, name in enumerate(("first", "second")):
        with (write_run(tmp_path / name, seed=seed) / "run.yaml").open("a") as file:
            file.write(f"output_dir: {tmp_path / name}\ndata_root: {tmp_path / name}\n")
    write_run(tmp_path / "third", method="lora")
    assert "hyperpelt (n=2)" in report.write_report([tmp_path], tmp_path / "report.html").read_text(encoding="utf8")


def test_the_transfer_of_a_shipped_run_is_found_where_it_was_written(tmp_path, monkeypatch):
    from hyperpelt.backbones import shipped
    from hyperpelt.transfer.summary import summarise

    cell = {"task": "a", "shots": 4, "seed": 0, "adapt": "lora", "start": "", "score": 50.0, "trainable": 9}
    settings = {"split": "test", "seeds": [0], "steps": 3, "batch_size": 4, "loss": "lm", "choose": "last"}
    monkeypatch.chdir(tmp_path)
    folder = shipped.place_for("mini-bart-tabletop") / "transfer"
    folder.mkdir(parents=True)
    content = {"summary": summarise([cell], {"a": 40.0}), "settings": settings, "notes": []}
    (folder / "summary.json").write_text(json.dumps(content))
    path = report.write_report([shipped.folder_of("mini-bart-tabletop")], tmp_path / "report.html")
    assert "Transfer to tasks that were not trained" in path.read_text(encoding="utf8")


def test_a_run_that_has_not_finished_shows_its_curves(tmp_path):
    run = write_run(tmp_path / "run", finished=False)
    page = Page(report.write_report([run], tmp_path / "report.html").read_text(encoding="utf8"))
    assert "not finished" in page.text
    assert "hyperpelt" in page.text.split("trained values")[1]
    assert run_records.read_runs([run])[0].so_far == {"method": "hyperpelt", "backbone": None, "seed": 0, "steps": 5}
    (run / "checkpoints" / "step-12").mkdir(parents=True)
    assert run_records.read_runs([run])[0].so_far["steps"] == 12
    assert any(picture["alt"] == "training loss" for picture in page.pictures)


def test_curves_come_from_every_event_file_and_a_repeated_step_counts_once(tmp_path):
    for values in ((1.0, 2.0), (3.0, 4.0)):  # a resumed run logs into a further file
        writer = SummaryWriter(str(tmp_path))
        for step, value in enumerate(values, 1 if values[0] == 1.0 else 2):
            writer.add_scalar("train/loss", value, step)
        writer.close()
    (curve,) = run_records.read_curves(tmp_path).values()
    assert curve.steps == [1, 2, 3]
    assert curve.values[::2] == [1.0, 4.0]


SHARED = {"parts": [{"tuner": {"type": "lora", "rank": 1}, "at": "q", "source": "shared"}]}


def test_the_task_map_is_of_made_tensors_beside_their_mean_and_stands_in_order_of_likeness(tiny_t5):
    from hyperpelt.model.maps import task_map
    from hyperpelt.model.tuned import TunedModel

    model = TunedModel.build(tiny_t5, method={"name": "lora", "rank": 1}, tasks=["a", "b", "c", "d"])
    made = list(model.sources.parameters())
    with torch.no_grad():  # a and c are one, b and d another
        for task, value in enumerate((2.0, -1.0, 2.0, -1.0)):
            for parameter in made:
                parameter[task] = 1 + 0.1 * value
    found = task_map(model)
    wanted = [[1, -1, 1, -1], [-1, 1, -1, 1]] * 2
    np.testing.assert_allclose(found["cosines"], wanted, atol=1e-3)
    assert found["apart"] == pytest.approx([0.15 / 1.05] * 4, abs=1e-3)
    order = page._alike_together(np.array(found["cosines"]))
    assert {frozenset(order[:2]), frozenset(order[2:])} == {frozenset({0, 2}), frozenset({1, 3})}
    shown = "".join(page._task_map(found))
    assert "generated weights" in base64.b64decode(shown.split("base64,")[1].split('"')[0]).decode()
    assert task_map(TunedModel.build(tiny_t5, method=SHARED, tasks=["a", "b"])) is None
    assert task_map(TunedModel.build(tiny_t5, method="lora", tasks=["a"])) is None


def test_confusions_templates_and_worst_rows_are_shown_and_escaped():
    from hyperpelt.evaluation.results import Results, TaskResult
    from hyperpelt.report.rows import sections

    task = TaskResult(
        kind="classification",
        rows=7,
        metrics={"accuracy": 50.0},
        confusion={"choices": ["<yes>", "no"], "counts": [[3, 1], [2, 1]]},
        templates={"plain": {"accuracy": 40.0}, "asked": {"accuracy": 60.0}},
        worst=({"row": 3, "gold": "no", "answer": "<yes>", "probability": 0.87, "input": "a <b> c", "loss": 2.0},),
    )
    bare = TaskResult(kind="generation", rows=1, metrics={"exact_match": 1.0})
    text = "".join(sections(Results(tasks={"my/task": task, "my/bare": bare})))
    assert "<summary>my/task</summary>" in text
    assert "my/bare" not in text
    assert "&lt;yes&gt; (87 %)" in text
    assert "a &lt;b&gt; c" in text
    assert "50.00 ± 14.14" in text
    assert 'rgba(46, 125, 50, 0.56)">3<' in text
    assert list(sections(None)) == []


def test_fifty_curves_are_small_pictures_on_one_scale():
    curve = run_records.Curve([1, 2, 3], [3.0, 2.0, 1.0])
    many = {f"task-{number}": curve for number in range(50)}
    text = plots.small_multiples(many, title="loss", ylabel="nats")
    assert text.count("task-49") >= 1
    (shown,) = [part for part in page._curves({"train/loss": curve, **{f"train/loss/{n}": c for n, c in many.items()}})]
    assert shown.count("<img") == 1


def test_damage_is_named(tmp_path):
    run = write_run(tmp_path / "run")
    (run / "results.json").write_text("{")
    with pytest.raises(UserError, match=r"results\.json"):
        report.write_report([run], tmp_path / "report.html")
    with pytest.raises(UserError, match="no run folder and holds none"):
        report.write_report([tmp_path / "run" / "tensorboard"], tmp_path / "report.html")
    with pytest.raises(UserError, match="No run folder"):
        report.write_report([tmp_path / "absent"], tmp_path / "report.html")
    assert not (tmp_path / "report.html").exists()
