"""What a run's settings make of its model, as the run itself would settle it: whose backbone and method it takes over,
how many tasks that one knows, and the features of images that it reads."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from hyperpelt import methods
from hyperpelt.config import RunConfig
from hyperpelt.data import rate_trees, task_names
from hyperpelt.errors import UserError
from hyperpelt.methods import Method
from hyperpelt.model.saving import found_by_name, local_folder, read_config
from hyperpelt.training.setup import taken_over
from hyperpelt.vision.spec import VisualSpec


@dataclass(frozen=True, kw_only=True)
class Settled:
    """**config**, **method**: of the model; **num_tasks**: that are trained, beside **known** ones; **visual**: its
    features of images, None: the method's own; **notes**: on what is counted otherwise than it would run."""

    config: RunConfig
    method: Method
    num_tasks: int
    known: int = 0
    visual: VisualSpec | None = None
    notes: tuple[str, ...] = ()


def settle(config: RunConfig, *, method: str | None, num_tasks: int | None) -> Settled:
    """The model of a run. method, num_tasks: other ones than the run's.

    Raises:
        UserError: another method than that of the run to which tasks are added; an unknown task or method.
    """
    number = num_tasks or len(list(task_names(rate_trees(config.task_rates))))
    if config.from_run is None:
        chosen = methods.get(method or config.method)
        visual, notes = _features(config, chosen)
        return Settled(config=config, method=chosen, num_tasks=number, visual=visual, notes=notes)
    if method is not None:
        raise UserError(
            f"from_run takes over the method of {config.from_run}, to which tasks are added: leave --methods out."
        )
    saved = read_config(local_folder(config.from_run))
    config, seen = taken_over(config), saved.get("visual")
    return Settled(
        config=config,
        method=methods.get(config.method),
        num_tasks=number,
        known=len(saved["tasks"]),
        visual=None if seen is None else VisualSpec.from_dict(seen),
    )


def _features(config: RunConfig, method: Method) -> tuple[VisualSpec | None, tuple[str, ...]]:
    """Those of the run's encoder, if that is here: a plan fetches no weights."""
    if all(source.visual is None for source in method.sources.values()):
        return None, ()
    name = config.image_encoder
    if "/" in name and not Path(name).exists() and found_by_name(name):
        return None, (f"Counted for {method.name}'s own size of images: the features of {name} are not fetched.",)
    from hyperpelt.vision import load_image_encoder

    return load_image_encoder(name, grid=config.image_grid).spec, ()
