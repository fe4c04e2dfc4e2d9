"""What goes with an exported task so that it answers as the run does: its settings, plugins and tokenizer's place."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from hyperpelt.config import to_yaml
from hyperpelt.config.paths import inside
from hyperpelt.files.atomic import write_text
from hyperpelt.tasks.carried import carry, take_over

if TYPE_CHECKING:
    from hyperpelt.config import RunConfig


def accompany(run: Path, settings: RunConfig | None, task: str, folder: Path, new: Path) -> None:
    """Write run.yaml (scoring rule, lengths, precision) and the plugins of a run beside an export of one of its tasks,
    into `new`, which will be `folder`.

    A run without settings, such as a model that was saved in Python, has none to pass on.
    """
    if settings is None:
        return
    take_over(run, new)
    plugins = [inside(run, plugin) for plugin in settings.plugins]
    carry(plugins, [task], new)
    changes = {"tasks": [task], "from_run": None, "output_dir": str(folder), "plugins": plugins}
    write_text(new / "run.yaml", to_yaml(settings.model_copy(update=changes)))
