"""docs/tasks.md: its examples run, its two ways to write one task agree, and its table is the registry's."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from task_support import own_registry

from hyperpelt import metrics as known_metrics
from hyperpelt import tasks

PAGE = (Path(__file__).parents[2] / "docs" / "tasks.md").read_text(encoding="utf8")


def block(language: str) -> str:
    return re.search(rf"```{language}\n(.*?)```", PAGE, flags=re.DOTALL)[1]


@pytest.mark.parametrize("file", ["my_tasks.py", "claims.yaml"])
def test_the_examples_are_plugins_that_read_the_page_s_rows(file: str, tmp_path: Path) -> None:
    (tmp_path / "claims.csv").write_text(block("csv"), encoding="utf8")
    (tmp_path / file).write_text(block("python" if file.endswith("py") else "yaml"), encoding="utf8")
    with own_registry():
        assert tasks.load_plugin(tmp_path / file) == ["my/claims"]
        task = tasks.get("my/claims")
        rendered = {e.input: e.target for split in task.splits.names() for e in task.examples(split)}
        assert len(rendered) == 6
        assert rendered["claim: Water is wet."] == "true"
        assert [len(task.rows(split)) for split in task.splits.names()] == [4, 1, 1]
        assert (task.metrics, task.choices) == (("accuracy", "f1"), ("false", "true"))


def test_the_table_of_built_in_tasks_is_complete_and_true() -> None:
    rows = [line.split("|")[1:-1] for line in PAGE.split("## Built in")[1].splitlines() if line.startswith("| `")]
    listed = {name: row for row in rows for name in re.findall(r"`(.+?)`", row[0])}
    builtin = {name for name in tasks.names() if "hyperpelt_tasks" in tasks.get(name).render.__module__}
    assert set(listed) == {name for name in builtin if tasks.get(name).source.describe().startswith("hub ")}
    for name, (_, source, choices, metrics, splits) in listed.items():
        task = tasks.get(name)
        assert source.split()[0].strip(",") == task.source.describe().split()[1].strip(","), name
        assert metrics.strip() == ", ".join(task.metrics), name
        if task.choices and task.kind == "classification":
            assert choices.strip() == ", ".join(task.choices), name
        halved = str(task.splits.part("test")).endswith("[0.5:]")
        held_out = str(task.splits.train) == "train[1000:]"
        assert ("halved" in splits, "held out" in splits) == (halved, held_out), name


def test_every_metric_is_listed_and_the_example_of_another_one_runs() -> None:
    section = PAGE.split("## Metrics")[1].split("## Splits")[0]
    listed = re.findall(r"\| `(.+?)` \| (.+?) \|", section)
    own = {name for name in known_metrics.names() if not name.startswith(("toy_", "mine/"))}
    assert dict(listed) == {name: known_metrics.get(name).description for name in own}
    code = re.search(r"```python\n(.*?)```", section, flags=re.DOTALL)[1]
    exec(code, {})
    assert known_metrics.compute(["mine/within_one"], [1.0, 5.0], [2.0, 2.0]) == {"mine/within_one": 50.0}
