"""`hyperpelt train --add TASK --from RUN`: the settings of a run that adds tasks to another one."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from hyperpelt.commands import common
from hyperpelt.errors import UserError

# One embedding is soon learnt: the length of the run that trained the hypernetwork says nothing about it.
STEPS = 300


def settings_of(
    tasks: list[str] | None, run: str | None, arguments: list[str]
) -> tuple[Path | None, list[tuple[str, Any]]]:
    """(the other run's settings, pairs of key and value in their place); (None, []) where nothing is added.

    What the user writes comes after these and wins. Raises UserError if one of --add and --from is missing.
    """
    if not tasks and not run:
        return None, []
    if not tasks or not run:
        raise UserError(
            "--add TASK and --from RUN must be given together: the task to add, and the trained run to add it to."
        )
    from hyperpelt.backbones.shipped import place_for
    from hyperpelt.config import RunConfig
    from hyperpelt.config.text import read_yaml
    from hyperpelt.model.saving import local_folder, read_config
    from hyperpelt.transfer.settings import RATES

    folder = local_folder(run)
    names = common.named_tasks(tasks)
    changes: dict[str, Any] = {
        "tasks": names,
        "from_run": str(folder),
        "output_dir": f"{place_for(run)}+{'+'.join(name.replace('/', '-') for name in names)}",
        "overwrite": False,
        "resume": False,
        "weight_decay": 0,
        "metric_for_best": "average",
        "mixing.strategy": "temperature",
        "max_steps": STEPS,
    }
    if any(source["type"] == "hypernetwork" for source in read_config(folder)["method"]["sources"].values()):
        changes["learning_rate"] = RATES["embedding"]
    path = folder / "run.yaml"
    if not path.is_file():
        return None, _kept(changes, arguments)
    warmup = read_yaml(path)[0].get("warmup_steps", 0)
    if isinstance(warmup, int | float) and warmup >= 1:  # steps, of a run that may have had more of them
        changes["warmup_steps"] = RunConfig.model_fields["warmup_steps"].default
    return path, _kept(changes, arguments)


def _kept(changes: dict[str, Any], arguments: list[str]) -> list[tuple[str, Any]]:
    said = {argument.partition("=")[0] for argument in arguments}
    if "num_train_epochs" in said:
        said.add("max_steps")
    return [(key, value) for key, value in changes.items() if key not in said]
