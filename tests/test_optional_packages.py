"""Optional packages stay optional: everything imports without them, and what needs one says so in a sentence."""

from __future__ import annotations

import subprocess
import sys

OPTIONAL = (
    "wandb", "trackio", "mlflow", "sacrebleu", "rouge_score", "lm_eval", "evaluate", "torchmetrics", "nltk", "peft",
    "bitsandbytes",
)  # fmt: skip
PROGRAM = f"""
import importlib, pkgutil, sys
from importlib.machinery import PathFinder

OPTIONAL = {OPTIONAL!r}
find = PathFinder.find_spec


def without(_, name, *rest):
    return None if name.partition(".")[0] in OPTIONAL else find(name, *rest)


PathFinder.find_spec = classmethod(without)
import hyperpelt

for module in pkgutil.walk_packages(hyperpelt.__path__, "hyperpelt."):
    importlib.import_module(module.name)
for name in hyperpelt.__all__:
    getattr(hyperpelt, name)
assert not any(name in sys.modules for name in OPTIONAL), [name for name in OPTIONAL if name in sys.modules]
from hyperpelt import UserError, cli, metrics
from hyperpelt.training.tracking import check_installed

for names in (["wandb"], ["trackio"], ["mlflow"]):
    try:
        check_installed(names)
        raise AssertionError(names)
    except UserError as error:
        assert "pip install" in str(error), error
assert all("pip install" in metrics.get(name).lacking() for name in ("bleu", "rougeL", "torchmetrics:BLEUScore"))
assert cli.run(["lm-eval"]) == 2
"""


def test_every_module_imports_without_them() -> None:
    done = subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
