"""The command line of `scripts/compare`."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Annotated

import typer

from comparing.study import Cell, Study, cells, read_study, run_study
from comparing.tables import markdown, summary
from hyperpelt.errors import UserError

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)


@app.command()
def compare(
    path: Annotated[Path, typer.Argument(help="The study, e.g. scripts/compare_glue.yaml.")],
    overrides: Annotated[list[str] | None, typer.Argument(help="key=value: settings of every run.")] = None,
    runs: Annotated[Path, typer.Option(help="Folder of the run folders.")] = Path("runs/compare"),
    output: Annotated[Path, typer.Option(help="Folder of the table and its JSON file.")] = Path("docs/results"),
    methods: Annotated[str, typer.Option(help="Only these, e.g. hyperpelt,lora.")] = "",
    seeds: Annotated[str, typer.Option(help="Only these, e.g. 0,1.")] = "",
    parallel: Annotated[int, typer.Option(help="Runs at a time, one thread each.")] = 1,
    table_only: Annotated[bool, typer.Option(help="Train nothing: write the table of what is finished.")] = False,
) -> None:
    """Train methods x seeds by one run configuration and write docs/results/STUDY.md and STUDY.json."""
    try:
        study = read_study(path)
        everything = list(cells(study, runs / study.name, tuple(overrides or ())))
        names, numbers = [n for n in methods.split(",") if n], [int(seed) for seed in seeds.split(",") if seed]
        wanted = [c for c in everything if (not names or c.method in names) and (not numbers or c.seed in numbers)]
    except UserError as mistake:
        print(f"compare: {mistake}", file=sys.stderr)
        raise typer.Exit(2) from None
    failed: dict[str, int] = {}
    if not table_only:
        failed = run_study(
            study, wanted, parallel=parallel, finished=lambda c, s: _report(study, everything, output, c, s)
        )
    _write(study, everything, output)
    for folder, status in failed.items():
        print(f"compare: {folder} ended with status {status}: see train.log there.", file=sys.stderr)
    raise typer.Exit(1 if failed else 0)


def _report(study: Study, everything: list[Cell], output: Path, cell: Cell, status: int) -> None:
    """One line a finished run; the table is written anew, so that it is never behind."""
    if status:
        print(f"{cell.folder}: status {status}", flush=True)
        return
    print(f"{cell.folder}: average {cell.results().average:.2f}", flush=True)
    _write(study, everything, output)


def _write(study: Study, everything: list[Cell], output: Path) -> None:
    done = [(cell, cell.results()) for cell in everything if cell.finished]
    if not done:
        return
    output.mkdir(parents=True, exist_ok=True)
    order = {name: index for index, name in enumerate(study.methods)}
    done.sort(key=lambda item: (order[item[0].method], item[0].seed))
    overrides = [pair for pair in done[0][0].settings if pair.startswith("data_root=")]
    command = " ".join(["scripts/compare", f"scripts/{study.path.name}", *("data_root=DATA" for _ in overrides)])
    found = summary(study, done, command=command)
    for cell in found["cells"]:
        cell["settings"] = [pair for pair in cell["settings"] if not pair.startswith("data_root=")]
    (output / f"{study.name}.json").write_text(json.dumps(found, indent=1) + "\n", encoding="utf8")
    (output / f"{study.name}.md").write_text(markdown(study, found), encoding="utf8")
