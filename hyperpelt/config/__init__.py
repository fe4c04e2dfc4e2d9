"""What a training run is: one flat, checked set of keys, read from YAML and `key=value` pairs.

    load_run(Path("scripts/glue_cpu.yaml"), ["max_steps=200", "mixing.temperature=5"]) -> RunConfig

Names follow transformers' `TrainingArguments` where it has the key. Nothing here imports PyTorch, so that a misspelt
key is reported at once. Every mistake is a `UserError`: which key, which file and line, what was expected, what came.

The walls of this room: settings (the keys), runs (read, written and listed), text (YAML, what a mistake reads like),
overrides (`key=value`), paths (`~`), setting_types (settings of methods and tuners checked by their annotations),
sizes (500MB, 10GB), modules (names that Python finds), caching (where the cache lies).
"""

from __future__ import annotations

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
