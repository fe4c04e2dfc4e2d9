"""`hyperpelt train`: joint training, then the table of results and what to try next."""

from __future__ import annotations

import json
import os
import shlex
import shutil
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from hyperpelt.backbones.quiet import quiet_transformers
from hyperpelt.commands import adding, common
from hyperpelt.evaluation.tables import data

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
    add: Annotated[
        list[str] | None,
        typer.Option(
            "--add", metavar="TASK", help="Add this task to the run --from, training only its embedding; repeatable."
        ),
    ] = None,
    source: Annotated[
        str | None, typer.Option("--from", metavar="RUN", help="The trained run that --add adds to; it stays as it is.")
    ] = None,
    data_root: common.DataRoot = None,
    plugin: common.Plugins = None,
    as_json: common.Json = False,
    debug: common.Debug = False,
) -> None:
    """Train one method jointly on many tasks.

    Writes a run folder (output_dir): config.json and model.safetensors (the trained model), results.json, report.html,
    run.yaml with every setting, tensorboard/, checkpoints/. Ctrl-C saves and says how to resume. The same command runs
    under `accelerate launch` with several processes.

    --add TASK --from RUN takes over RUN's settings, trains only the new task's embedding, and writes another folder
    (output_dir, default RUN+TASK). The outputs of RUN's tasks stay the same to the bit.
    """
    if keys:
        _print_keys(as_json)
        return
    arguments = list(run or ())
    path = common.settings_taken(arguments)
    with common.stdout_for_json(as_json):
        from hyperpelt.config import load_run
        from hyperpelt.report import write_report
        from hyperpelt.training import train as start

        quiet_transformers()
        # run.yaml is read again from other folders: what the flags name is kept by its full path.
        base, added = adding.settings_of(add, source, arguments)
        options = [*added, *arguments, *([("data_root", common.full_path(data_root))] if data_root else [])]
        config = load_run(path or base, options)
        common.say_plugins(config.plugins if source else (), str(source))
        common.say_plugins_of_settings(path, config.plugins)
        if plugin:
            config = config.model_copy(update={"plugins": [*config.plugins, *common.full_plugins(plugin)]})
        results = start(config)
        if not _is_main_process():
            return
        write_report([config.output_dir], Path(config.output_dir) / "report.html")
    if as_json:
        common.print_json(results)
        return
    _print(results, config)


def _is_main_process() -> bool:
    return os.environ.get("RANK", "0") == "0"


def _print(results: dict[str, Any], config: RunConfig) -> None:
    from hyperpelt.evaluation.results import Results

    out, folder = common.console(), shlex.quote(config.output_dir)
    common.print_results(Results.from_dict(results), title=f"{config.output_dir}, {results['split']} split")
    first, program = shlex.quote(next(iter(results["tasks"]))), _program()
    row = shlex.quote(_example_row(next(iter(results["tasks"])), config))
    for line in (
        "",
        f"Run folder  {config.output_dir}",
        f"Report      {config.output_dir}/report.html",
        "",
        "Try next:",
        f"  {program} evaluate {folder} --tasks {first} --split {_another_split(results, config)}",
        f"  printf '%s\\n' {row} | {program} predict {folder} --task {first}",
        f"  {program} export {folder} --task {first}",
    ):
        out.print(data(line), soft_wrap=True)


def _another_split(results: dict[str, Any], config: RunConfig) -> str:
    """One that the first task has, if possible other than the one in the table."""
    from hyperpelt import tasks

    first = next(iter(results["tasks"]))
    names, shown = tasks.get(first).splits.names(), config.test_split_of(first)
    return next((name for name in ("validation", "test", "train") if name in names and name != shown), names[0])


def _program() -> str:
    """How to call this command again: by its name, or by its path where the environment is not activated."""
    script = Path(sys.executable).with_name("hyperpelt")
    found = shutil.which("hyperpelt")
    if not script.exists() or (found and Path(found).samefile(script)):
        return "hyperpelt"
    return shlex.quote(str(script))


def _example_row(task: str, config: RunConfig) -> str:
    """A real row of the task, without its answer, as `predict` reads it."""
    from hyperpelt import tasks
    from hyperpelt.tasks.lines import columns_read

    definition = tasks.get(task)
    row = definition.rows(config.test_split_of(task), data_root=config.data_root)[0]
    asked = set(columns_read(definition, row)) or set(row) - set(definition.answer)
    shown = {name: _without_bytes(row[name]) for name in row if name in asked}
    return json.dumps(shown, ensure_ascii=False, default=str)


def _without_bytes(value: Any) -> Any:
    """A picture of the data as the path that a user would write instead."""
    picture = isinstance(value, bytes) or (isinstance(value, dict) and isinstance(value.get("bytes"), bytes))
    return "picture.jpg" if picture else value


def _print_keys(as_json: bool) -> None:
    from hyperpelt.config import keys

    rows = keys()
    if as_json:
        common.print_json(rows)
        return
    shown = [
        row
        | {"default": "(required)" if row["required"] else row["default"]}
        | {"description": "; ".join(filter(None, (", ".join(row["choices"] or ()), row["description"])))}
        for row in rows
    ]
    common.print_table(shown, ("key", "default", "description"))
