"""What every case starts from: a tiny T5 with a tokenizer, a plugin with two tasks, a trained run over them."""

from __future__ import annotations

import io
import os
import shutil
import signal
import sys
from collections.abc import Sequence
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from typing import Any

PLUGIN = """
from hyperpelt import Example, Generator, task

WORDS = "good bad true false maybe yes no sentence the a".split()


def rows(split):
    count = {"train": 32, "validation": 6, "test": 6}[split]
    return [{"text": " ".join(WORDS[(i * 7 + j) % 10] for j in range(1 + i % 5)), "label": i % 2} for i in range(count)]


@task(name="toy/mood", source=Generator(rows), choices=("bad", "good"), description="Good or bad?")
def mood(row):
    return Example(input=f"mood: {row['text']}", label=row["label"])


@task(name="toy/truth", source=Generator(rows), choices=("false", "true"), description="True or false?")
def truth(row):
    return Example(input=f"is it true: {row['text']}", label=1 - row["label"])
"""
PICTURES = """
from PIL import Image
from hyperpelt import Example, Generator, task

COUNT = {"train": 12, "validation": 4, "test": 4}


@task(name="pictures/colour", source=Generator(lambda split: [{"n": n} for n in range(COUNT[split])]),
      choices=("no", "yes"), modalities=("text", "image"))
def colour(row):
    picture = Image.new("RGB", (12, 9), (20 * row["n"], 90, 7))
    return Example(input="is it so", images=(picture,), label=row["n"] % 2)
"""
SETTINGS = """\
backbone: {backbone}
method: {{name: hyperpelt, prefix_length: 2, prefix_hidden: 8, bottleneck: 2}}
tasks: [toy/mood]
plugins: [{plugin}]
output_dir: {output}
max_steps: 4
save_steps: 2
per_device_train_batch_size: 4
max_source_length: 16
max_target_length: 4
log_steps: 2
frozen_row: false
use_cpu: true
"""
LIMIT = 180  # seconds after which a command hangs


@dataclass(frozen=True)
class Said:
    """How a command ended. status 1: a defect."""

    status: int
    out: str
    err: str

    @property
    def fault(self) -> str:
        """What is not as promised: a defect, a traceback, a hang, more than a few sentences, a terminal's commands."""
        if self.status not in (0, 2):
            return f"exit {self.status}: {self.err[-300:]}"
        if "Traceback (most recent" in self.err:
            return f"traceback: {self.err[-300:]}"
        if self.status == 2 and "hyperpelt: " not in self.err:
            return "exit 2 without a sentence"
        if len(self.err) > 20_000:
            return f"{len(self.err):,} letters on stderr"
        return "an escape sequence was printed" if "\x1b" in self.err + self.out else ""


class _Hung(BaseException):
    """A command takes too long."""


def _hung(*_: object) -> None:
    raise _Hung(f"it runs for {LIMIT} s by now")


def command(*arguments: object, stdin: bytes = b"") -> Said:
    """A command line of hyperpelt in this process. No exception comes out, and what hangs is ended."""
    from hyperpelt import cli

    out, err, before, deepest = io.StringIO(), io.StringIO(), sys.stdin, sys.getrecursionlimit()
    signal.signal(signal.SIGALRM, _hung)
    signal.alarm(LIMIT)
    sys.stdin = io.TextIOWrapper(io.BytesIO(stdin), encoding="utf8", errors="surrogateescape")
    try:
        with redirect_stdout(out), redirect_stderr(err):
            status = cli.run([str(argument) for argument in arguments])
    except BaseException as error:
        status = 1
        err.write(f"{type(error).__name__} came out: {error}")
    finally:
        signal.alarm(0)
        sys.stdin = before
        sys.setrecursionlimit(deepest)  # which a plugin may have changed
    return Said(status, out.getvalue(), err.getvalue())


class Place:
    """A folder with all of it; made once."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder.resolve()
        self.backbone, self.plugin = self.folder / "t5", self.folder / "toy_plugin.py"
        self.pictures = self.folder / "pictures_plugin.py"
        self.settings, self.run = self.folder / "run.yaml", self.folder / "run"
        self.mergeable = self.folder / "lora"  # a run that can be merged into its backbone
        self.scratch = self.folder / "scratch"
        os.environ["HYPERPELT_CACHE"] = str(self.folder / "cache")

    def make(self) -> Place:
        """Build what is not there yet."""
        if not (self.mergeable / "results.json").exists():
            shutil.rmtree(self.folder, ignore_errors=True)
            self.folder.mkdir(parents=True)
            _save_backbone(self.backbone)
            self.plugin.write_text(PLUGIN, encoding="utf8")
            self.settings.write_text(self.text(self.run), encoding="utf8")
            for output, method in ((self.run, "hyperpelt"), (self.mergeable, "lora")):
                changes = [f"output_dir={output}"] + ([f"method={method}"] if method == "lora" else [])
                said = command("train", self.settings, *changes)
                assert said.status == 0, said.err
        self.pictures.write_text(PICTURES, encoding="utf8")
        self._warm()
        return self

    def _warm(self) -> None:
        """Import here what every forked process would import anew."""
        from hyperpelt.export import merging  # noqa: F401
        from hyperpelt.transfer import bench, summary  # noqa: F401
        from hyperpelt.vision import filters, stores  # noqa: F401

        once = ["tasks", "list", "pictures/*", "--plugin", self.pictures]  # a plugin is loaded once in a process
        for given in (once, ["train", self.settings, f"output_dir={self.fresh() / 'run'}", "max_steps=1"]):
            assert (said := command(*given)).status == 0, said.err

    def text(self, output: Path) -> str:
        """run.yaml of a run into `output`."""
        return SETTINGS.format(backbone=self.backbone, plugin=self.plugin, output=output)

    def fresh(self) -> Path:
        """An empty folder, the same for every case."""
        shutil.rmtree(self.scratch, ignore_errors=True)
        self.scratch.mkdir(parents=True)
        return self.scratch


def _save_backbone(folder: Path) -> None:
    import torch
    from transformers import T5Config, T5ForConditionalGeneration, T5Tokenizer

    words = [
        f"\u2581{word}"
        for word in ["good", "bad", "true", "false", "maybe", "yes", "no", "sentence", "the", "a", "is", "it", "mood"]
    ]
    pieces = [*words, "\u2581", *"abcdefghijklmnopqrstuvwxyz0123456789.,:?!'-_/()"]
    special: list[tuple[str, float]] = [("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0)]
    vocabulary = [*special, *((piece, -2.0 - place / 100) for place, piece in enumerate(pieces))]
    tokenizer: Any = T5Tokenizer(vocab=vocabulary, extra_ids=10)
    torch.manual_seed(0)
    shape: dict[str, Any] = {"decoder_start_token_id": 0, "pad_token_id": 0, "eos_token_id": 1}
    config = T5Config(
        vocab_size=128, d_model=16, d_ff=16, d_kv=8, num_layers=1, num_decoder_layers=1, num_heads=2,
        dropout_rate=0.0, **shape,
    )  # fmt: skip
    T5ForConditionalGeneration(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def forget(names: Sequence[str]) -> None:
    """Take tasks out of the registry that a case brought."""
    from hyperpelt import tasks

    for name in set(tasks.names()) - set(names):
        tasks.remove(name)
