"""`hyperpelt train`: joint training, then the table of results and what to try next."""

from __future__ import annotations

import json
import os
import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from hyperpelt.commands import common

if TYPE_CHECKING:
    from hyperpelt.config import RunConfig


def train(
    run: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="RUN.yaml [KEY=VALUE]...",
            help="A run's settings, and settings that replace them, such as max_steps=200 or mixing.temperature=5.",
        ),
    ] = None,
    keys: Annotated[bool, typer.Option("--keys", help="List every setting with its default, and exit.")] = False,
    data_root: common.DataRoot = None,
    plugin: common.Plugins = None,
    as_json: common.Json = False,
    debug: common.Debug = False,
) -> None:
    """Train one method jointly on many tasks.

    Writes a run folder (output_dir): config.json and model.safetensors (the trained model), results.json, run.yaml
    with every setting, tensorboard/, checkpoints/. Ctrl-C saves and says how to resume. The same command runs under
    `accelerate launch` with several processes.
    """
    if keys:
        _print_keys(as_json)
        return
    arguments = list(run or ())
    path = Path(arguments.pop(0)) if arguments and _is_file(arguments[0]) else None
    with common.stdout_for_json(as_json):
        from hyperpelt.config import load_run
        from hyperpelt.training import train as start

        common.quiet_transformers()
        options = [*arguments, *([f"data_root={data_root}"] if data_root else [])]
        config = load_run(path, options)
        if plugin:
            config = config.model_copy(update={"plugins": [*config.plugins, *plugin]})
        results = start(config)
    if not _is_main_process():
        return
    if as_json:
        common.print_json(results)
        return
    _print(results, config)


def _is_file(argument: str) -> bool:
    return "=" not in argument or Path(argument).is_file()


def _is_main_process() -> bool:
    return os.environ.get("RANK", "0") == "0"


def _print(results: dict[str, Any], config: RunConfig) -> None:
    from hyperpelt.results import Results

    folder, out = config.output_dir, common.console()
    out.print(Results.from_dict(results).table(title=f"{folder}, {results['split']} split"))
    first = next(iter(results["tasks"]))
    out.print(f"\nRun folder: {folder}\nTry next:", soft_wrap=True, markup=False)
    for command in (
        f"hyperpelt evaluate {folder} --tasks {shlex.quote(first)} --split validation",
        f"echo {shlex.quote(_example_row(first, config))} | hyperpelt predict {folder} --task {shlex.quote(first)}",
        f"hyperpelt report {folder}",
    ):
        out.print(f"  {command}", soft_wrap=True, markup=False)


def _example_row(task: str, config: RunConfig) -> str:
    """A real row of the task, without its answer, as `predict` reads it."""
    from hyperpelt import tasks
    from hyperpelt.commands.predict import columns_read

    definition = tasks.get(task)
    row = definition.rows(config.test_split or config.eval_split, data_root=config.data_root)[0]
    asked = columns_read(definition) or set(row) - set(definition.answer)
    return json.dumps({name: row[name] for name in row if name in asked}, ensure_ascii=False, default=str)


def _print_keys(as_json: bool) -> None:
    from hyperpelt.config import keys

    rows = keys()
    if as_json:
        common.print_json(rows)
        return
    shown = [row | {"default": "(required)" if row["required"] else row["default"]} for row in rows]
    common.print_table(shown, ("key", "default", "description"))
