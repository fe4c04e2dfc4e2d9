"""What a resumed run may change of the settings and data of the stopped one, and what that means."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hyperpelt.config import RunConfig
from hyperpelt.config.paths import in_full
from hyperpelt.errors import UserError
from hyperpelt.training.checkpoints import Checkpoint
from hyperpelt.training.setup import Setup

if TYPE_CHECKING:
    from hyperpelt.model.tuned import TunedModel
    from hyperpelt.training.loop import State

# Settings that a resumed run must share with the stopped one (the sampler checks those of the rows itself).
FIXED = (
    "quantization", "method", "tasks", "max_source_length", "max_target_length", "train_limit", "image_grid",
    "on_bad_image", "blind", "optimizer",
)  # fmt: skip
# Places of what a run starts from: it may have moved, as long as it is the same.
PLACES = ("backbone", "from_run", "image_encoder")
# What the evaluations are compared by: values of one are none of another.
COMPARED_BY = ("metric_for_best", "eval_split", "eval_limit", "scoring")
# Settings that change nothing in the course of a run.
IRRELEVANT = {
    "output_dir", "resume", "overwrite", "plugins", "data_root", "dataloader_num_workers", "log_steps", "save_steps",
    "save_total_limit", "eval_steps", "eval_split", "eval_limit", "test_split", "test_limit", "metric_for_best",
    "early_stopping_patience", "scoring", "per_device_eval_batch_size", "frozen_row", "use_cpu", "features_dir",
    "features_max_size", "report_to", "project", "run_name", *PLACES,
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


def what_it_stands_on(model: TunedModel) -> dict[str, Any]:
    """What a checkpoint remembers of all that it does not hold itself."""
    return {
        **model.stands_on(),
        "image_features": None if model.visual is None else model.visual.fingerprint,
        "all_tasks": list(model.tasks),
    }


def check_what_it_stands_on(model: TunedModel, checkpoint: Checkpoint, folder: Path) -> None:
    """UserError where the backbone or what is trained beside the run's own tasks is not that of the stopped run."""
    saved = checkpoint.trainer.get("stands_on")
    if saved is None:  # of an earlier version: the names of the places were compared
        return
    model.check_stands_on(saved, folder)
    mine = None if model.visual is None else model.visual.fingerprint
    if saved["image_features"] != mine:
        raise UserError("Cannot resume: the image encoder is not the one of the stopped run. Give that one.")
    if saved["all_tasks"] != list(model.tasks):
        raise UserError(
            f"Cannot resume: the stopped run's model had the tasks {', '.join(saved['all_tasks'])}, this one has "
            f"{', '.join(model.tasks)}. Give the run that it added to (from_run)."
        )


def looking_anew(setup: Setup, trainer: Mapping[str, Any], state: State) -> list[str]:
    """Forget the best checkpoint where this run compares by something else, or by nothing; says so."""
    saved, config = {**_defaults(), **trainer["config"]}, setup.config.model_dump(mode="json")
    changed = [f"{key} {saved[key]!r} -> {config[key]!r}" for key in COMPARED_BY if saved[key] != config[key]]
    if state.best_step is None or not (changed or config["eval_steps"] is None):
        return []
    state.forget_best()
    if config["eval_steps"] is None:
        return ["Without eval_steps nothing looks for the best checkpoint any more: the run ends with its last step."]
    return [f"The best checkpoint is looked for anew, since it is compared otherwise: {', '.join(changed)}."]


def _same_places(setup: Setup, trainer: Mapping[str, Any], saved: Mapping[str, Any], mine: Mapping[str, Any]) -> None:
    """UserError where places differ that cannot be compared by what is there."""
    for key in PLACES:
        before, known = str(saved.get(key) or ""), "stands_on" in trainer
        alike = bool(mine[key]) == bool(before) if known else in_full(mine[key] or "") == in_full(before)
        if not alike:
            raise _another(key, saved.get(key), mine[key])


def _another(key: str, saved: Any, mine: Any) -> UserError:
    return UserError(
        f"Cannot resume: the stopped run had {key}={saved!r}, this one has {mine!r}. Resume with the settings of its "
        "run.yaml, or start a new run."
    )


def settings_that_differ(setup: Setup, checkpoint: Checkpoint) -> list[str]:
    """Notes on settings that a resumed run changes. UserError for settings and data that its checkpoint rules out."""
    # Settings that an older version did not know were as they are by default.
    trainer = checkpoint.trainer
    saved = {**_defaults(), **trainer["config"]}
    mine = setup.config.model_dump(mode="json")
    if checkpoint.step > setup.total:
        raise UserError(
            f"Cannot resume: the checkpoint is of step {checkpoint.step}, this run is to have {setup.total}. Set "
            f"max_steps={checkpoint.step} to end it there, or more, or resume from an earlier checkpoint."
        )
    _same_places(setup, trainer, saved, mine)
    for key in FIXED:
        if mine[key] != saved.get(key):
            raise _another(key, saved.get(key), mine[key])
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
