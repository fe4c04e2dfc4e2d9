"""`hyperpelt methods`: every method, what it touches, and how much it trains on a given backbone."""

from __future__ import annotations

import textwrap
from typing import Annotated, Any

import typer

from hyperpelt.commands import common
from hyperpelt.errors import UserError, counted
from hyperpelt.evaluation.tables import data

app = typer.Typer(no_args_is_help=True, help="Methods: what each is made of, and its trainable count on a backbone.")
LISTED = ("name", "family", "trainable", "percent", "mergeable", "where", "source", "operations", "paper", "equations")

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
    """List every method by family, with its trainable count: values trained, and percent of the backbone.

    Merges: whether one task fits into the backbone's weights (yes; in memory: with further biases or units; in part;
    no). Then the operations touched, and whose tensors are used there. Each method whose tensors are per task also
    exists as hyper-NAME (made by a hypernetwork) and shared-NAME.
    """
    with common.stdout_for_json(as_json):
        common.load_named_plugins(plugin)
        rows = _rows(backbone, num_tasks)
    if as_json:
        common.print_json([{column: row[column] for column in LISTED} for row in rows])
        return
    _print_list(rows)
    common.note(f"Backbone {backbone}, {counted(num_tasks, 'task')}. Parts and settings: hyperpelt methods show NAME")


def _rows(backbone: str, num_tasks: int) -> list[dict[str, Any]]:
    from hyperpelt import methods
    from hyperpelt.backbones import load_backbone
    from hyperpelt.commands import method_rows

    model = load_backbone(backbone, from_config=True)
    rows = []
    for name in methods.names():
        try:
            rows.append(method_rows.row(name, model, num_tasks))
        except UserError as problem:  # a method that this family cannot take must not hide the others
            common.note(f"{name}: {problem}")
    return [row for members in method_rows.in_families(rows).values() for row in members]


def _print_list(rows: list[dict[str, Any]]) -> None:
    """A line a method where there is room for it, as in a pipe; else what it touches stands below its numbers."""
    from hyperpelt.commands.method_rows import in_families, short_paper

    out, papers = common.console(), {row["name"]: short_paper(row["paper"]) for row in rows}
    size, room = (max(map(len, texts), default=0) + 1 for texts in (papers, papers.values()))
    numbers = {
        row["name"]: f"{row['name']:<{size}}{row['trainable']:>12,}{row['percent']:>9.3f}  {row['mergeable']:<11}"
        f"{papers[row['name']]:<{room}}"
        for row in rows
    }
    wide = all(len(numbers[row["name"]] + row["where"]) <= out.width for row in rows)
    for family, members in in_families(rows).items():
        title = f"{family.upper():<{size}}{'trained':>12}{'%':>9}  {'merges':<11}{'paper':<{room}}"
        out.print(data((title + ("where" if wide else "")).rstrip()), style="bold", soft_wrap=True)
        for row in members:
            out.print(data((numbers[row["name"]] + (row["where"] if wide else "")).rstrip()), soft_wrap=True)
            below = "" if wide else textwrap.fill(row["where"], out.width - 5)
            if below:
                out.print(data(textwrap.indent(below, "    ")), soft_wrap=True)
        out.print()


@app.command("show")
def show_method(
    name: Annotated[str, typer.Argument(metavar="NAME", help="A method, such as hyperpelt or hyper-lora.")],
    backbone: Backbone = "mini-bart",
    num_tasks: NumTasks = 8,
    plugin: common.Plugins = None,
    as_json: common.Json = False,
    debug: common.Debug = False,
) -> None:
    """Show one method: where its equations stand, its settings with defaults, and its parts, as YAML for a run.

    What is printed is YAML as a whole: hyperpelt methods show NAME >> RUN.yaml
    """
    with common.stdout_for_json(as_json):
        from hyperpelt import methods
        from hyperpelt.backbones import load_backbone
        from hyperpelt.commands import method_rows

        common.load_named_plugins(plugin)
        chosen = methods.get(name)
        row = method_rows.row(chosen, load_backbone(backbone, from_config=True), num_tasks)
        row["parts"], row["unfreeze"] = list(methods.describe_parts(chosen)), list(chosen.unfreeze)
        row["uncompilable"] = chosen.uncompilable
        row |= {"yaml": method_rows.as_yaml(chosen), "modules": methods.files(chosen)}
    if as_json:
        common.print_json(row)
        return
    _print(row, backbone, num_tasks)


def _print(row: dict[str, Any], backbone: str, num_tasks: int) -> None:
    """All of it is YAML: what is said beside the method is said in comments."""
    source = ", ".join(filter(None, (row["paper"], row["equations"])))
    head = [
        f"{row['name']} ({row['family']}): {source}",
        f"equations as built: in the text of {', '.join(row['modules'])}",
        *([f"compared with: {row['reference']}"] if row["reference"] else []),
        f"{row['trainable']:,} values trained on {backbone} with {counted(num_tasks, 'task')} ({row['percent']:.3f} %)",
        f"merges into the backbone's weights: {row['mergeable']}",
        f"torch_compile makes {'one graph of a step' if not row['uncompilable'] else 'none: ' + row['uncompilable']}",
    ]
    settings = [f"  {key}: {common.as_json(value)}" for key, value in row["parameters"].items()]
    tail = [f"in short, method: {row['name']}; or {{name: {row['name']}, SETTING: value}} with", *settings]
    out = common.console()
    for line in (*map("# {}".format, head), row["yaml"].rstrip(), *map("# {}".format, tail if settings else [])):
        out.print(data(line), soft_wrap=True)
