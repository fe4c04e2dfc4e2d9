"""How a trained run answers and sees: what is measured of it afterwards is measured so, too."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from hyperpelt.config import RunConfig
    from hyperpelt.model.tuned import TunedModel

LENGTHS = {"max_source_length": 128, "max_target_length": 32}  # of a model without a run.yaml


def lengths(settings: RunConfig | None) -> dict[str, int]:
    """Where its texts are cut."""
    return {name: getattr(settings, name, default) for name, default in LENGTHS.items()}


def seeing(settings: RunConfig | None) -> dict[str, Any]:
    """Where its images' features lie, and what a bad image means."""
    return {name: getattr(settings, name) for name in ("features_dir", "on_bad_image")} if settings else {}


def is_blind(settings: RunConfig | None) -> bool:
    """Whether it was trained without its images."""
    return settings is not None and settings.blind


def as_the_run(settings: RunConfig | None, model: TunedModel) -> dict[str, Any]:
    """The options of `evaluate` that a run decides, for a model of it or beside it; defaults without a run.yaml."""
    found = {**seeing(settings), "blind": is_blind(settings) or model.visual is None}
    if settings is None:
        return found
    answering = {"normalisation": settings.scoring, "batch_size": settings.per_device_eval_batch_size}
    return found | answering | lengths(settings)
