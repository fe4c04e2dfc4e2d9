"""`hyperpelt methods`: every method, what it touches, and how much it trains on a given backbone."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from hyperpelt.commands import common
from hyperpelt.errors import UserError
from hyperpelt.evaluation.tables import data

app = typer.Typer(no_args_is_help=True, help="Methods: what each is made of, and its trainable count on a backbone.")
COLUMNS = ("name", "trainable", "percent", "source", "operations", "paper")

Backbone = Annotated[
    str,
    typer.Option("--backbone", metavar="ID|FOLDER", help="Embedded name, folder or hub id; only its config is read."),
]
NumTasks = Annotated[int, typer.Option("--num-tasks", min=1, help="Tasks trained jointly.")]


@app.command("list")
def list_methods(
    backbone: Backbone = "mini-bart",
    num_tasks: NumTasks = 8,
    plugin: common.Plugins = None,
    as_json: common.Json = False,
    debug: common.Debug = False,
) -> None:
    """List every method with its trainable count: values trained, and percent of the backbone.

    Each method whose tensors are per task also exists as hyper-NAME (made by a hypernetwork) and shared-NAME.
    """
    with common.stdout_for_json(as_json):
        common.load_named_plugins(plugin)
        rows = _rows(backbone, num_tasks)
    if as_json:
        common.print_json(rows)
        return
    shown = [row | {"percent": f"{row['percent']:.3f}"} for row in rows]
    common.print_table(shown, COLUMNS, right=("trainable", "percent", "operations"))
    common.note(f"Backbone {backbone}, {num_tasks} tasks. Parts and settings: hyperpelt methods show NAME")


def _rows(backbone: str, num_tasks: int) -> list[dict[str, Any]]:
    from hyperpelt import methods
    from hyperpelt.backbones import load_backbone

    model = load_backbone(backbone, from_config=True)
    rows = []
    for name in methods.names():
        try:
            row = methods.describe(name, backbone=model, num_tasks=num_tasks)
        except UserError as problem:  # a method that this family cannot take must not hide the others
            common.note(f"{name}: {problem}")
            continue
        rows.append({column: row[column] for column in COLUMNS})
    return rows


@app.command("show")
def show_method(
    name: Annotated[str, typer.Argument(metavar="NAME", help="A method, such as hyperpelt or hyper-lora.")],
    backbone: Backbone = "mini-bart",
    num_tasks: NumTasks = 8,
    plugin: common.Plugins = None,
    as_json: common.Json = False,
    debug: common.Debug = False,
) -> None:
    """Show one method: its parts (tuner at operations from source), settings with defaults, equations' source."""
    with common.stdout_for_json(as_json):
        from hyperpelt import methods

        common.load_named_plugins(plugin)
        row = methods.describe(name, backbone=backbone, num_tasks=num_tasks)
        row["parts"] = list(methods.describe_parts(methods.get(name)))
        row["unfreeze"] = list(methods.get(name).unfreeze)
    if as_json:
        common.print_json(row)
        return
    _print(row, backbone, num_tasks)


def _print(row: dict[str, Any], backbone: str, num_tasks: int) -> None:
    out = common.console()
    out.print(data(row["name"]), data(f" {row['paper']}"), soft_wrap=True)
    out.print(
        data(f"{row['trainable']:,} values trained on {backbone} with {num_tasks} tasks ({row['percent']:.3f} %)\n")
    )
    if row["parts"]:
        common.print_table(row["parts"], ("part", "tuner", "at", "source"))
    if row["unfreeze"]:
        out.print(data(f"\nTrained in a copy of their own: {', '.join(row['unfreeze'])}"))
    if row["parameters"]:
        out.print("\nSettings with their defaults (in a run's YAML: method: {name: ..., setting: value}):")
        for key, value in row["parameters"].items():
            out.print(data(f"  {key}: {value}"))
