"""What would end a run after its last step is refused before its first one: evaluations are rehearsed."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from small_models import make_bart
from small_runs import forget_tasks, write_run

from hyperpelt import Example, Generator, Task, TunedModel, UserError, metrics
from hyperpelt import tasks as registry
from hyperpelt.backbones import load_tokenizer
from hyperpelt.config import load_run
from hyperpelt.data import encode_inputs
from hyperpelt.tasks import check_task
from hyperpelt.tasks.measured import untokenised
from hyperpelt.training import train


@metrics.register("toy_fragile", kinds=("classification",), description="fails on eight rows")
def fragile(predictions: Any, labels: Any, groups: Any = None) -> float:
    return 1 / (len(labels) - 8)


@pytest.fixture
def settings(tiny_tokenizer: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    monkeypatch.setenv("HYPERPELT_CACHE", str(tmp_path / "cache"))
    before = set(registry.names())
    yield write_run(tmp_path, tiny_tokenizer, family="bart")
    for name in set(registry.names()) - before:
        registry.remove(name)
    forget_tasks()


def rows(split: str) -> list[dict[str, Any]]:
    """Only the rows of the test split, and late rows of train, are strange."""
    many = 40 if split == "train" else 8
    return [{"n": n, "odd": split == "test" or n >= 30, "label": n % 2} for n in range(many)]


def word(row: dict[str, Any]) -> str:
    return "bad " * (60 if row["odd"] else 1)


RENDERS = {
    "ending": lambda r: Example(input=word(r) + "good.", ending="good" if r["odd"] else "good.", label=r["label"]),
    "long": lambda r: Example(input="good", choices=("yes", "no " * (600 if r["odd"] else 1)), label=r["label"]),
    "ungrouped": lambda r: Example(input="good", label=r["label"], group=None if r["odd"] else r["n"]),
    "metric": lambda r: Example(input="good", label=r["label"]),
    "late": lambda r: Example(input="good", label=r["label"] if r["n"] < 30 else 7),
}
EXPECTED = {
    "ending": r"split t(est|rain), row \d+: the input ends in '.*good\.', not in its ending 'good'",
    "long": r"split test, row 0: the choice 'no no .*' has \d+ tokens, and .* has \d+ positions",
    "ungrouped": "split test: group_exact_match needs a group for every row",
    "metric": "split test: the metric 'toy_fragile' fails on the gold answers with ZeroDivisionError",
    "late": "split train, row 30",  # which the majority answer is taken of, and training with train_limit is not
}
METRICS = {"ungrouped": ("group_exact_match",), "metric": ("toy_fragile",)}


def make(name: str) -> Task:
    return Task(
        name=f"odd/{name}",
        source=Generator(rows),
        render=RENDERS[name],
        choices=None if name == "long" else ("no", "yes"),
        metrics=METRICS.get(name, ("accuracy",)),
        description="Odd?",
    )


@pytest.mark.parametrize("name", RENDERS)
def test_nothing_ends_a_run_after_its_last_step(settings: list[str], tmp_path: Path, name: str) -> None:
    registry.register(make(name))
    limit = ["train_limit=4"] if name == "late" else []
    with pytest.raises(UserError, match=EXPECTED[name]):
        train(load_run(None, [*settings, f"tasks=odd/{name}", "max_source_length=32", *limit]), progress=False)
    assert not (tmp_path / "run" / "run.yaml").exists()


@pytest.mark.parametrize("name", ["ending", "long", "ungrouped", "metric"])
def test_check_says_so_too(tiny_tokenizer: Any, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.setattr(tiny_tokenizer, "model_max_length", 128)
    report = check_task(make(name), tokenizer=tiny_tokenizer)
    words = {
        "ending": "not in its ending",
        "long": "more than the 128",
        "ungrouped": "needs a group",
    }
    found = [finding.message for finding in report.findings if finding.level == "error"]
    assert any(words.get(name, "toy_fragile") in message for message in found), found


def test_an_ending_of_no_token_is_named() -> None:
    tokenizer = load_tokenizer("mini-bart")
    text = "bad " * 60 + " \u200b"
    with pytest.raises(UserError, match=r"makes no token from the ending ' \\u200b'"):
        encode_inputs(tokenizer, [text], 32, [" \u200b"])
    found = [
        str(finding) for finding in untokenised("test", [(0, Example(input=text, ending=" \u200b"))], tokenizer, 32)
    ]
    assert "1 row with an ending that the tokenizer makes no token of" in found[0]


def test_choices_that_fit_are_evaluated(tiny_tokenizer: Any) -> None:
    from hyperpelt.evaluation.answers import Settings
    from hyperpelt.evaluation.rehearsal import rehearse

    model = TunedModel.build(make_bart(), method="bitfit", tasks=["odd/long"], tokenizer=tiny_tokenizer)
    rehearse(model, make("long"), "validation", Settings())
