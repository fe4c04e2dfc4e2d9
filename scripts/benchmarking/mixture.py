"""Training on real text, end to end: rows a second of ours and of transformers' Trainer with PEFT's LoRA.

Data, batches, steps and optimiser are in the clock; setting up is not. All read the same rows of the same tasks,
cut at the same length; the Trainer is given them tokenised beforehand and shuffled together, as people do. Every
contestant runs for the same number of steps in turn, several times over. Length grouping shows its worth over some 50
steps at least: the Trainer sorts the rows of 50 batches, longest first, and ours those of 32.
"""

from __future__ import annotations

import itertools
import logging
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from benchmarking.timing import Step, interleaved, now
from hyperpelt.backbones import load_backbone, load_tokenizer
from hyperpelt.config import build_run
from hyperpelt.model.inputs import inputs_of
from hyperpelt.training.distributed import start_processes
from hyperpelt.training.objective import total_loss
from hyperpelt.training.optimisation import make_optimizer
from hyperpelt.training.setup import Setup, prepare

# The paper's widths, those of scripts/glue_cpu.yaml, and the peer's own method.
OURS: dict[str, dict[str, Any]] = {
    "hyperpelt": {"name": "hyperpelt"},
    "hyperpelt, 8 rows": {"name": "hyperpelt", "prefix_length": 8, "bottleneck": 24},
    "lora": {"name": "lora", "rank": 8},
}
PEERS = {"Trainer + peft-lora, random": False, "Trainer + peft-lora, grouped by length": True}


def measure(
    *,
    backbone: str,
    tasks: str,
    rows: int,
    steps: int,
    length: int,
    data_root: str | None,
    repeats: int,
    train_limit: int,
) -> list[dict[str, Any]]:
    """One row a contestant: `rows_per_second`, and its ratio to the Trainer with random batches."""
    logging.getLogger("transformers").setLevel(logging.ERROR)
    with tempfile.TemporaryDirectory() as folder:
        setups = {
            name: _setup(name, backbone, tasks, rows, length, data_root, Path(folder), train_limit) for name in OURS
        }
        budget = _Budget()
        runs: dict[str, Step] = {name: _ours(setup, budget) for name, setup in setups.items()}
        first = next(iter(setups.values()))
        for name, grouped in PEERS.items():
            runs[name] = _peer(first, backbone, rows, budget, grouped=grouped, folder=Path(folder))
        interleaved(runs, repeats=1, warmup=0)
        budget.steps = steps
        seconds = interleaved(runs, repeats=repeats, warmup=0)
    random = seconds[next(iter(PEERS))]
    return [
        {
            "method": name,
            "rows_per_second": rows * steps / value,
            "ratio_to_random": random / value,
            "ratio_to_grouped": seconds[list(PEERS)[1]] / value,
        }
        for name, value in seconds.items()
    ]


@dataclass
class _Budget:
    """How many steps a call makes: one to warm up, then as many as were asked for."""

    steps: int = 1


def _setup(
    method: str,
    backbone: str,
    tasks: str,
    rows: int,
    length: int,
    data_root: str | None,
    folder: Path,
    train_limit: int,
) -> Setup:
    keys = {
        "backbone": backbone,
        "method": OURS[method],
        "tasks": tasks.split(","),
        "output_dir": str(folder / method),
        "max_steps": 1_000_000,
        "learning_rate": 3e-4,
        "per_device_train_batch_size": rows,
        "max_source_length": length,
        "max_target_length": 16,
        "train_limit": train_limit,
        # As a Trainer draws rows that were put together: some tasks' are longer than others'.
        "mixing": {"strategy": "proportional"},
        "data_root": data_root,
    }
    config = build_run({name: value for name, value in keys.items() if value is not None})
    return prepare(config, start_processes(use_cpu=not torch.cuda.is_available()))


def _ours(setup: Setup, budget: _Budget) -> Step:
    """Each call goes on where the last one stopped."""
    optimizer = make_optimizer(setup.config, setup.model.trainable_parameters(), setup.model.learning_rate_scales())
    batches: Iterator[Any] = setup.steps(0)
    setup.model.train()

    def run() -> None:
        for (batch,) in itertools.islice(batches, budget.steps):
            total_loss(setup.model(**inputs_of(batch, setup.processes.device)), batch).backward()
            torch.nn.utils.clip_grad_norm_([p for _, p in setup.model.trainable_parameters()], 1.0)
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)

    return run


class _Rows(torch.utils.data.Dataset[dict[str, list[int]]]):
    """The tokenised rows of all tasks, one after the other."""

    def __init__(self, setup: Setup) -> None:
        self.rows = [row for tokens in setup.sets.values() for row in map(tokens.__getitem__, range(len(tokens)))]

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> dict[str, list[int]]:
        row = self.rows[index]
        return {"input_ids": row.input_ids.tolist(), "labels": row.labels.tolist()}


def _peer(setup: Setup, backbone: str, rows: int, budget: _Budget, *, grouped: bool, folder: Path) -> Step:
    from peft import LoraConfig, get_peft_model
    from transformers import (
        DataCollatorForSeq2Seq,
        PrinterCallback,
        Seq2SeqTrainer,
        Seq2SeqTrainingArguments,
        TrainerCallback,
    )

    names = ["q", "v"] if setup.model.backbone.config.model_type == "t5" else ["q_proj", "v_proj"]
    model = get_peft_model(load_backbone(backbone), LoraConfig(r=8, target_modules=names, task_type="SEQ_2_SEQ_LM"))
    tokenizer, data = load_tokenizer(backbone), _Rows(setup)
    arguments: dict[str, Any] = {"train_sampling_strategy": "group_by_length"} if grouped else {}
    seeds = itertools.count()

    class Clock(TrainerCallback):
        """Seconds from the first batch on: what the Trainer does before is set-up."""

        began = ended = 0.0

        def on_epoch_begin(self, *_: Any, **__: Any) -> None:
            self.began = self.began or now()

        def on_train_end(self, *_: Any, **__: Any) -> None:
            self.ended = now()

    def run() -> float:
        settings = Seq2SeqTrainingArguments(
            str(folder / f"trainer-{grouped}"),
            per_device_train_batch_size=rows,
            max_steps=budget.steps,
            learning_rate=1e-4,
            report_to=[],
            save_strategy="no",
            logging_strategy="no",
            disable_tqdm=True,
            seed=next(seeds),
            use_cpu=not torch.cuda.is_available(),
            **arguments,
        )
        collator = DataCollatorForSeq2Seq(tokenizer, model=model)
        clock = Clock()
        trainer = Seq2SeqTrainer(model, settings, collator, data, processing_class=tokenizer, callbacks=[clock])
        trainer.remove_callback(PrinterCallback)
        trainer.train()
        return clock.ended - clock.began

    return run
