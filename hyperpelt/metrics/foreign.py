"""Metrics of Hugging Face's evaluate and of torchmetrics, by name, where these are installed.

    metrics: [evaluate:meteor, evaluate:squad_v2#f1, torchmetrics:WordErrorRate]
    metrics: ["torchmetrics:MulticlassCohenKappa?num_classes=3"]

`evaluate:NAME` (or a folder with a metric) takes the number called NAME, or the only one; `#KEY` names another. A class
of torchmetrics is found by its name, with settings after `?`. Values are as these libraries give them: mostly shares of
1, not points, and for some (error rates) lower is better, so do not choose checkpoints by those.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Mapping
from typing import Any
from urllib.parse import parse_qsl

from hyperpelt.errors import UserError

KINDS = ("classification", "regression", "generation")
LIBRARIES = ("evaluate", "torchmetrics")


def library_of(name: str) -> str | None:
    """The library that a metric's name asks for, if any."""
    library = name.partition(":")[0]
    return library if library in LIBRARIES and ":" in name else None


def lacking(name: str) -> str | None:
    """Why the metric cannot be computed here, in one sentence, or None."""
    library = library_of(name)
    if library is not None and importlib.util.find_spec(library) is None:
        return f"the metric {name!r} needs {library}, which is not installed: `pip install {library}`."
    return None


def compute(name: str, predictions: list[Any], labels: list[Any]) -> float:
    """The metric's number. Raises UserError for one that is not there, or gives several numbers and none was chosen."""
    library, _, wanted = name.partition(":")
    try:
        return {"evaluate": _evaluate, "torchmetrics": _torchmetrics}[library](wanted, predictions, labels)
    except UserError:
        raise
    except Exception as error:  # of a stranger's code, or of the network
        raise UserError(f"The metric {name!r} failed with {type(error).__name__}: {error}".rstrip(".") + ".") from error


def _evaluate(wanted: str, predictions: list[Any], labels: list[Any]) -> float:
    import evaluate

    name, _, key = wanted.partition("#")
    found = evaluate.load(name).compute(predictions=predictions, references=labels)
    numbers = {k: float(v) for k, v in (found or {}).items() if isinstance(v, int | float)}
    key = key or (name if name in numbers else next(iter(numbers), "") if len(numbers) == 1 else "")
    if key not in numbers:
        raise UserError(
            f"The metric 'evaluate:{name}' gives {', '.join(numbers) or 'no number'}: choose one as evaluate:{name}#KEY"
            "."
        )
    return numbers[key]


def _torchmetrics(wanted: str, predictions: list[Any], labels: list[Any]) -> float:
    import torch

    name, _, written = wanted.partition("?")
    metric = _class_of(name)(**{key: _value(text) for key, text in parse_qsl(written)})
    texts = any(isinstance(value, str) for value in predictions)
    values: Any = metric(predictions, labels) if texts else metric(torch.tensor(predictions), torch.tensor(labels))
    if isinstance(values, Mapping) or values.numel() != 1:
        raise UserError(f"The metric 'torchmetrics:{name}' gives several numbers, expected one.")
    return float(values)


def _class_of(name: str) -> Any:
    import torchmetrics
    from torchmetrics import classification, regression, text

    for module in (text, classification, regression, torchmetrics):
        if hasattr(module, name):
            return getattr(module, name)
    raise UserError(f"torchmetrics has no metric {name!r} for texts, choices or numbers.")


def _value(text: str) -> Any:
    import json

    try:
        return json.loads(text)
    except ValueError:
        return text
