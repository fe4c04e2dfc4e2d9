"""Has a backbone learnt English? Two measurements, committed with the weights.

* Held-out loss of a target token under the model, under the same shape untrained, and under a unigram model.
* Accuracy on real tasks when the frozen backbone is tuned by parallel adapters, beside the same shape with random
  weights tuned in the same way (and, for mini-bart, beside MiniLM's encoder with a random decoder: what our own
  pretraining adds).

Results go to one JSON file a backbone, a cell at a time: an interrupted evaluation goes on where it stopped.
"""

from __future__ import annotations

import json
import platform
import random
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
import transformers
from torch import Tensor, nn
from transformers import AutoModelForSeq2SeqLM, PreTrainedModel

from hyperpelt import TunedModel, metrics, tasks
from hyperpelt.backbones import embedded, encode_targets, load_backbone, load_config, load_tokenizer
from hyperpelt.backbones.mini_bart import assemble_mini_bart
from hyperpelt.backbones.packaged import sha256
from hyperpelt.errors import unknown
from hyperpelt.evaluation.judging import majority_answer
from hyperpelt.files.atomic import write_json
from pretraining.batches import Batch
from pretraining.models import MiniBart, MiniT5
from pretraining.runs import Material, Plan, held_out_loss, unigram
from pretraining.starts import random_decoder

Report = Callable[[str], None]
SHIPPED, WRONG_SOURCE = "shipped", "shipped, wrong source"


@dataclass(frozen=True, kw_only=True)
class Tuning:
    """How a frozen backbone is tuned for one task: AdamW, 10 % warm-up, linear decay."""

    method: str = "parallel-adapter"
    steps: int = 200
    rows: int = 32
    learning_rate: float = 1e-3
    max_source_length: int = 96
    test_rows: int = 500
    seed: int = 0


def pretrainable(name: str, model: Any) -> MiniBart | MiniT5:
    return MiniBart(model.config, model) if name == "mini-bart" else MiniT5.over(model.config, model)


def random_backbone(name: str, *, seed: int) -> PreTrainedModel:
    """The same shape with transformers' own initial weights."""
    config: Any = load_config(name)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        if name == "mini-bart":
            from hyperpelt.backbones.mini_bart import MiniBart as Shape

            return Shape(config).eval()
        return AutoModelForSeq2SeqLM.from_config(config, trust_remote_code=False).eval()


def random_decoder_backbone(*, seed: int) -> PreTrainedModel:
    config: Any = load_config("mini-bart")
    return assemble_mini_bart(config, random_decoder(config, seed=seed, warm=False))


def backbones(name: str, *, seed: int) -> dict[str, Callable[[], PreTrainedModel]]:
    """Who is compared, by the name of its column."""
    compared = {SHIPPED: lambda: load_backbone(name), "random": lambda: random_backbone(name, seed=seed)}
    if name == "mini-bart":
        compared["random decoder"] = lambda: random_decoder_backbone(seed=seed)
    return compared


def with_wrong_sources(batch: Batch) -> Batch:
    """Every row's target beside its neighbour's source: what a decoder knows without reading."""
    return replace(batch, source=batch.source.roll(1, 0), source_mask=batch.source_mask.roll(1, 0))


def measure_losses(name: str, plan: Plan, material: Material, *, batches: int, seed: int) -> dict[str, Any]:
    """Held-out nats a target token: {objective: {column: loss}}."""
    columns: dict[str, Callable[[Batch], Tensor]] = {}
    for column, build in backbones(name, seed=seed).items():
        task = pretrainable(name, build())
        columns[column] = lambda batch, task=task: task.token_losses(batch)[0]
    reading = columns[SHIPPED]
    columns[WRONG_SOURCE] = lambda batch: reading(with_wrong_sources(batch))
    log_probabilities = unigram(plan, material)
    columns["unigram"] = lambda batch: -log_probabilities[batch.labels[batch.labels >= 0]]
    table: dict[str, Any] = {}
    for column, score in columns.items():
        for objective, loss in held_out_loss(score, plan, material, batches=batches).items():
            table.setdefault(objective.removeprefix("held_out_"), {})[column] = round(loss, 4)
    return table


def tune(model: TunedModel, task: tasks.Task, tuning: Tuning, data_root: Path, report: Report) -> None:
    """Train the adapters on the task's training split."""
    examples = list(task.examples("train", data_root=data_root))
    random.Random(tuning.seed).shuffle(examples)
    parameters = [parameter for _, parameter in model.trainable_parameters()]
    optimizer = torch.optim.AdamW(parameters, lr=tuning.learning_rate, weight_decay=0.0)
    warm = max(tuning.steps // 10, 1)
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda step: min((step + 1) / warm, (tuning.steps - step) / max(tuning.steps - warm, 1))
    )
    model.train()
    started = time.monotonic()
    for step, rows in zip(range(tuning.steps), _cycle(examples, tuning.rows), strict=False):
        loss = model(**_encode(model, rows, tuning)).loss
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        schedule.step()
        if (step + 1) % 50 == 0:
            report(f"{task.name} step {step + 1}/{tuning.steps} loss {loss:.3f} {time.monotonic() - started:.0f}s")


def _cycle(examples: Sequence[Any], rows: int) -> Iterator[list[Any]]:
    start = 0
    while True:
        yield [examples[(start + offset) % len(examples)] for offset in range(rows)]
        start += rows


def _encode(model: TunedModel, rows: Sequence[Any], tuning: Tuning) -> dict[str, Tensor]:
    tokenizer = model.tokenizer
    assert tokenizer is not None
    inputs = tokenizer(
        [row.input for row in rows],
        padding=True,
        truncation=True,
        max_length=tuning.max_source_length,
        return_tensors="pt",
    )
    targets = encode_targets(tokenizer, [row.target for row in rows])
    width = max(map(len, targets))
    labels = torch.tensor([[*target, *[-100] * (width - len(target))] for target in targets])
    return {"input_ids": inputs["input_ids"], "attention_mask": inputs["attention_mask"], "labels": labels}


def test(model: TunedModel, task: tasks.Task, tuning: Tuning, data_root: Path) -> dict[str, float]:
    """The task's metrics on its first test rows, and those of always answering the training majority's choice."""
    examples = list(task.examples("test", data_root=data_root))
    random.Random(tuning.seed).shuffle(examples)
    examples = examples[: tuning.test_rows]
    predictions: list[int] = []
    for start in range(0, len(examples), tuning.rows):
        rows = examples[start : start + tuning.rows]
        scores = model.score(
            [row.input for row in rows],
            [list(row.choices or ()) for row in rows],
            task=task.name,
            max_source_length=tuning.max_source_length,
        )
        predictions += [max(range(len(row)), key=row.__getitem__) for row in scores]
    labels = [row.label for row in examples]
    majority = majority_answer(task, "test", data_root)
    found = metrics.compute(("accuracy",), predictions, labels)
    always = metrics.compute(("accuracy",), [majority] * len(labels), labels)
    return {
        "accuracy": round(found["accuracy"], 2),
        "majority": round(always["accuracy"], 2),
        "rows": len(labels),
        "predicted_share_of_majority": round(predictions.count(majority) / len(labels), 3),
    }


def evaluate(
    name: str,
    *,
    plan: Plan,
    material: Material,
    task_names: Sequence[str],
    tuning: Tuning,
    seeds: Sequence[int],
    batches: int,
    columns: Sequence[str],
    data_root: Path,
    output: Path,
    command: str,
    report: Report,
) -> dict[str, Any]:
    """Fill `output` (JSON); cells that it already holds for the same weights and settings are kept.

    `columns`: whom to tune, in this order (all, if empty).
    """
    header = {
        "backbone": name,
        "weights_sha256": sha256(embedded.asset_folder(name) / "model.safetensors"),
        "command": command,
        "tuning": {key: value for key, value in asdict(tuning).items() if key != "seed"},
        "seeds": list(seeds),
        "held_out_batches": batches,
        "versions": {
            "python": platform.python_version(),
            "torch": torch.__version__.split("+")[0],
            "transformers": transformers.__version__,
        },
    }
    result = _resumed(output, header)
    if "held_out" not in result:
        result["held_out"] = measure_losses(name, plan, material, batches=batches, seed=seeds[0])
        _write(output, result)
    tokenizer = load_tokenizer(name)
    for seed in seeds:
        compared = backbones(name, seed=seed)
        for column in columns or compared:
            if column not in compared:
                raise unknown("column", column, compared)
            for task in tasks.select(list(task_names)):
                cells = result["tuned"].setdefault(task.name, {}).setdefault(column, {})
                if str(seed) in cells:
                    continue
                report(f"{task.name}, {column}, seed {seed}")
                settings = replace(tuning, seed=seed)
                model = TunedModel.build(
                    compared[column](), method=tuning.method, tasks=[task.name], tokenizer=tokenizer, seed=seed
                )
                tune(model, task, settings, data_root, report)
                cells[str(seed)] = test(model, task, settings, data_root)
                report(f"{task.name}, {column}, seed {seed}: {cells[str(seed)]}")
                _write(output, result)
    return result


def _resumed(output: Path, header: Mapping[str, Any]) -> dict[str, Any]:
    """An earlier file's cells if they were measured alike; those of other weights than the present ones are dropped."""
    fresh: dict[str, Any] = {**header, "tuned": {}}
    if not output.is_file():
        return fresh
    old = json.loads(output.read_text(encoding="utf8"))
    if any(old.get(key) != header[key] for key in ("tuning", "held_out_batches")):
        return fresh
    if old["weights_sha256"] != header["weights_sha256"]:
        old.pop("held_out", None)
        for cells in old["tuned"].values():
            cells.pop(SHIPPED, None)
    return {**old, **header}


def _write(output: Path, result: Mapping[str, Any]) -> None:
    output.parent.mkdir(parents=True, exist_ok=True)
    write_json(output, result)
