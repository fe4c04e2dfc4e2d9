"""What a transfer is told, held to what the trained run is: before any model is loaded."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from hyperpelt.errors import UserError
from hyperpelt.methods import get as get_method
from hyperpelt.model.starts import LIKE, check_start
from hyperpelt.transfer.settings import IN_CONTEXT, PARTS, SCRATCH, TransferConfig


def check_names(config: TransferConfig, saved: Mapping[str, Any]) -> None:
    """Whether adaptations, starts and rates are known, and the run has what they are about. saved: its config.json.

    Raises UserError for what is not.
    """
    trained = [task["name"] for task in saved["tasks"]]
    for adapt in config.adapt:
        if adapt not in (*PARTS, SCRATCH, IN_CONTEXT):
            try:
                get_method(adapt)
            except UserError as error:
                text = str(error).replace("Unknown method", "Unknown adaptation or method", 1)
                raise UserError(f"{text} Adaptations: {', '.join((*PARTS, SCRATCH, IN_CONTEXT))}.") from None
    for start in config.start:
        check_start(start)
        if start.startswith(LIKE) and start.removeprefix(LIKE) not in trained:
            raise UserError(f"{start!r}: the run was not trained on that task, only on {', '.join(trained)}.")
    _check_method(config, saved["method"])
    unknown = set(config.learning_rate) - {"*", *config.adapt}
    if unknown:
        raise UserError(
            f"learning_rate is given for {', '.join(sorted(unknown))}, which is not adapted: expected one of "
            f"{', '.join(config.adapt)}."
        )


def _check_method(config: TransferConfig, method: Mapping[str, Any]) -> None:
    """Whether the run's method has what is to be adapted, and what tasks are to start from."""
    sources = method["sources"].values()
    types = {source["type"] for source in sources}
    if "hypernetwork" in config.adapt and not types & {"hypernetwork", "visual_hypernetwork"}:
        raise UserError(
            f"The run's method {method['name']!r} has no hypernetwork to adapt; give --adapt without it, for example "
            "embedding,all,scratch."
        )
    if "embedding" in config.adapt and not types & {"hypernetwork", "per_task"}:
        raise UserError(
            f"The run's method {method['name']!r} keeps nothing for single tasks (all tensors are shared), so a new "
            "task has no embedding to adapt; give --adapt all,scratch."
        )
    if "described" in config.start and not any(
        source.get("description_dropout") or source.get("described") for source in sources
    ):
        raise UserError(
            f"The run's method {method['name']!r} was trained without a map from words to embeddings: train with "
            "method.description_dropout=0.3, or start from mean, nearest, scored or like:TASK."
        )
