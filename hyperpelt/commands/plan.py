"""`hyperpelt plan`: will it fit, how long, on what."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from hyperpelt.commands import common

if TYPE_CHECKING:
    from hyperpelt.planning import Plan

Card = Annotated[
    str,
    typer.Option("--card", help="Card whose stated speed gives the estimated time; cpu: a CPU's code paths, no time."),
]


def plan(
    run: Annotated[
        list[str] | None,
        typer.Argument(metavar="RUN.yaml [KEY=VALUE]...", help="A run's settings, and settings that replace them."),
    ] = None,
    memory: Annotated[
        list[str] | None,
        typer.Option(
            "--memory",
            metavar="SIZE",
            help="Memory of a card, such as 24GB; repeatable. Default: 16, 24, 40, 80, 141 GB.",
        ),
    ] = None,
    method: Annotated[
        list[str] | None,
        typer.Option("--methods", metavar="NAME,...", help="Compare these methods instead of the run's own."),
    ] = None,
    num_tasks: Annotated[
        int | None, typer.Option("--num-tasks", min=1, help="Number of tasks, instead of the run's.")
    ] = None,
    processes: Annotated[int, typer.Option("--processes", min=1, help="Processes, each with a batch of its own.")] = 1,
    fsdp: Annotated[bool, typer.Option("--fsdp", help="Shard the frozen backbone over the processes.")] = False,
    on: Card = "h100",
    plugin: common.Plugins = None,
    picture: Annotated[Path | None, typer.Option("--picture", help="Draw memory by part into this file.")] = None,
    as_json: common.Json = False,
    debug: common.Debug = False,
) -> None:
    """Tell what a run takes before it starts: memory by part, the largest batch, FLOPs, messages, an estimated time.

    Needs no weights, no data and no device: the real code runs over shapes.
    """
    with common.stdout_for_json(as_json):
        from hyperpelt.config import load_run
        from hyperpelt.planning import page, plan_run
        from hyperpelt.planning.plan import MEMORIES

        arguments = list(run or ())
        path = common.settings_taken(arguments)
        config = load_run(path, [*([] if path else [("output_dir", ".")]), *arguments])
        common.say_plugins_of_settings(path, config.plugins)
        common.load_named_plugins(plugin)
        named = common.named_tasks(method or ()) or [None]
        options = {"num_tasks": num_tasks, "processes": processes, "fsdp": fsdp, "on": on}
        plans = [plan_run(config, method=name, memory=memory or MEMORIES, **options) for name in named]
        if picture is not None:
            page.picture(plans, common.writable(picture))
            common.note(f"Picture: {picture}")
    if as_json:
        common.print_json([one.to_dict() for one in plans] if method else plans[0].to_dict())
        return
    _print_one(plans[0]) if len(plans) == 1 else _print_all(plans)
    notes: dict[str, list[str]] = {}
    for one in plans:
        for line in one.notes:
            notes.setdefault(line, []).append(one.method)
    for line, of in notes.items():
        common.note(line if len(of) == len(plans) else f"{', '.join(of)}: {line}")


def _print_all(plans: list[Plan]) -> None:
    from hyperpelt.planning import page

    rows = page.compared(plans)
    common.print_table(rows, list(rows[0]), right=set(rows[0]) - {"backbone", "method"})
    common.note(page.about(plans[0]))


def _print_one(plan: Plan) -> None:
    from hyperpelt.planning import page

    common.note(page.about(plan))
    common.print_table(page.memory_rows(plan), ("what", "bytes"), right=("bytes",))
    columns = ("part of a step", "GFLOP", "share", "bytes moved")
    common.print_table(page.work_rows(plan), columns, right=columns[1:])
    if why := page.spared(plan):
        common.note(why)
    fits = [{"memory": size, "largest batch, rows": rows or "none fits"} for size, rows in plan.fits.items()]
    common.print_table(fits, ("memory", "largest batch, rows"), right=("largest batch, rows",))
    if plan.seconds is not None and plan.card is not None:
        common.note(
            f"An estimate from what the maker of the {plan.card.name} states, not measured: at best "
            f"{1000 * plan.seconds:,.1f} ms a step."
        )
