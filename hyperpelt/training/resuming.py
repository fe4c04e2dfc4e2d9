"""What a resumed run may change of the settings and data of the stopped one, and what that means."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from hyperpelt.config import RunConfig
from hyperpelt.errors import UserError
from hyperpelt.training.setup import Setup

# Settings that a resumed run must share with the stopped one (the sampler checks those of the rows itself).
FIXED = (
    "backbone", "quantization", "method", "tasks", "from_run", "max_source_length", "max_target_length", "train_limit",
    "image_encoder", "image_grid", "on_bad_image", "blind",
)  # fmt: skip
# Settings that change nothing in the course of a run.
IRRELEVANT = {
    "output_dir", "resume", "overwrite", "plugins", "data_root", "dataloader_num_workers", "log_steps", "save_steps",
    "save_total_limit", "eval_steps", "eval_split", "eval_limit", "test_split", "test_limit", "metric_for_best",
    "early_stopping_patience", "scoring", "per_device_eval_batch_size", "frozen_row", "use_cpu", "features_dir",
    "features_max_size", "report_to", "project", "run_name",
}  # fmt: skip


def _defaults() -> dict[str, Any]:
    fields = RunConfig.model_fields.items()
    return {name: field.get_default(call_default_factory=True) for name, field in fields if not field.is_required()}


# The settings behind what the order of rows depends on.
ORDER = {
    "seed": "seed", "batching": "batching", "window": "length_window", "rates": "rates (by tasks, mixing)",
    "sizes": "training rows (by tasks, train_limit)",
}  # fmt: skip


def _same_rows(setup: Setup, trainer: Mapping[str, Any]) -> None:
    """UserError, which names the keys to set, where the steps of a resumed run would hold other rows."""
    saved, mine = trainer["sampler"], setup.sampler.state_dict()
    advice = "Resume with the settings of its run.yaml, or start a new run."
    if saved["batch_size"] != mine["batch_size"]:
        raise UserError(_other_batch(setup, trainer["config"], int(saved["batch_size"])))
    for name, keys in ORDER.items():
        if saved[name] != mine[name]:
            raise UserError(
                f"Cannot resume: the stopped run had {keys}={saved[name]}, this one has {mine[name]}. {advice}"
            )


def _other_batch(setup: Setup, config: Mapping[str, Any], rows: int) -> str:
    device, steps = "per_device_train_batch_size", "gradient_accumulation_steps"
    here, world = setup.config, setup.processes.world
    before = rows // (config[device] * config[steps])
    per_process, rest = divmod(rows, here.gradient_accumulation_steps * world)
    set_to = f"{device}={per_process}" if not rest else f"{device} and {steps} whose product with {world} is {rows}"

    def told(size: int, accumulated: int, processes: int) -> str:
        return f"{device}={size} x {steps}={accumulated} x {processes} process{'es' * (processes != 1)}"

    then = told(config[device], config[steps], before)
    now = told(here.per_device_train_batch_size, here.gradient_accumulation_steps, world)
    return (
        f"Cannot resume: a step of the stopped run had {rows} rows ({then}), one of this run has "
        f"{setup.sampler.batch_size} ({now}). Set {set_to}."
    )


def settings_that_differ(setup: Setup, trainer: Mapping[str, Any]) -> list[str]:
    """Notes on settings that a resumed run changes. UserError for settings and data that its checkpoint rules out."""
    # Settings that an older version did not know were as they are by default.
    saved = {**_defaults(), **trainer["config"]}
    mine = setup.config.model_dump(mode="json")
    for key in FIXED:
        if mine[key] != saved.get(key):
            raise UserError(
                f"Cannot resume: the stopped run had {key}={saved.get(key)!r}, this one has {mine[key]!r}. Resume with "
                "the settings of its run.yaml, or start a new run."
            )
    other = [name for name, fingerprint in setup.fingerprints.items() if trainer["data"].get(name) != fingerprint]
    if other:
        raise UserError(
            f"Cannot resume: the training rows of {', '.join(other)} are not those of the stopped run (its definition, "
            "data or tokenizer changed). Restore them, or start a new run."
        )
    _same_rows(setup, trainer)
    irrelevant = IRRELEVANT - {"scoring"} if setup.config.loss == "ranking" else IRRELEVANT
    changed = [key for key in mine if key not in irrelevant and mine[key] != saved.get(key)]
    if not changed:
        return []
    listed = ", ".join(f"{key} {saved.get(key)!r} -> {mine[key]!r}" for key in changed)
    return [f"Resumed with other settings than before, so the run differs from one that never stopped: {listed}."]
