"""A slice of the soak (`scripts/soak`): some cases of each campaign, from a seed of its own."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import warm

ROOT = Path(__file__).parents[2]


def soak(folder: Path, only: str, minutes: float, *more: str) -> subprocess.CompletedProcess[str]:
    command = [warm.python(), str(ROOT / "scripts" / "soak"), "--folder", str(folder), "--only", only]
    return subprocess.run(
        [*command, "--minutes", str(minutes), "--seed", "1", *more],
        capture_output=True, text=True, timeout=600, check=False, env=os.environ | {"PYTHONWARNINGS": "ignore"},
    )  # fmt: skip


def tried(table: str) -> dict[str, int]:
    rows = [line.split("|")[1:3] for line in table.splitlines() if line.startswith("| ")][1:]
    return {name.strip(): int(number.replace(",", "")) for name, number in rows}


def test_a_slice_of_the_soak_survives_and_goes_on_where_it_stopped(tmp_path: Path) -> None:
    done = soak(tmp_path, "*a[dm]*", 0.25)  # what is bad or damaged
    assert done.returncode == 0, done.stdout
    first = tried(done.stdout)
    assert sum(first.values()) >= 10
    again = soak(tmp_path, "kills", 0.05)
    assert again.returncode == 0, again.stdout
    second = tried(again.stdout)
    assert second.pop("kills") >= 1
    assert second.pop("all") > first.pop("all")
    assert second == first


def test_a_fault_is_told_and_can_be_done_again(tmp_path: Path) -> None:
    sys.path.insert(0, str(ROOT / "scripts"))
    try:
        from soaking.journal import Journal, Outcome, table
    finally:
        sys.path.remove(str(ROOT / "scripts"))
    journal = Journal(tmp_path)
    journal.add(Outcome("kills", 0, "training", "", 1.0, kills=1))
    journal.add(Outcome("kills", 1, "training at event 3", "another result", 1.0, kills=2))
    with journal.path.open("a", encoding="utf8") as file:
        file.write('{"campaign": "ki')  # a kill of the soak itself
    assert journal.next_case("kills") == 2
    journal.add(Outcome("full disks", 0, "", "", 1.0, left_out="a small disk cannot be mounted here"))
    assert "| kills | 2 | 3 | 1 | 0 | 2 |" in table(journal.outcomes())
    assert "kills 1 (training at event 3): another result" in table(journal.outcomes())
    assert "| full disks | 0 | 0 | 0 | 1 | 1 |" in table(journal.outcomes()), "what could not be tried did not survive"
    assert "Left out of full disks: a small disk cannot be mounted here." in table(journal.outcomes())
    journal.add(Outcome("kills", 1, "training at event 3", "", 1.0, kills=1))  # once more, when it was mended
    assert "| kills | 2 | 2 | 2 | 0 | 2 |" in table(journal.outcomes())
