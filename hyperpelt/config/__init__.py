"""What a training run is: one flat, checked set of keys, read from YAML and `key=value` pairs.

    load_run(Path("scripts/glue_cpu.yaml"), ["max_steps=200", "mixing.temperature=5"]) -> RunConfig

Names follow transformers' `TrainingArguments` where it has the key. Nothing here imports PyTorch, so that a misspelt
key is reported at once. Every mistake is a `UserError`: which key, which file and line, what was expected, what came.

The walls of this room: settings (the keys), text (YAML, overrides, what a mistake reads like).
"""

from __future__ import annotations

from hyperpelt.config.settings import RunConfig, build_run, keys, load_run, to_yaml

__all__ = [
    "RunConfig",
    "build_run",
    "keys",
    "load_run",
    "to_yaml",
]
