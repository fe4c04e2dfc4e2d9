"""Trained runs that travel with the library, each with its card, in `hyperpelt/assets/trained`.

They are named where a run folder is: `hyperpelt predict mini-bart-tabletop ...`, `TunedModel.from_pretrained(...)`. A
folder of that name in the working directory comes first.
"""

from __future__ import annotations

from pathlib import Path

from hyperpelt.config.paths import place

RUNS = Path(__file__).parents[1] / "assets" / "trained"


def names() -> list[str]:
    """Of all shipped runs."""
    return sorted(path.parent.name for path in RUNS.glob("*/config.json"))


def folder_of(run: str | Path) -> Path | None:
    """The folder of the shipped run of this name; None if there is none, or something here has the name."""
    return RUNS / str(run) if str(run) in names() and not Path(run).exists() else None


def place_for(run: str | Path) -> Path:
    """Where to write what is made of a run: its own folder, or `runs/NAME` if none is here (shipped, on the hub)."""
    path = place(run)
    return path if path.exists() else Path("runs") / path.name
