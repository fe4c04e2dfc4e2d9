"""lm-evaluation-harness asks a trained run, and gets the numbers of `hyperpelt evaluate`."""

from __future__ import annotations

import importlib.util
import json
import sys
from pathlib import Path
from types import ModuleType

import pytest
import torch
from small_runs import forget_tasks, write_run
from transformers import PreTrainedTokenizerBase

from hyperpelt import TunedModel, UserError, cli, evaluate, tasks, train
from hyperpelt.commands import lm_eval as command
from hyperpelt.config import load_run

needs_harness = pytest.mark.skipif(
    importlib.util.find_spec("lm_eval") is None,
    reason="lm-evaluation-harness is not installed: pip install 'hyperpelt[lm-eval]'",
)
CHOICE = """
task: local_mood
dataset_path: json
dataset_kwargs: {{data_files: {{test: {rows}}}}}
test_split: test
output_type: multiple_choice
doc_to_text: "mood: {{{{text}}}}"
doc_to_choice: [bad, good]
doc_to_target: label
metric_list: [{{metric: acc}}]
"""
OPEN = """
task: local_open
dataset_path: json
dataset_kwargs: {{data_files: {{test: {rows}}}}}
test_split: test
output_type: generate_until
doc_to_text: "mood: {{{{text}}}}"
doc_to_target: "{{{{['bad', 'good'][label]}}}}"
generation_kwargs: {{until: ["\\n"], max_gen_toks: 4}}
metric_list: [{{metric: exact_match}}]
"""
ROLLING = """
task: local_texts
dataset_path: json
dataset_kwargs: {{data_files: {{test: {rows}}}}}
test_split: test
output_type: loglikelihood_rolling
doc_to_text: ""
doc_to_target: "{{{{text}}}}"
metric_list: [{{metric: word_perplexity}}]
"""


@pytest.fixture
def run(tmp_path: Path, tiny_tokenizer: PreTrainedTokenizerBase):
    train(load_run(None, [*write_run(tmp_path, tiny_tokenizer), "max_steps=3", "test_limit=2"]), progress=False)
    rows = tmp_path / "rows.jsonl"
    found = tasks.get("toy/mood").rows("test")
    rows.write_text("\n".join(json.dumps(row) for row in found), encoding="utf8")
    (tmp_path / "asked").mkdir()
    for name, text in (("mood", CHOICE), ("open", OPEN), ("texts", ROLLING)):
        (tmp_path / "asked" / f"{name}.yaml").write_text(text.format(rows=rows), encoding="utf8")
    yield tmp_path / "run"
    forget_tasks()


@needs_harness
def test_the_harness_gets_the_numbers_of_evaluate(run: Path, tmp_path: Path, monkeypatch, capsys) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setenv("HF_DATASETS_CACHE", str(tmp_path / "cache"))
    before = list(sys.argv)
    words = ["--model", "hyperpelt", "--model_args", f"run={run},task=toy/mood", "--device", "cpu", "--batch_size", "3"]
    words += ["--tasks", "local_mood,local_open,local_texts", "--include_path", str(tmp_path / "asked")]
    words += ["--output_path", str(tmp_path / "out"), "--log_samples"]
    assert cli.run(["lm-eval", *words]) == 0, capsys.readouterr().err[-2000:]
    assert sys.argv == before
    (written,) = (tmp_path / "out").rglob("results_*.json")
    found = json.loads(written.read_text())["results"]
    model = TunedModel.from_pretrained(run)
    ours = evaluate(model, ["toy/mood"], batch_size=4, max_source_length=32, log_samples=tmp_path / "ours.jsonl")
    assert 100 * found["local_mood"]["acc,none"] == pytest.approx(ours.tasks["toy/mood"].metrics["accuracy"])
    mine = [json.loads(line) for line in (tmp_path / "ours.jsonl").read_text().splitlines()]
    (samples,) = (tmp_path / "out").rglob("samples_local_mood_*.jsonl")
    theirs = {row["doc"]["text"]: row for row in map(json.loads, samples.read_text().splitlines())}
    for row in mine:
        answers = theirs[row["input"].removeprefix("mood: ")]["filtered_resps"]
        assert [float(score) for score, _ in answers] == pytest.approx(list(row["scores"].values()), abs=1e-4)
    (samples,) = (tmp_path / "out").rglob("samples_local_open_*.jsonl")
    for row in map(json.loads, samples.read_text().splitlines()):
        alone = model.generate([f"mood: {row['doc']['text']}"], task="toy/mood", max_new_tokens=4, max_source_length=32)
        assert row["filtered_resps"][0] == alone[0].strip()
    assert found["local_texts"]["word_perplexity,none"] > 1


@torch.no_grad()
def test_log_likelihoods_are_those_of_one_plain_forward_each(run: Path, capsys) -> None:
    scorer = command.Scorer(str(run), "toy/truth", batch_size=2)
    model, tokenizer = scorer.model, scorer.model.tokenizer
    pairs = [("a good sentence", " true"), ("bad", " false"), ("a good sentence", " not true"), ("bad", "true")]
    generated = scorer.generate([("bad", {"until": ["\n"], "max_gen_toks": 3})])[0]
    pairs.append(("bad", generated))
    found = scorer.log_likelihoods(pairs)
    task = torch.tensor([model.task_id("toy/truth")])
    for (context, text), (value, greedy) in zip(pairs, found, strict=True):
        labels = torch.tensor([tokenizer(text_target=text.strip())["input_ids"][:-1]])
        logits = model(torch.tensor([tokenizer(context)["input_ids"]]), labels=labels, task_ids=task).logits
        each = logits.double().log_softmax(-1)[0].gather(1, labels[0][:, None])
        assert value == pytest.approx(float(each.sum()), abs=1e-4)
        assert greedy == bool((logits[0].argmax(-1) == labels[0]).all())
    labels = torch.tensor([tokenizer(text_target="a good sentence")["input_ids"][:-1]])
    logits = model(torch.tensor([tokenizer("")["input_ids"]]), labels=labels, task_ids=task).logits
    wanted = logits.double().log_softmax(-1)[0].gather(1, labels[0][:, None]).sum()
    assert scorer.rolling(["a good sentence"])[0] == pytest.approx(float(wanted), abs=1e-4)
    assert command._until("one. two; three", [";", "."]) == "one"
    assert "cut" not in capsys.readouterr().err
    long = "good " * 60  # as examples before a question make it
    scorer.log_likelihoods([(long, "true"), (long, "false"), ("bad", "true")])
    assert "lm-eval: 1 of 2 contexts were cut at the run's max_source_length=32 tokens" in capsys.readouterr().err
    scorer.generate([(long, {"max_gen_toks": 2})])
    assert "1 of 1 contexts were cut" in capsys.readouterr().err


@pytest.mark.parametrize(("code", "status"), [("no such task", 2), (None, 0), (2, 2)])
def test_how_the_harness_ends_is_how_the_command_ends(code: object, status: int, monkeypatch, capsys) -> None:
    harness = ModuleType("lm_eval.__main__")
    harness.cli_evaluate = lambda: sys.exit(code)
    monkeypatch.setattr(command, "register", lambda: None)
    monkeypatch.setitem(sys.modules, "lm_eval", ModuleType("lm_eval"))
    monkeypatch.setitem(sys.modules, "lm_eval.__main__", harness)
    assert cli.run(["lm-eval", "--tasks", "x"]) == status
    assert ("no such task" in capsys.readouterr().err) is (code == "no such task")


def test_what_is_wrong_is_said_in_a_sentence(run: Path, monkeypatch, capsys) -> None:
    with pytest.raises(UserError, match=r"Name one of the run's tasks: --model_args run=.*,task=toy/mood"):
        command.Scorer(str(run))
    with pytest.raises(UserError, match="Did you mean 'toy/mood'"):
        command.Scorer(str(run), "toy/modd")
    command.register.cache_clear()
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "lm_eval" else find(name))
    assert cli.run(["lm-eval", "--model", "hyperpelt"]) == 2
    assert "pip install 'hyperpelt[lm-eval]'" in capsys.readouterr().err
    command.register.cache_clear()
