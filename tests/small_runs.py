"""Small whole training runs: a saved backbone, a plugin with tasks, and settings; for tests and their subprocesses."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from small_models import make_bart, make_t5
from transformers import PreTrainedTokenizerBase

from hyperpelt import tasks as registry

PLUGIN = """
from hyperpelt import Example, Generator, task

WORDS = "good bad true false maybe yes no sentence the a".split()


def rows(split, count=None):
    start = {"train": 0, "validation": 1000, "test": 2000}[split]
    count = count or {"train": 48, "validation": 8, "test": 8}[split]
    return [
        {"text": " ".join(WORDS[(i * 7 + j) % 10] for j in range(1 + i % 9)), "label": i % 2}
        for i in range(start, start + count)
    ]


@task(name="toy/mood", source=Generator(rows), choices=("bad", "good"), description="Good or bad?")
def mood(row):
    return Example(input=f"mood: {row['text']}", label=row["label"])


@task(name="toy/truth", source=Generator(rows), choices=("false", "true"), description="True or false?")
def truth(row):
    label = None if row["label"] is None else 1 - row["label"]
    return Example(input=f"is it true: {row['text']} {row['text']}", label=label)
"""

MAKERS = {"t5": make_t5, "bart": make_bart}
# Widths that suit a model of width 32.
METHOD = "{name: hyperpelt, prefix_length: 4, prefix_hidden: 16, bottleneck: 4}"


def write_run(folder: Path, tokenizer: PreTrainedTokenizerBase, *, family: str = "t5", **model: Any) -> list[str]:
    """Save a small backbone and the plugin below `folder`; returns overrides that train on them."""
    folder.mkdir(parents=True, exist_ok=True)
    backbone = folder / family
    MAKERS[family](**model).save_pretrained(backbone)
    tokenizer.save_pretrained(backbone)
    plugin = folder / "toy_plugin.py"
    plugin.write_text(PLUGIN, encoding="utf8")
    settings = {
        "backbone": backbone,
        "method": METHOD,
        "tasks": "toy/mood,toy/truth",
        "plugins": plugin,
        "output_dir": folder / "run",
        "max_steps": 4,
        "per_device_train_batch_size": 8,
        "learning_rate": 0.01,
        "max_source_length": 32,
        "max_target_length": 8,
        "log_steps": 2,
        "frozen_row": "false",
        "use_cpu": "true",
    }
    return [f"{key}={value}" for key, value in settings.items()]


def forget_tasks() -> None:
    """Take the plugin's tasks out of the registry, so that another copy of it can be loaded in this process."""
    for name in registry.names("toy/*"):
        registry.remove(name)
