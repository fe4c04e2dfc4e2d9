"""hyperpelt: multi-task hypernetwork tuning of frozen T5 and BART.

The public surface, and nothing else. Names are imported at first use, so that `import hyperpelt` (which every task
plugin does) costs no PyTorch.
"""

from __future__ import annotations

from importlib import import_module
from importlib.util import find_spec
from typing import TYPE_CHECKING

__version__ = "0.1.0"

_HOME = {
    "Example": "tasks",
    "FeatureStore": "vision",
    "Files": "tasks",
    "Generator": "tasks",
    "Hub": "tasks",
    "Method": "methods",
    "Mixture": "tasks",
    "Part": "methods",
    "Splits": "tasks",
    "Task": "tasks",
    "TunedModel": "model",
    "UserError": "errors",
    "check_task": "tasks",
    "evaluate": "evaluation",
    "load_backbone": "backbones",
    "load_image_encoder": "vision",
    "register": "tasks",
    "task": "tasks",
    "train": "training",
    "transfer": "transfer",
    "vqa_scores": "metrics",
}

__all__ = sorted([*_HOME, "__version__"])

if TYPE_CHECKING:
    from hyperpelt.backbones import load_backbone
    from hyperpelt.errors import UserError
    from hyperpelt.evaluation import evaluate
    from hyperpelt.methods import Method, Part
    from hyperpelt.metrics import vqa_scores
    from hyperpelt.model import TunedModel
    from hyperpelt.tasks import Example, Files, Generator, Hub, Mixture, Splits, Task, check_task, register, task
    from hyperpelt.training import train
    from hyperpelt.transfer.run import transfer
    from hyperpelt.vision import FeatureStore, load_image_encoder


def __getattr__(name: str) -> object:
    if not name.startswith("_") and name not in _HOME and find_spec(f"hyperpelt.{name}"):
        return import_module(f"hyperpelt.{name}")
    if name not in _HOME:
        raise AttributeError(f"module 'hyperpelt' has no attribute {name!r}")
    value = getattr(import_module(f"hyperpelt.{_HOME[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return __all__
