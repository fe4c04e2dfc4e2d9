"""`hyperpelt transfer`: what a trained run does on tasks that it never saw, with no, few and many examples."""

from __future__ import annotations

import shlex
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer

from hyperpelt.backbones.quiet import quiet_transformers
from hyperpelt.commands import common
from hyperpelt.errors import visible


class Sampling(StrEnum):
    """Which rows are shots."""

    balanced = "balanced"
    plain = "plain"


class Choose(StrEnum):
    """Whose weights are measured."""

    last = "last"
    held_out = "held-out"


class Recipe(StrEnum):
    """Named sets of settings."""

    default = "default"
    t_few = "t-few"


class Loss(StrEnum):
    """What the shots are trained on."""

    lm = "lm"
    ranking = "ranking"
    t_few = "t-few"


Tasks = Annotated[list[str], typer.Option("--tasks", help="Names, wildcards or mixtures, comma-separated or repeated.")]
Adapt = Annotated[
    str,
    typer.Option(
        "--adapt",
        help="embedding, hypernetwork or all of the run; scratch (its method, fresh); in-context; any method's name "
        "(on the bare backbone).",
    ),
]
Baselines = Annotated[
    bool, typer.Option("--baselines", help="Also full, houlsby, prefix-tuning, ia3, lora, in-context.")
]
Start = Annotated[
    str, typer.Option("--from", help="Where new tasks start: mean, nearest, scored, described, like:TASK.")
]
TheRecipe = Annotated[
    Recipe, typer.Option("--recipe", help="t-few: T-Few's losses, Adafactor, 1000 steps, per-token scoring.")
]
TheSampling = Annotated[
    Sampling, typer.Option("--sampling", help="Equally many shots of each choice, or a plain draw.")
]
TheChoice = Annotated[
    Choose | None,
    typer.Option("--choose", help="The last step's weights, or the best on a held-out quarter of the shots."),
]
TheLoss = Annotated[Loss | None, typer.Option("--loss", help="Training loss; default lm.")]
Rates = Annotated[
    list[str] | None,
    typer.Option(
        "--learning-rate", metavar="[ADAPT=]RATE", help="Peak rate, for all or for one of --adapt; repeatable."
    ),
]
Rows = Annotated[
    int | None, typer.Option("--limit", min=1, help="At most this many test rows of each task, a fixed random sample.")
]
Context = Annotated[int, typer.Option("--context-length", min=8, help="Tokens of an in-context prompt.")]
Processes = Annotated[int, typer.Option("--processes", min=1, help="Processes to spread the cells over.")]
Output = Annotated[
    Path | None,
    typer.Option("--output", metavar="FOLDER", help="Default: RUN/transfer; a stopped transfer goes on there."),
]


def transfer(
    run: common.Run,
    tasks: Tasks,
    shots: Annotated[
        str, typer.Option("--shots", help="Numbers of training examples, comma-separated.")
    ] = "0,4,16,32,100",
    seeds: Annotated[str, typer.Option("--seeds", help="How many (5), or which ones (13,21,42).")] = "5",
    adapt: Adapt = "embedding,hypernetwork,all,scratch",
    baselines: Baselines = False,
    start: Start = "mean",
    recipe: TheRecipe = Recipe.default,
    sampling: TheSampling = Sampling.balanced,
    choose: TheChoice = None,
    loss: TheLoss = None,
    steps: Annotated[int | None, typer.Option("--steps", min=2, help="Optimiser steps; default 300.")] = None,
    batch_size: Annotated[int | None, typer.Option("--batch-size", min=1, help="Rows a step; default 8.")] = None,
    learning_rate: Rates = None,
    split: Annotated[str, typer.Option("--split", help="Split that is measured.")] = "test",
    limit: Rows = None,
    context_length: Context = 512,
    normalisation: common.Normalisation = None,
    processes: Processes = 1,
    cpu: common.Cpu = False,
    output: Output = None,
    data_root: common.DataRoot = None,
    plugin: common.Plugins = None,
    as_json: common.Json = False,
    debug: common.Debug = False,
) -> None:
    """Adapt a run to tasks that it never saw, and measure it: every task x number of shots x seed x adaptation.

    Writes cells.jsonl (a line a finished cell; a stopped transfer goes on there), summary.json, table.md, curves as SVG
    and report.html. Works under torchrun, too.
    """
    how: dict[str, Any] = {"shots": shots, "seeds": seeds, "adapt": adapt, "start": start, "sampling": sampling.value}
    how |= {"choose": choose and choose.value, "loss": loss and loss.value, "steps": steps, "batch_size": batch_size}
    how |= {"learning_rate": learning_rate, "split": split, "limit": limit, "context_length": context_length}
    how |= {"scoring": normalisation and normalisation.value, "use_cpu": cpu, "output": output and str(output)}
    how |= {"data_root": common.full_path(data_root), "plugins": common.full_plugins(plugin)}
    with common.stdout_for_json(as_json):
        from hyperpelt.transfer.run import transfer as start_transfer

        quiet_transformers()
        common.load_plugins_of(run, plugin)
        names = common.named_tasks(tasks)
        found = start_transfer(run, tasks=names, processes=processes, recipe=recipe.value, baselines=baselines, **how)
    if found["rank"]:
        return
    if as_json:
        common.print_json({key: value for key, value in found.items() if key != "rank"})
    else:
        _print(found, title=f"{run}, {split} split")


def _print(found: dict[str, Any], *, title: str) -> None:
    from hyperpelt.report.transfer_table import table

    common.show(table(found["summary"], title=title), keys=3)
    for line in found["notes"]:
        common.note(line)
    print(visible(f"\nCells, plots and report: {found['output']}"))


WHOLE = 16  # tasks of a map that is printed whole
NEAREST = 3  # tasks shown beside each one of a larger map


def geometry(
    run: common.Run,
    output: Annotated[Path | None, typer.Option("--output", metavar="FOLDER", help="Default: RUN/geometry.")] = None,
    matrix: Annotated[
        bool, typer.Option("--matrix", help="Also measure every task with the weights of every other one.")
    ] = False,
    split: Annotated[str, typer.Option("--split", help="Split that the matrix is measured on.")] = "validation",
    limit: Annotated[
        int | None, typer.Option("--limit", min=1, help="At most this many rows of each task in the matrix.")
    ] = 200,
    cpu: common.Cpu = False,
    data_root: common.DataRoot = None,
    plugin: common.Plugins = None,
    as_json: common.Json = False,
    debug: common.Debug = False,
) -> None:
    """How near a run's tasks are to each other: their embeddings, the weights made for them, and what they do.

    Writes geometry.json, plots as SVG, and data for TensorBoard's projector.
    """
    with common.stdout_for_json(as_json):
        from hyperpelt.transfer.geometry import measure

        quiet_transformers()
        common.load_plugins_of(run, plugin)
        found = measure(
            run,
            output=output,
            matrix=matrix,
            split=split,
            limit=limit,
            use_cpu=cpu,
            data_root=data_root,
            progress=not as_json,
        )
    if as_json:
        common.print_json(found)
        return
    for name, values in found["maps"].items():
        print(f"\n{name}")
        _print_map(found["tasks"], values)
    projector = shlex.quote(f"{found['output']}/projector")
    print(visible(f"\nPlots: {found['output']}\nProjector: tensorboard --logdir {projector}"))


def _print_map(tasks: list[str], values: list[list[float]]) -> None:
    """A small map whole; of a large one each task's nearest (the whole is in geometry.json and the picture)."""
    if len(tasks) <= WHOLE:
        lines = [
            {"task": task, **{other: f"{value:.2f}" for other, value in zip(tasks, line, strict=True)}}
            for task, line in zip(tasks, values, strict=True)
        ]
        common.print_table(lines, ("task", *tasks), right=tasks)
        return
    rows: list[dict[str, str]] = []
    for number, (task, line) in enumerate(zip(tasks, values, strict=True)):
        others = sorted((place for place in range(len(tasks)) if place != number), key=lambda place: -line[place])
        rows += [
            {"task": "" if rank else task, "nearest": tasks[place], "": f"{line[place]:.2f}"}
            for rank, place in enumerate(others[:NEAREST])
        ]
    common.print_table(rows, ("task", "nearest", ""), right=("",))
