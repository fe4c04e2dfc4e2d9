"""A small trained run and a plugin with tasks that it never saw; made once a module of tests."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from small_runs import PLUGIN, write_run
from task_support import own_registry
from transformers import PreTrainedTokenizerBase

from hyperpelt.config import load_run
from hyperpelt.tasks import plugins
from hyperpelt.training import train

UNSEEN = """

@task(name="toy/word", source=Generator(rows), choices=("bad", "good"), description="Is the word good or bad?")
def word(row):
    return Example(input=f"word: {row['text']}", label=row["label"])


@task(name="toy/pick", source=Generator(rows), description="Which of the two is it?")
def pick(row):
    return Example(input=f"pick: {row['text']}", choices=("true of", "false to", "maybe")[: 2 + row["label"]], label=1)


@task(name="toy/echo", source=Generator(rows), kind="generation", metrics=("exact_match",), description="Say it again.")
def echo(row):
    return Example(input=row["text"], target=row["text"].split()[0])
"""
SIZES = "prefix_length: 3, prefix_hidden: 8, bottleneck: 4, embedding_dim: 8"
METHOD = f"{{name: hyperpelt, {SIZES}, description_dropout: 0.5}}"


@contextmanager
def trained_run(folder: Path) -> Iterator[Path]:
    """A trained run of two tasks whose plugin has three more; these are registered inside."""
    from conftest import tiny_tokenizer

    with pytest.MonkeyPatch.context() as patch, own_registry():
        patch.setenv("HYPERPELT_CACHE", str(folder / "cache"))
        patch.setenv("HYPERPELT_FEATURES", str(folder / "features"))
        patch.setattr(plugins, "_NAMED", {})
        yield make_run(folder, tiny_tokenizer.__wrapped__())


def make_run(
    folder: Path,
    tokenizer: PreTrainedTokenizerBase,
    *,
    family: str = "t5",
    method: str = METHOD,
    vocab_size: int = 128,
    **settings: object,
) -> Path:
    """Train a small run below `folder` and return its folder; the tasks of its plugin stay registered."""
    overrides = write_run(folder, tokenizer, family=family, vocab_size=vocab_size)
    (folder / "toy_plugin.py").write_text(PLUGIN + UNSEEN, encoding="utf8")
    named = {"method": method, **settings}
    kept = [override for override in overrides if override.partition("=")[0] not in named]
    train(load_run(None, [*kept, *(f"{key}={value}" for key, value in named.items())]), progress=False)
    return folder / "run"
