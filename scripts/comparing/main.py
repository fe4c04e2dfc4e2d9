"""The command line of `scripts/compare`."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Annotated

import typer

from comparing.costs import cost
from comparing.pictures import pictures
from comparing.study import Cell, Study, cells, read_study, run_study
from comparing.tables import by_method, cell_record, earlier, markdown, summary
from hyperpelt import methods as methods_known
from hyperpelt.config import load_run
from hyperpelt.errors import UserError, unknown
from hyperpelt.files.atomic import write_json, write_text
from hyperpelt.tasks.plugins import load_each

INTERRUPTED = 130

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)


@app.command()
def compare(
    path: Annotated[Path, typer.Argument(help="The study, e.g. scripts/compare_glue.yaml.")],
    overrides: Annotated[list[str] | None, typer.Argument(help="key=value: override settings of every run.")] = None,
    runs: Annotated[Path, typer.Option(help="Folder of the run folders.")] = Path("runs/compare"),
    output: Annotated[Path, typer.Option(help="Folder of table, pictures and JSON.")] = Path("runs/tables"),
    methods: Annotated[str, typer.Option(help="Only these, e.g. hyperpelt,lora.")] = "",
    seeds: Annotated[str, typer.Option(help="Only these, e.g. 0,1.")] = "",
    parallel: Annotated[int, typer.Option(min=1, help="Runs at a time, one thread each.")] = 1,
    table_only: Annotated[bool, typer.Option(help="Train nothing: write the table of what is finished.")] = False,
    keep: Annotated[
        Path | None, typer.Option(help="JSON of an earlier table, whose cells are kept where nothing was run here.")
    ] = None,
    force: Annotated[bool, typer.Option(help="Train finished runs of other settings anew; theirs are lost.")] = False,
) -> None:
    """Train methods x seeds by one run configuration; write STUDY.md, its pictures and STUDY.json into runs/tables."""
    try:
        study = read_study(path)
        everything = list(cells(study, runs / study.name, tuple(overrides or ())))
        names, numbers = _chosen(methods, study.methods, "method"), _chosen(seeds, study.seeds, "seed")
        wanted = [c for c in everything if c.method in names and str(c.seed) in numbers]
        if not (force or table_only):
            _keep_finished(wanted)
        if not table_only:
            _check_methods(study, wanted)
    except UserError as mistake:
        print(f"compare: {mistake}", file=sys.stderr)
        raise typer.Exit(2) from None
    failed: dict[str, int] = {}
    if not table_only:

        def finished(cell: Cell, status: int) -> None:
            """One line a finished run; the table is written anew, so that it is never behind."""
            said = f"status {status}" if status else f"average {cell.results().average:.2f}"
            print(f"{cell.folder}: {said}", flush=True)
            _write(study, everything, output, overrides or (), keep)

        try:
            failed = run_study(study, wanted, parallel=parallel, finished=finished)
        except KeyboardInterrupt:
            done = sum(cell.finished for cell in wanted)
            told = f"{done} of {len(wanted)} runs are finished, and the same command goes on with the others"
            print(f"compare: interrupted; {told}.", file=sys.stderr)
            raise typer.Exit(INTERRUPTED) from None
    try:
        _write(study, everything, output, overrides or (), keep)
    except UserError as mistake:
        print(f"compare: {mistake}", file=sys.stderr)
        raise typer.Exit(2) from None
    page = output / f"{study.name}.md"
    print(f"Table: {page}" if page.exists() else "No run is finished yet, so there is no table.")
    for folder, status in failed.items():
        said = _last_line(Path(folder) / "train.log")
        print(f"compare: {folder} ended with status {status}: see train.log there ({said})", file=sys.stderr)
    raise typer.Exit(1 if failed else 0)


def _chosen(text: str, known: Iterable[object], kind: str) -> list[str]:
    """The parts of `a,b`, all of them known; everything if there are none."""
    options = [str(option) for option in known]
    if text in options:  # a name may hold commas
        return [text]
    chosen = [name.strip() for name in text.split(",") if name.strip()]
    for name in chosen:
        if name not in options:
            raise unknown(f"{kind} of the study", name, options)
    return chosen or options


def _keep_finished(wanted: list[Cell]) -> None:
    """UserError if a finished run would have to give way to one of other settings."""
    for cell in wanted:
        differing = cell.differing() if cell.ended else []
        if differing:
            raise UserError(
                f"{cell.folder} holds a finished run of other settings ({', '.join(differing[:5])}): name another "
                "folder with --runs, or give --force, which trains such runs anew and loses what they found."
            )


def _check_methods(study: Study, wanted: list[Cell]) -> None:
    """UserError for a method of a run to come that is none: known before the first run, not hours after it."""
    for cell in {cell.method: cell for cell in wanted if not cell.finished}.values():
        load_each(load_run(study.run, (*cell.settings, f"output_dir={cell.folder}")).plugins)
        try:
            methods_known.get(cell.resolved["method"])
        except UserError as mistake:
            raise UserError(f"{study.path}, method {cell.method}: {mistake}") from mistake


def _last_line(log: Path) -> str:
    """What a run said last, which is why it ended."""
    lines = log.read_text(encoding="utf8", errors="replace").split("\n") if log.is_file() else []
    return next((line.strip() for line in reversed(lines) if line.strip()), "nothing was said")


def _write(study: Study, everything: list[Cell], output: Path, overrides: Sequence[str], keep: Path | None) -> None:
    done = [(cell, cell.results()) for cell in everything if cell.finished]
    if not done:
        return
    output.mkdir(parents=True, exist_ok=True)
    given = ["data_root=DATA" if pair.startswith("data_root=") else pair for pair in overrides]
    command = shlex.join(["scripts/compare", f"scripts/{study.path.name}", *given])
    made, first = {(cell.method, cell.seed): cell_record(cell, results) for cell, results in done}, done[0][1]
    before = {(cell["method"], cell["seed"]): cell for cell in earlier(keep, study, first, list(made.values()))}
    shown = list({**before, **made}.values())
    methods = {cell["method"] for cell in shown}
    costs = {cell.method: cost(study, cell) for cell in everything if cell.method in methods}
    found = summary(study, shown, first, costs, command=command)
    drawn = {f"{study.name}-{name}.svg": svg for name, svg in pictures(by_method(found), found).items()}
    write_json(output / f"{study.name}.json", found)
    for name, svg in drawn.items():
        write_text(output / name, svg)
    write_text(output / f"{study.name}.md", markdown(study, found, drawn))
