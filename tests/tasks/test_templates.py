"""Tasks with several templates: Jinja in a sandbox, promptsource's files, one drawn a row in training."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from small_runs import forget_tasks, write_run
from task_support import own_registry
from transformers import PreTrainedTokenizerBase

from hyperpelt import UserError, tasks, train
from hyperpelt.config import load_run
from hyperpelt.data import TemplatedSet, tokens_of
from hyperpelt.tasks.completing import complete
from hyperpelt.tasks.jinja import JinjaTemplate

ROWS = [{"premise": f"it is {w}", "hypothesis": "it is so", "label": i % 2} for i, w in enumerate("abcdefghijkl")]
YAML = """
name: my/infer
description: Does it follow?
source: {files: {train: rows.jsonl, validation: rows.jsonl, test: rows.jsonl}}
templates:
  - name: plain
    jinja: "{{premise}} so {{hypothesis}}? ||| {{answer_choices[label]}}"
    answer_choices: yes ||| no
  - name: long
    jinja: >-
      is it true that {{hypothesis}}, if {{premise}}? {% if premise %}true or false?{% endif %}
      ||| {{ answer_choices[label] }}
    answer_choices: [true, false]
"""
PROMPTSOURCE = """
dataset: my
templates:
  1234: !Template
    answer_choices: yes ||| no
    id: 1234
    jinja: "{{premise}} so {{hypothesis}}? ||| {{answer_choices[label]}}"
    metadata: !TemplateMetadata {choices_in_prompt: true, metrics: [Accuracy], original_task: true}
    name: theirs
    reference: ''
"""


def load(folder: Path, text: str = YAML) -> tasks.Task:
    (folder / "rows.jsonl").write_text("\n".join(map(json.dumps, ROWS)), encoding="utf8")
    path = folder / f"my-{len(list(folder.iterdir()))}.yaml"  # a file is loaded once
    path.write_text(text, encoding="utf8")
    tasks.load_plugin(path)
    return tasks.get("my/infer")


def test_every_template_renders_the_row_and_its_choices(tmp_path: Path) -> None:
    with own_registry():
        task = load(tmp_path)
        (plain, first), (long, second) = task.variants()
        assert (plain, long) == ("plain", "long")
        example = first.examples("test")[1]
        assert (example.input, example.target, example.choices) == ("it is b so it is so?", "no", ("yes", "no"))
        example = second.examples("test")[0]
        assert example.input == "is it true that it is so, if it is a? true or false?"
        assert (example.target, example.choices, example.label) == ("true", ("true", "false"), 0)
        asked = task.example({"premise": "p", "hypothesis": "h"}, answered=False)
        assert (asked.input, asked.target, asked.label, asked.choices) == ("p so h?", "", None, ("yes", "no"))
        assert task.fingerprint() != first.fingerprint() != second.fingerprint()


def test_a_file_of_promptsource_is_read_as_it_is(tmp_path: Path) -> None:
    (tmp_path / "templates.yaml").write_text(PROMPTSOURCE, encoding="utf8")
    head = YAML.split("templates:")[0]
    with own_registry():
        task = load(tmp_path, head + "templates: templates.yaml\n")
        assert [name for name, _ in task.templates] == ["theirs"]
        assert task.choices == ("yes", "no")
        assert task.examples("test")[0].target == "yes"
    (tmp_path / "templates.yaml").write_text("templates: [1]", encoding="utf8")
    with own_registry(), pytest.raises(UserError, match=r"templates.yaml is not a promptsource file"):
        load(tmp_path, head + "templates: templates.yaml\n")


@pytest.mark.parametrize(
    ("jinja", "words"),
    [
        ("{{premis}} ||| x", "needs a column that is not there. .*premise"),
        ("{{premise.x.y}} ||| x", "fails on this row"),
        ("{{premise + 1}} ||| x", "fails on this row"),
        ("{{ ''.__class__.__mro__ }} ||| x", "fails on this row"),
        ("{% for i in range(10**9) %}.{% endfor %} ||| x", "fails on this row"),
        ("{{premise}}", "writes no target"),
        ("||| x", "writes no input"),
    ],
)
def test_a_template_that_fails_on_a_row_is_told_with_its_name(jinja: str, words: str) -> None:
    template = JinjaTemplate(name="mine", jinja=jinja)
    with pytest.raises(UserError, match=f"the template 'mine' {words}"):
        template(ROWS[0])


def test_a_label_of_an_unlabelled_row_is_no_place_counted_from_the_end() -> None:
    template = JinjaTemplate(
        name="mine", jinja="{{premise.split()[-1]}} ||| {{answer_choices[label]}}", answer_choices="yes ||| no"
    )
    assert template(ROWS[1]).target == "no"
    assert template(ROWS[1]).input == "b"
    unlabelled = template({"premise": "it is a", "label": -1})
    assert (unlabelled.input, unlabelled.target, unlabelled.choices) == ("a", "", ("yes", "no"))
    with pytest.raises(UserError, match=r"unknown label -1: .*drop=\{column: -1\}"):
        complete("classification", unlabelled, None)
    assert complete("classification", unlabelled, None, answered=False).target == ""
    counted = JinjaTemplate(name="mine", jinja="{{premise}} ||| {{['yes', 'no'][label - 1]}}")
    assert [counted({"premise": "p", "label": label}).target for label in (1, 2)] == ["yes", "no"]
    with pytest.raises(UserError, match="the row has no answer"):
        complete("generation", counted({"premise": "p", "label": 0}), None)


def test_malformed_templates_and_mixed_keys_are_refused_at_once(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="the template 'mine' is malformed"):
        JinjaTemplate(name="mine", jinja="{{premise")
    with own_registry(), pytest.raises(UserError, match="input: a task with `templates` says this in them"):
        load(tmp_path, YAML + "input: x\n")
    with own_registry(), pytest.raises(UserError, match="images: a task with `templates` is text alone"):
        load(tmp_path, YAML + "images: x\n")
    with own_registry(), pytest.raises(UserError, match="templates: expected a list"):
        load(tmp_path, YAML.split("templates:")[0] + "templates: {a: b}\n")


def test_training_draws_a_template_for_a_row_each_time_and_again_the_same(
    tmp_path: Path, tiny_tokenizer: PreTrainedTokenizerBase
) -> None:
    with own_registry():
        task = load(tmp_path)
        lengths = {"max_source_length": 64, "max_target_length": 8, "cache_dir": tmp_path}
        tokens = tokens_of(task, "train", tiny_tokenizer, **lengths)
    assert isinstance(tokens, TemplatedSet)
    drawn = [[tokens.drawn(row, seed=3, step=step).input_ids.tolist() for row in range(12)] for step in range(20)]
    ways = [[part[row].input_ids.tolist() for part in tokens.parts] for row in range(12)]
    shares = np.mean([[drawn[step][row] == ways[row][0] for row in range(12)] for step in range(20)])
    assert 0.35 < shares < 0.65
    assert all(drawn[step][row] in ways[row] for step in range(20) for row in range(12))
    assert drawn == [[tokens.drawn(row, seed=3, step=s).input_ids.tolist() for row in range(12)] for s in range(20)]
    assert (tokens.source_lengths >= tokens.parts[0].source_lengths).all()
    assert drawn[0] != [tokens.drawn(row, seed=4, step=0).input_ids.tolist() for row in range(12)]


def test_a_run_on_templates_resumes_exactly_and_tells_each(tmp_path, tiny_tokenizer) -> None:
    (tmp_path / "rows.jsonl").write_text("\n".join(map(json.dumps, ROWS)), encoding="utf8")
    (tmp_path / "my.yaml").write_text(YAML, encoding="utf8")
    common = [*write_run(tmp_path, tiny_tokenizer), "tasks=my/infer", f"plugins={tmp_path / 'my.yaml'}", "save_steps=2"]
    runs = []
    try:
        whole = [*common, "max_steps=4", f"output_dir={tmp_path / 'whole'}"]
        runs.append(train(load_run(None, whole), progress=False))
        again = [*whole[:-1], f"output_dir={tmp_path / 'again'}", f"resume={tmp_path / 'whole/checkpoints/step-2'}"]
        runs.append(train(load_run(None, again), progress=False))
        with pytest.raises(UserError, match="loss=t-few compares a row's choices"):
            train(load_run(None, [*whole, "loss=t-few", "overwrite=true"]), progress=False)
    finally:
        forget_tasks()
        tasks.remove("my/infer")
    assert (tmp_path / "again/model.safetensors").read_bytes() == (tmp_path / "whole/model.safetensors").read_bytes()
    assert set(runs[0]["tasks"]["my/infer"]["templates"]) == {"plain", "long"}
    assert runs[0]["tasks"]["my/infer"]["spread"].keys() == {"accuracy"}
