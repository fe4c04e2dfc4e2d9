"""A peer that needs an environment of its own: a process there that makes one step whenever it is told to.

    PYTHON other_worker.py SETTING     one JSON object a line on standard output, one command a line on standard input

It is the `adapters` library (1.3 wants transformers 4.57). Commands: `step NAME` answers the seconds of one training
step, `peak NAME` the megabytes kept for its backward, `about` the versions. This file imports nothing of hyperpelt.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))

import adapters
import torch
import transformers

from benchmarking import shapes
from benchmarking.timing import Step, launches, now, peak_megabytes, set_clock, synchronise

PREFIX_LENGTH, BOTTLENECK = 24, 16  # as wide as our hyperpelt in this comparison


def _config(name: str, width: int) -> Any:
    if name == "adapters-pfeiffer":
        return adapters.SeqBnConfig(reduction_factor=width / BOTTLENECK)
    return adapters.ConfigUnion(
        adapters.PrefixTuningConfig(prefix_length=PREFIX_LENGTH, flat=True),
        adapters.ParBnConfig(reduction_factor=width / BOTTLENECK),
    )


def make(name: str, setting: dict[str, Any]) -> tuple[Step, torch.nn.Module]:
    """A contestant of this library, and its training step on the batch that all contestants have."""
    device = setting["device"]
    dtype = torch.bfloat16 if setting["precision"] == "bf16" else torch.float32
    model: Any = shapes.make(setting["shape"], device=device, dtype=dtype, dropout=setting["dropout"])
    adapters.init(model)
    model.add_adapter("task", config=_config(name, model.config.d_model))
    model.train_adapter("task")
    model.to(device).train()
    sizes = {key: setting[key] for key in ("rows", "source", "target", "num_tasks", "vocabulary", "device")}
    batch = shapes.batch(**sizes)
    batch.pop("task_ids")

    def step() -> None:
        model(**batch).loss.backward()
        model.zero_grad(set_to_none=True)

    return step, model


def main() -> None:
    """Answer commands until the other process closes its end."""
    setting = json.loads(sys.argv[1])
    set_clock(setting["clock"])
    made = {name: make(name, setting) for name in setting["names"]}
    print(json.dumps({"ready": list(made)}), flush=True)
    for line in sys.stdin:
        command, _, name = line.strip().partition(" ")
        if command == "about":
            print(json.dumps({"adapters": adapters.__version__, "transformers": transformers.__version__}), flush=True)
            continue
        step, model = made[name]
        if command == "step":
            synchronise()
            start = now()
            step()
            synchronise()
            print(json.dumps({"seconds": now() - start}), flush=True)
        else:
            own = {p.untyped_storage().data_ptr() for p in [*model.parameters(), *model.buffers()]}
            trainable = sum(p.numel() for p in model.parameters() if p.requires_grad)
            counted = {"trainable": trainable, "launches": launches(step)}
            print(json.dumps({"peak_mb": peak_megabytes(step, own), **counted}), flush=True)


if __name__ == "__main__":
    main()
