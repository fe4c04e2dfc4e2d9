"""`hyperpelt tasks`: which tasks there are and where each comes from; one task's rows; checks; a plugin skeleton."""

from __future__ import annotations

import keyword
import shlex
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from hyperpelt.commands import common
from hyperpelt.errors import UserError
from hyperpelt.evaluation.tables import data

app = typer.Typer(no_args_is_help=True, help="Tasks: list them, look at their rows, check them, start a plugin.")


@app.command("list")
def list_tasks(
    pattern: Annotated[str, typer.Argument(metavar="[PATTERN]", help="Shell-style, such as 'glue/*'.")] = "*",
    plugin: common.Plugins = None,
    as_json: common.Json = False,
    debug: common.Debug = False,
) -> None:
    """List tasks and where each comes from. Reads no data."""
    with common.stdout_for_json(as_json):
        from hyperpelt import tasks
        from hyperpelt.tasks import listing

        common.load_named_plugins(plugin)
        rows = listing.list_tasks(pattern)
        for origin, trace in tasks.broken_plugins():
            common.note(f"Plugin {origin} could not be loaded, so its tasks are missing:\n{trace}")
    if as_json:
        common.print_json(rows)
        return
    if not rows:
        raise UserError(f"No task matches {pattern!r}; `hyperpelt tasks list` shows them all.")
    shown = [row | {"metrics": ", ".join(row["metrics"])} for row in rows]
    common.print_table(shown, ("name", "kind", "metrics", "origin", "description"))
    mixtures = sorted({name for row in rows for name in row["mixtures"]})
    common.note(f"Mixtures: {', '.join(mixtures) or 'none'}. One task: hyperpelt tasks show NAME")


@app.command("show")
def show_task(
    name: Annotated[str, typer.Argument(metavar="NAME", help="A task, such as glue/rte.")],
    rows: Annotated[int, typer.Option("--rows", min=0, help="Rendered rows of each split.")] = 2,
    data_root: common.DataRoot = None,
    plugin: common.Plugins = None,
    as_json: common.Json = False,
    debug: common.Debug = False,
) -> None:
    """Show a task's definition and some rows of each split, rendered as the model will read them."""
    with common.stdout_for_json(as_json):
        from hyperpelt.tasks import listing

        common.load_named_plugins(plugin)
        content = listing.show_task(name, data_root=data_root, n=rows)
    if as_json:
        common.print_json(content)
    else:
        _print(content)
    if len(content["examples"]) < len(content["sizes"]):  # the data are there, but a row does not render
        raise UserError(content["problem"])


def _print(content: dict[str, Any]) -> None:
    from hyperpelt.tasks.findings import for_reading

    out = common.console()

    def line(text: str) -> None:
        out.print(data(text), soft_wrap=True)

    for key in ("name", "kind", "metrics", "choices", "source", "origin", "mixtures", "fingerprint", "description"):
        value = content[key]
        line(f"{key:12} {', '.join(value) if isinstance(value, list) else value or '-'}")
    for split, made in content["splits"].items():
        size = content["sizes"].get(split)
        line(f"{split:12} {made}" + ("" if size is None else f": {size:,} rows"))
    for split, examples in content["examples"].items():
        for example in examples:
            own = "" if content["choices"] else f"\n  choices {' | '.join(example['choices'] or ['(open answer)'])}"
            text, target = (for_reading(example[key], indent=10) for key in ("input", "target"))
            line(f"\n{split}\n  input   {text}\n  target  {target}{own}")
    if content["problem"] and len(content["examples"]) == len(content["sizes"]):
        common.note(f"\nRows could not be read: {content['problem']}")


@app.command("check")
def check_tasks(
    names: Annotated[list[str], typer.Argument(metavar="NAME...", help="Tasks, wildcards or mixtures.")],
    backbone: Annotated[
        str | None,
        typer.Option(
            "--backbone", metavar="ID|FOLDER", help="Backbone with whose tokenizer lengths and targets are checked."
        ),
    ] = None,
    max_source_length: Annotated[
        int, typer.Option("--max-source-length", min=2, help="Tokens; longer inputs count as cut.")
    ] = 128,
    max_target_length: Annotated[
        int, typer.Option("--max-target-length", min=2, help="Tokens; longer targets count as cut.")
    ] = 32,
    limit: Annotated[
        int | None, typer.Option("--limit", min=1, help="At most this many rows of each split, a fixed random sample.")
    ] = None,
    data_root: common.DataRoot = None,
    plugin: common.Plugins = None,
    as_json: common.Json = False,
    debug: common.Debug = False,
) -> None:
    """Check tasks on their data: columns, labels, choices, lengths, class balance, leaks between splits.

    Exit status 2 if a task has an error; warnings are for the author to judge.
    """
    with common.stdout_for_json(as_json):
        from hyperpelt import tasks

        common.load_named_plugins(plugin)
        options = {
            "tokenizer": _tokenizer(backbone),
            "max_source_length": max_source_length,
            "max_target_length": max_target_length,
            "limit": limit,
            "data_root": data_root,
        }
        reports = []
        for task in tasks.select(names):
            reports.append(tasks.check_task(task, **options))
            if not as_json:
                common.console().print(data(f"{reports[-1]}\n"), soft_wrap=True)
    if as_json:
        common.print_json([report.as_dict() for report in reports])
    wrong = [report.task for report in reports if not report.ok]
    if wrong:
        raise UserError(f"{len(wrong)} of {len(reports)} tasks have errors: {', '.join(wrong)}.")


def _tokenizer(backbone: str | None) -> Any:
    """The named backbone's; by default mini-bart's if it is installed, else none."""
    from hyperpelt.backbones import load_tokenizer

    try:
        return load_tokenizer(backbone or "mini-bart")
    except UserError as problem:
        if backbone is not None:
            raise
        common.note(f"Tokens are not checked: {problem}")
        return None


@app.command("new")
def new_task(
    name: Annotated[str, typer.Argument(metavar="NAME", help="The plugin package's name, such as my-tasks.")],
    folder: Annotated[
        Path | None, typer.Option("--folder", metavar="FOLDER", help="Where to write; default: ./NAME.")
    ] = None,
    as_json: common.Json = False,
    debug: common.Debug = False,
) -> None:
    """Write a task plugin that works as it stands, with data and a test, to change line by line."""
    from hyperpelt.tasks.skeleton import new_plugin

    _check_package(name.replace("-", "_"))
    folder = folder or Path(name)
    with common.stdout_for_json(as_json):
        files = new_plugin(folder, name)
    if as_json:
        common.print_json([str(path) for path in files])
        return
    for path in files:
        print(f"wrote {path}")
    print(f"\nTry it: pip install -e {shlex.quote(str(folder))} && hyperpelt tasks list")


def _check_package(package: str) -> None:
    """UserError for a name that Python or hyperpelt has already: the plugin's package could not be imported."""
    kinds = (
        ("a word of Python's syntax", keyword.kwlist),
        ("a module of Python's standard library", sys.stdlib_module_names),
        ("a package of hyperpelt's", ("hyperpelt", "hyperpelt_tasks")),
    )
    for taken in (kind for kind, names in kinds if package in names):
        raise UserError(f"{package!r} is {taken}: name the plugin otherwise, such as my-{package.replace('_', '-')}.")
