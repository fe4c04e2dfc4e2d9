"""What the commands share: their common options, and how they print for people and for machines."""

from __future__ import annotations

import contextlib
import json
import os
import re
import sys
from collections.abc import Iterable, Iterator, Sequence
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from hyperpelt.errors import UserError, visible
from hyperpelt.evaluation.tables import console as console
from hyperpelt.evaluation.tables import made_of, show

if TYPE_CHECKING:
    from hyperpelt.config import RunConfig
    from hyperpelt.evaluation.results import Results

# `--debug` is read by `cli.run`, before and whatever else goes wrong; here it is only declared, for the help.
Debug = Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")]
Json = Annotated[bool, typer.Option("--json", help="Print JSON on stdout and nothing else.")]
Plugins = Annotated[
    list[str] | None,
    typer.Option(
        "--plugin",
        metavar="FILE|MODULE",
        help="Load tasks or methods from a .py or .yaml file or a module; repeatable.",
    ),
]
DataRoot = Annotated[
    Path | None,
    typer.Option("--data-root", metavar="FOLDER", help="Local mirror of the data sets; default: HYPERPELT_DATA."),
]
BatchSize = Annotated[int | None, typer.Option("--batch-size", min=1, help="Rows read at once; default: the run's.")]


class Rule(StrEnum):
    """Length rules of choice scoring, as `model.scoring` knows them (that needs PyTorch, and help is quick)."""

    sum = "sum"
    token = "token"
    character = "character"


class Number(StrEnum):
    """How a regression's number comes out of its choices, as `hyperpelt.evaluation.answers` knows it."""

    expected = "expected"
    argmax = "argmax"


Normalisation = Annotated[
    Rule | None, typer.Option("--normalisation", help="Length rule of choice scoring; default: the run's.")
]
Regression = Annotated[
    Number,
    typer.Option(
        "--regression",
        help="How a regression answers: the probability-weighted mean of its choices, or the best choice.",
    ),
]
Beams = Annotated[
    int | None, typer.Option("--num-beams", min=1, help="Beams of the search for open answers; default: the task's.")
]
Limit = Annotated[
    int | None, typer.Option("--limit", min=1, help="At most this many rows of each task, a fixed random sample.")
]
Cpu = Annotated[bool, typer.Option("--cpu", help="Use the CPU even where there is an accelerator.")]
Backbone = Annotated[
    str | None,
    typer.Option("--backbone", metavar="FOLDER|ID", help="Where the run's backbone is now; default: where it was."),
]
PARTS = ("config.json", "model.safetensors", "run.yaml", "results.json")  # of a run
Run = Annotated[
    str, typer.Argument(metavar="RUN", help="A run folder, as `hyperpelt train` writes it, a shipped run, or a hub id.")
]


def note(message: str) -> None:
    """One line on stderr, beside the result."""
    print(visible(message), file=sys.stderr)


@contextlib.contextmanager
def stdout_for_json(wanted: bool) -> Iterator[None]:
    """While inside, whatever libraries print goes to stderr, so that stdout holds JSON alone."""
    with contextlib.redirect_stdout(sys.stderr) if wanted else contextlib.nullcontext():
        yield


def writable(path: Path) -> Path:
    """A file that can be written when hours of work are done: its folder is made now.

    Raises UserError if it is a folder, a file that a run or model is made of, or cannot be written.
    """
    if path.is_dir():
        raise UserError(f"Cannot write {path}: it is a folder; name a file in it.")
    place = path.resolve()
    if place.exists() and place.name in PARTS and (place.parent / PARTS[0]).exists():
        raise UserError(f"Cannot write {path}: it belongs to the run or model in {place.parent}; name another file.")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as problem:
        raise UserError(f"Cannot write {path}: {problem.strerror} ({problem.filename}).") from None
    if not os.access(path if path.exists() else path.parent, os.W_OK):
        raise UserError(f"Cannot write {path}: permission denied.")
    return path


def print_json(content: Any) -> None:
    """JSON on stdout; nan and infinities, which JSON lacks, become null."""
    from hyperpelt.files.atomic import finite

    print(as_json(finite(content), indent=2))


def as_json(content: Any, indent: int | None = None) -> str:
    """JSON in which nothing controls a terminal: what JSON itself lets stand is written as \\u...."""
    text = json.dumps(content, indent=indent, ensure_ascii=False, default=str)
    return re.sub(
        "[\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069\ud800-\udfff]", lambda one: f"\\u{ord(one[0]):04x}", text
    )


def say_path(path: object) -> None:
    """A path on stdout: as it is for programs, visibly for people."""
    print(visible(str(path)) if sys.stdout.isatty() else path)


def print_table(rows: Sequence[dict[str, Any]], columns: Sequence[str], *, right: Iterable[str] = ()) -> None:
    """Rows as a table of the named columns, the first of which names them."""
    show(made_of(rows, columns, right=right))


def print_results(results: Results, *, title: str) -> None:
    """The table of an evaluation, and what is to be said of single tasks."""
    show(results.table(title=title))
    for name, result in results.tasks.items():
        for line in result.notes:
            note(f"{name}: {line}")


def settings_taken(arguments: list[str]) -> Path | None:
    """The file or run folder of `[RUN.yaml] [KEY=VALUE]...`, taken off the arguments; None where settings alone stand.

    What is there is a path, whatever its name holds: `runs/lr=0.1`.
    """
    if not arguments or ("=" in arguments[0] and not _holds_settings(Path(arguments[0]))):
        return None
    return Path(arguments.pop(0))


def _holds_settings(path: Path) -> bool:
    return path.is_file() or (path / "run.yaml").is_file()


def full_path(root: Path | None) -> str | None:
    """A folder named in full: settings that are kept are read again from other folders."""
    return None if root is None else str(root.resolve())


def full_plugins(plugins: Iterable[str] | None) -> list[str]:
    """Plugins with files named in full, modules as they are."""
    return [str(Path(one).resolve()) if Path(one).is_file() else one for one in plugins or ()]


def named_tasks(entries: Iterable[str]) -> list[str]:
    """The names of `--tasks`, which may be repeated and may hold several, parted by commas."""
    return [name for entry in entries for name in entry.replace(",", " ").split()]


def load_named_plugins(plugins: Iterable[str] | None) -> None:
    """Load the plugins that the user named."""
    from hyperpelt import tasks

    before = len(tasks.broken_plugins()) if plugins else 0
    for plugin in plugins or ():
        tasks.load_plugin(plugin)
    for _, why in tasks.broken_plugins()[before:] if plugins else ():
        note(f"left out: {why}")


def load_plugins_of(run: str, plugins: Iterable[str] | None = None) -> RunConfig | None:
    """Load what a run was trained with (its tasks, and tuners that its method may be made of), and the plugins named
    now, which replace those of the run that have their file name or are not here. Returns the run's settings."""
    settings, named = settings_of(run), list(plugins or ())
    replaced = {Path(plugin).name for plugin in named}
    for plugin in settings.plugins if settings else ():
        absent = "/" in plugin and not Path(plugin).exists()
        if Path(plugin).name in replaced or (absent and named):
            continue
        if absent:
            raise UserError(
                f"The plugin {plugin} of {run} is not here, and the run folder holds no copy of it: say which one to "
                "load instead (--plugin FILE)."
            )
        say_plugins([plugin], run)
        load_named_plugins([plugin])
    load_named_plugins(named)
    return settings


def say_plugins(plugins: Iterable[str], run: str) -> None:
    """A run that was not made here may have brought them: whose code is run is said, before it is."""
    for plugin in plugins:
        note(f"Running the code of {plugin}, a plugin of {run}.")


def say_plugins_of_settings(path: Path | None, plugins: Iterable[str]) -> None:
    """The same where settings are those of a run folder; what the user wrote alone names the user's own plugins."""
    from hyperpelt.config.runs import run_folder

    if path is not None and run_folder(path) is not None and os.environ.get("RANK", "0") == "0":
        say_plugins(plugins, str(path))


def require_tasks(run: str, tasks: Iterable[str]) -> None:
    """UserError that says where a task of the run came from if nothing here brings it."""
    from hyperpelt.model.saving import local_folder
    from hyperpelt.tasks.carried import require

    for line in require(tasks, local_folder(run)):
        note(line)


def settings_of(run: str) -> RunConfig | None:
    """The `run.yaml` of a run, whose settings evaluation and prediction take over; None if it has none.

    Of a run on the hub, the paths and plugins of the machine that made it are left out.
    """
    from hyperpelt.config import load_run
    from hyperpelt.model.saving import local_folder

    folder = local_folder(run)
    if not (folder / "run.yaml").is_file():
        return None
    elsewhere = not Path(run).exists()
    return load_run(folder, ["data_root=null", "features_dir=null", "plugins=[]"] if elsewhere else [])
