"""The model card of a tuned model on the hub: what it is, how well it does its tasks, how to use it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from hyperpelt.backbones import embedded
from hyperpelt.files.reading import read_object

HEADER = ("library_name: hyperpelt", "pipeline_tag: text2text-generation", "tags:", "- hyperpelt", "- peft")


def card(config: Mapping[str, Any], *, repo_id: str, run: Path | None = None) -> str:
    """README.md, with the metadata that the hub reads, of a model's `config.json`.

    run: the run folder, whose results are listed where it has some.
    """
    backbone, method = str(config["backbone"]), str(config["method"]["name"])
    tasks = [str(task["name"]) for task in config["tasks"]]
    head = ["---", *_base(backbone), *HEADER, f"- {method}", "---", "", f"# {repo_id.rpartition('/')[2]}", ""]
    about = (
        f"{method} on `{backbone or 'a backbone built in Python'}`, trained with hyperpelt "
        f"{config['hyperpelt_version']} on {len(tasks)} task{'s' * (len(tasks) != 1)}: "
        f"{', '.join(f'`{task}`' for task in tasks)}. This repository holds what was trained, not the backbone."
    )
    return "\n".join([*head, about, "", *_results(run), *_use(repo_id, tasks)]) + "\n"


def _base(backbone: str) -> list[str]:
    """The hub's link to the backbone, if it is on the hub."""
    on_hub = backbone.count("/") == 1 and backbone not in embedded.NAMES and not Path(backbone).exists()
    return [f"base_model: {backbone}"] if on_hub else []


def _results(run: Path | None) -> Iterator[str]:
    path = None if run is None else run / "results.json"
    if path is None or not path.is_file():
        return
    content = read_object(path)
    yield from (f"## Results ({content.get('split', 'test')} split)", "", "| task | metric | score | majority | rows |")
    yield "|---|---|---|---|---|"
    for name, task in content["tasks"].items():
        for metric, score in task["metrics"].items():
            beside = ((task.get("majority") or {}).get("metrics") or {}).get(metric)
            yield f"| {name} | {metric} | {_points(score)} | {_points(beside)} | {task['rows']:,} |"
    if content.get("average") is not None:
        yield f"| average | | {_points(content['average'])} | | |"
    yield ""


def _points(score: float | None) -> str:
    return "-" if score is None else f"{score:.2f}"


def _use(repo_id: str, tasks: Sequence[str]) -> Iterator[str]:
    yield from ("## Use", "", "```bash", "pip install hyperpelt")
    yield f"hyperpelt predict {repo_id} --task {tasks[0]} rows.jsonl"
    yield from ("```", "", "```python", "from hyperpelt import TunedModel", "")
    yield f'model = TunedModel.from_pretrained("{repo_id}")'
    yield f'model.score(["..."], choices=["...", "..."], task="{tasks[0]}")'
    yield from (
        "```",
        "",
        "Tasks that do not come with hyperpelt need the plugin that defines them (`--plugin FILE`).",
    )
