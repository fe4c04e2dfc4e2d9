"""`hyperpelt evaluate`: the metrics of a trained run, beside the majority baseline and the frozen backbone."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from hyperpelt.backbones.quiet import quiet_transformers
from hyperpelt.commands import common
from hyperpelt.files.atomic import write_json

if TYPE_CHECKING:
    import torch

    from hyperpelt.config import RunConfig
    from hyperpelt.evaluation.results import Results
    from hyperpelt.model.tuned import TunedModel


Tasks = Annotated[
    list[str] | None,
    typer.Option(
        "--tasks", help="Names, wildcards ('glue/*') or mixtures, comma-separated or repeated; default: the run's."
    ),
]
Blind = Annotated[
    bool | None, typer.Option("--blind/--seeing", help="Withhold images, or show them; default: as the run did.")
]
SkipBad = Annotated[
    bool, typer.Option("--skip-bad-images", help="Answer rows with a bad image without it, and count them.")
]
Features = Annotated[
    Path | None, typer.Option("--features", metavar="FOLDER", help="The feature store; default: the run's.")
]
Output = Annotated[Path | None, typer.Option("--output", metavar="FILE", help="Also write the results as JSON.")]
Intervals = Annotated[
    bool, typer.Option("--intervals", help="Add 95 % intervals of each score, by a bootstrap over rows.")
]
LogSamples = Annotated[
    Path | None,
    typer.Option("--log-samples", metavar="FILE", help="Write every row with its answer as a JSON line."),
]


def evaluate(
    run: common.Run,
    tasks: Tasks = None,
    split: Annotated[str, typer.Option("--split", help="train, validation or test.")] = "test",
    limit: common.Limit = None,
    frozen: Annotated[bool, typer.Option("--frozen", help="Also measure the backbone without the method.")] = False,
    normalisation: common.Normalisation = None,
    regression: common.Regression = common.Number.expected,
    batch_size: common.BatchSize = None,
    num_beams: common.Beams = None,
    blind: Blind = None,
    skip_bad_images: SkipBad = False,
    features_dir: Features = None,
    intervals: Intervals = False,
    seed: Annotated[int, typer.Option("--seed", min=0, help="Seed of the bootstrap.")] = 0,
    log_samples: LogSamples = None,
    output: Output = None,
    data_root: common.DataRoot = None,
    plugin: common.Plugins = None,
    backbone: common.Backbone = None,
    as_json: common.Json = False,
    debug: common.Debug = False,
) -> None:
    """Measure a run on its tasks: per-task metrics, the average, and the majority baseline beside them.

    Settings that are not given are those of the run (its run.yaml), so the numbers are those that training printed.
    Works under `accelerate launch` with several processes.
    """
    with common.stdout_for_json(as_json):
        from hyperpelt.evaluation.run import evaluate as measure
        from hyperpelt.training.distributed import start_processes

        for path in filter(None, (output, log_samples)):
            common.writable(path)
        processes = start_processes()
        model, settings = load(run, plugin, processes.device, backbone)
        if not tasks:
            common.require_tasks(run, model.tasks)
        results = measure(
            model,
            common.named_tasks(tasks) if tasks else list(model.tasks),
            split=split,
            limit=limit,
            frozen=frozen,
            data_root=data_root or (settings.data_root if settings else None),
            regression=regression.value,
            accelerator=processes.accelerator,
            num_beams=num_beams,
            intervals=intervals,
            seed=seed,
            log_samples=log_samples,
            **_image_settings(settings, blind, skip_bad_images, features_dir),
            **scoring_settings(settings, normalisation, batch_size),
        )
        processes.close()
    if processes.is_main:
        told = {} if settings is None else {"seed": settings.seed}
        results = replace(results, model={**results.model, **told})
        _put_out(results, output, as_json, title=f"{run}, {split} split")


def _put_out(results: Results, output: Path | None, as_json: bool, *, title: str) -> None:
    content = results.as_dict()
    if output is not None:
        write_json(output, content, indent=2)
    if as_json:
        common.print_json(content)
    else:
        common.print_results(results, title=title)


def load(
    run: str, plugins: list[str] | None, device: torch.device | str, backbone: str | None = None
) -> tuple[TunedModel, RunConfig | None]:
    """The run's model, and its settings; its plugins are loaded, and those named now."""
    settings = common.load_plugins_of(run, plugins)
    from hyperpelt.backbones import resolve_dtype
    from hyperpelt.model.tuned import TunedModel

    quiet_transformers()
    dtype = resolve_dtype(settings.backbone_dtype if settings else None)
    return TunedModel.from_pretrained(run, device=device, dtype=dtype, backbone=backbone), settings


def _image_settings(
    settings: RunConfig | None, blind: bool | None, skip: bool, features_dir: Path | None
) -> dict[str, Any]:
    """How images are seen: what the user says, else what the run's settings say."""
    return {
        "blind": (settings is not None and settings.blind) if blind is None else blind,
        "on_bad_image": "skip" if skip else settings.on_bad_image if settings else "error",
        "features_dir": features_dir or (settings.features_dir if settings else None),
    }


def scoring_settings(
    settings: RunConfig | None, normalisation: common.Rule | None, batch_size: int | None
) -> dict[str, Any]:
    """How to answer: what the user says, else what the run's settings say, else the defaults."""
    found: dict[str, Any] = {}
    if settings is not None:
        found = {
            "normalisation": settings.scoring,
            "batch_size": settings.per_device_eval_batch_size,
            "max_source_length": settings.max_source_length,
            "max_target_length": settings.max_target_length,
        }
    given = {"normalisation": normalisation and normalisation.value, "batch_size": batch_size}
    return found | {name: value for name, value in given.items() if value is not None}
