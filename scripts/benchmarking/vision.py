"""What seeing costs: a training step with the visual path and without it, and features from the store against encoding.

Steps: the same batch of text for all, on a real backbone; the seeing ones have one image a row, the features of
which are drawn at random, as speed does not depend on them. Store: pictures of the suite, encoded, kept, and read back.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from benchmarking.timing import Step, interleaved
from hyperpelt import tasks
from hyperpelt.model.tuned import TunedModel
from hyperpelt.vision import FeatureStore, content_hash, load_image_encoder

TEXT = {"name": "hyperpelt", "prefix_length": 8, "bottleneck": 24}
SEEING: dict[str, dict[str, Any]] = {
    "vl-hyperpelt": {**TEXT, "name": "vl-hyperpelt", "visual_prefix_hidden": 0},
    "vl-hyperpelt, 512 tanh units": {**TEXT, "name": "vl-hyperpelt", "visual_prefix_hidden": 512},
    "visual-tokens": {"name": "visual-tokens", "beside": TEXT, "hidden": 1420},
    "memvp": {"name": "memvp", "beside": TEXT},
}


def measure_steps(
    *, backbone: str, encoder: str, grid: int, rows: int, source: int, target: int, num_tasks: int, repeats: int
) -> list[dict[str, Any]]:
    """One row a contestant: `method`, `trainable`, `seconds`, `ratio_to_text`, and the setting."""
    spec = load_image_encoder(encoder, grid=grid).spec
    names = [f"task-{number}" for number in range(num_tasks)]
    generator = torch.Generator().manual_seed(0)
    features = torch.randn(rows, spec.cells, spec.dim, generator=generator)
    steps: dict[str, Step] = {}
    trainable = {}

    def add(name: str, method: dict[str, Any], seen: dict[str, torch.Tensor]) -> None:
        model = TunedModel.build(backbone, method=method, tasks=names, image_encoder=spec if method != TEXT else None)
        trainable[name] = model.train().num_trainable()
        steps[name] = _step(model, {**_text(model, rows, source, target, num_tasks), **seen})

    add("text alone (hyperpelt)", TEXT, {})
    for name, method in SEEING.items():
        add(name, method, {"visual": features})
    add("vl-hyperpelt, rows without images", SEEING["vl-hyperpelt"], {})
    seconds = interleaved(steps, repeats=repeats)
    setting = {"backbone": backbone, "grid": grid, "rows": rows, "source": source, "target": target, "tasks": num_tasks}
    base = seconds["text alone (hyperpelt)"]
    return [
        {"method": name, "trainable": trainable[name], "seconds": taken, "ratio_to_text": taken / base, **setting}
        for name, taken in seconds.items()
    ]


def _text(model: TunedModel, rows: int, source: int, target: int, num_tasks: int) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    size = model.backbone.config.vocab_size
    ids, labels = (torch.randint(3, size, (rows, length), generator=generator) for length in (source, target))
    return {"input_ids": ids, "labels": labels, "task_ids": torch.arange(rows) % num_tasks}


def _step(model: TunedModel, batch: dict[str, torch.Tensor]) -> Step:
    def step() -> None:
        model(**batch).loss.backward()
        model.zero_grad(set_to_none=True)

    return step


def measure_features(*, encoder: str, grid: int, images: int, batch: int) -> list[dict[str, Any]]:
    """Images a second: `method` (encode, encode and keep, read), `images_per_second`, and its `ratio_to_encode`."""
    loaded = load_image_encoder(encoder, grid=grid)
    pictures = [row.images[0] for row in tasks.get("tabletop/vqa").examples("train", limit=images)]
    keys = [content_hash(picture) for picture in pictures]
    with tempfile.TemporaryDirectory() as folder:
        filled = FeatureStore(Path(folder), loaded)

        def read() -> None:
            store = FeatureStore(Path(folder), loaded.spec)
            for start in range(0, len(keys), batch):
                store.read(keys[start : start + batch])

        # Encoding first, and once: a second time would find what the first has kept.
        seconds = {
            "encode": _seconds(lambda: [loaded.encode(pictures[i : i + batch]) for i in range(0, images, batch)]),
            "encode and keep": _seconds(lambda: filled.build(pictures, batch_size=batch)),
            "read": _seconds(read),
        }
        size = filled.num_bytes() / len(filled)
    return [
        {
            "method": way,
            "images_per_second": len(pictures) / taken,
            "ratio_to_encode": seconds["encode"] / taken,
            "images": len(pictures),
            "batch": batch,
            "encoder": encoder,
            "grid": grid,
            "bytes_per_image": size,
        }
        for way, taken in seconds.items()
    ]


def _seconds(work: Callable[[], Any]) -> float:
    begun = time.perf_counter()
    work()
    return time.perf_counter() - begun
