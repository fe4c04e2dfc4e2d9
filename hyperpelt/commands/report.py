"""`hyperpelt report`: one HTML page about runs."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from hyperpelt.commands import common


def report(
    runs: Annotated[list[Path], typer.Argument(metavar="RUNS...", help="Run folders, or folders of run folders.")],
    output: Annotated[
        Path | None,
        typer.Option("--output", metavar="FILE", help="Default: report.html in the first of the folders."),
    ] = None,
    as_json: common.Json = False,
    debug: common.Debug = False,
) -> None:
    """Write one self-contained HTML page: results, curves, task similarity, settings; several runs side by side."""
    with common.stdout_for_json(as_json):
        from hyperpelt.backbones.shipped import folder_of, place_for
        from hyperpelt.report import write_report

        path = write_report([folder_of(run) or run for run in runs], output or place_for(runs[0]) / "report.html")
    if as_json:
        common.print_json({"report": str(path), "runs": [str(run) for run in runs]})
    else:
        common.say_path(path)
