"""How near tasks are to each other: by their embeddings, by the weights made for them, and by what those do.

    found = measure("runs/glue", matrix=True)

| map | what |
|---|---|
| `embeddings` | cosine of the task embeddings, as drawn and trained |
| `read` | cosine of what the hypernetwork's first layer reads of them (directions that it ignores do not count) |
| `weights` | cosine of all made tensors, each group scaled to unit size, after the mean over tasks is taken off |
| `words` | cosine of what the frozen encoder reads of the tasks' descriptions, centred (models with such a map) |
| `transfer` | score of the column's task under the weights of the row's task, in points |

Differences from the mean are what tells tasks apart: the tensors of one hypernetwork share most of their size.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from jaxtyping import Float

from hyperpelt import tasks as registry
from hyperpelt.backbones import resolve_dtype
from hyperpelt.backbones.shipped import place_for
from hyperpelt.config import load_run
from hyperpelt.config.paths import at_home
from hyperpelt.data.progress import shown
from hyperpelt.errors import UserError
from hyperpelt.evaluation.run import evaluate
from hyperpelt.files import folders
from hyperpelt.files.atomic import write_json, write_text
from hyperpelt.model.maps import flat, similarities, task_vectors
from hyperpelt.model.saving import local_folder
from hyperpelt.model.tuned import TunedModel
from hyperpelt.report.plots import heatmap
from hyperpelt.tasks.plugins import load_each
from hyperpelt.transfer.answering import as_the_run

if TYPE_CHECKING:
    from hyperpelt.config import RunConfig


def measure(
    run: str | Path,
    *,
    output: str | Path | None = None,
    matrix: bool = False,
    split: str = "validation",
    limit: int | None = 200,
    use_cpu: bool = False,
    data_root: str | Path | None = None,
    progress: bool = True,
) -> dict[str, Any]:
    """All maps of a run, as nested lists by name, written to `output` (default RUN/geometry).

    matrix: also the transfer matrix, T x T evaluations on `limit` rows of `split`. Raises UserError for a run of fewer
    than two tasks, or whose method makes nothing by task.
    """
    folder = local_folder(run)
    settings = load_run(folder) if (folder / "run.yaml").is_file() else None
    load_each(settings.plugins if settings else ())
    device = torch.device("cpu") if use_cpu or not torch.accelerator.is_available() else torch.device("cuda")
    dtype = resolve_dtype(settings.backbone_dtype if settings else None)
    model = TunedModel.from_pretrained(folder, device=device, dtype=dtype)
    if len(model.tasks) < 2 or not any(True for _ in model.task_parameters()):
        raise UserError(f"{run} has one task, or a method that makes nothing by task: there is nothing to compare.")
    place = Path(at_home(str(output))) if output is not None else place_for(run) / "geometry"
    place.mkdir(parents=True, exist_ok=True)  # if it cannot be made, that is better known before an hour of measuring
    maps = similarities(model)
    if matrix:
        root = data_root or (settings.data_root if settings else None)
        maps["transfer"] = transfer_matrix(model, settings, split=split, limit=limit, data_root=root, progress=progress)
    content = {"tasks": list(model.tasks), "maps": {name: values.tolist() for name, values in maps.items()}}
    content |= {"split": split if matrix else None, "limit": limit if matrix else None, "output": str(place)}
    _write(place, model, maps, content)
    return content


# ---------------------------------------------------------------------------------------------------- transfer matrix


def transfer_matrix(
    model: TunedModel,
    settings: RunConfig | None,
    *,
    split: str,
    limit: int | None,
    data_root: str | Path | None,
    progress: bool,
) -> Float[np.ndarray, "T T"]:
    """Score of each task (column) under the weights of each task (row)."""
    tasks = [registry.get(name) for name in model.tasks]
    how = as_the_run(settings, model)
    found = np.zeros((len(tasks), len(tasks)))
    options = {"split": split, "limit": limit, "data_root": data_root, "majority": False, "progress": False}
    for row, column in shown(list(np.ndindex(found.shape)), "transfer matrix", "cells", progress=progress):
        # The rows and choices of one task under the name, and so with the weights, of another one.
        weights = tasks[row].name
        posing = replace(tasks[column], name=weights)
        found[row, column] = evaluate(model, [posing], **options, **how).tasks[weights].score
    return found


# ------------------------------------------------------------------------------------------------------------ writing


def _write(folder: Path, model: TunedModel, maps: dict[str, Float[np.ndarray, "T T"]], content: dict[str, Any]) -> None:
    write_json(folder / "geometry.json", content)
    titles = {"transfer": "score of the column's task with the row's weights"}
    for name, values in maps.items():
        title = titles.get(name, f"task similarity: {name}")
        scale = (0.0, 100.0) if name == "transfer" else (-1.0, 1.0)
        write_text(folder / f"{name}.svg", heatmap(values, model.tasks, title=title, scale=scale))
    write_projector(folder / "projector", model)


def write_projector(folder: Path, model: TunedModel) -> None:
    """The vectors behind the maps for TensorBoard's projector; a described model also shows what its words make."""
    from torch.utils.tensorboard import SummaryWriter

    names = list(model.tasks)
    with folders.building(folder) as new, SummaryWriter(str(new)) as writer:
        for name, vectors in task_vectors(model).items():
            labels = names
            if name == "embeddings" and model.described():
                labels = [*names, *(f"{task} (by its words)" for task in names)]
                every = torch.arange(len(names), device=model.device)
                made = [network.by_words(every) for network in model.described()]
                vectors = torch.cat([vectors, flat(made)])
            writer.add_embedding(vectors.float(), metadata=labels, tag=name)
