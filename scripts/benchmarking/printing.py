"""What a measurement is read with, and how it is shown."""

from __future__ import annotations

import json
import os
import platform
import sys
from typing import Any


def machine() -> dict[str, Any]:
    """What a figure must be read with."""
    import torch
    import transformers

    device = torch.cuda.get_device_name() if torch.cuda.is_available() else _processor()
    versions = {
        "torch": torch.__version__,
        "transformers": transformers.__version__,
        "python": platform.python_version(),
    }
    from benchmarking.timing import clock

    return {"device": device, "clock": clock(), "cores": os.cpu_count(), "threads": torch.get_num_threads(), **versions}


def _processor() -> str:
    """The processor's name, where Linux says it."""
    try:
        with open("/proc/cpuinfo") as lines:
            names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    except OSError:
        names = list[str]()
    return names[0] if names else platform.machine()


def show(rows: list[dict[str, Any]], as_json: bool, columns: list[str]) -> None:
    """JSON alone on standard output, or a table for people."""
    if as_json:
        print(json.dumps({"machine": machine(), "rows": rows}, indent=2))
        return
    from rich import box
    from rich.console import Console
    from rich.table import Table

    table = Table(
        box=box.SIMPLE_HEAD,
        collapse_padding=True,
        pad_edge=False,
        title=" ".join(f"{key}={value}" for key, value in machine().items()),
    )
    for column in columns:
        name = column == columns[0]
        table.add_column(column.replace("_", " "), justify="left" if name else "right", no_wrap=name)
    for row in rows:
        table.add_row(*[_cell(row[c]) for c in columns])
    Console(file=sys.stdout).print(table)


def _cell(value: Any) -> str:
    if value is None:
        return "-"
    return f"{value:.3f}" if isinstance(value, float) else f"{value:,}" if isinstance(value, int) else str(value)
