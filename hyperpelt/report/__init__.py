"""One self-contained HTML page about one or several runs: tables, curves, task similarity, settings.

    write_report(["runs/glue"], "runs/glue/report.html")

The page needs no network and no script: plots are SVG pictures inside it. Runs that share a method and a backbone and
differ in their seed are averaged (mean and standard deviation) in the comparison.

The walls of this room: page, html (its pieces), plots, run_records (what a run folder tells), transfer
(learning curves over shots).
"""

from __future__ import annotations

from hyperpelt.report.page import write_report

__all__ = [
    "write_report",
]
