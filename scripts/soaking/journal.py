"""What was tried and what became of it: one JSON line a case, so that a stopped soak goes on."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path

NAME = "soak.jsonl"


@dataclass(frozen=True)
class Outcome:
    """One case. fault: what went wrong; empty where all was as promised."""

    campaign: str
    case: int
    what: str
    fault: str
    seconds: float


class Journal:
    """The outcomes in a folder."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.path = folder / NAME

    def add(self, outcome: Outcome) -> None:
        with self.path.open("a", encoding="utf8") as file:
            file.write(json.dumps(asdict(outcome)) + "\n")

    def outcomes(self) -> list[Outcome]:
        """All of them, earlier calls' too; a line that a kill cut is left out."""
        found = []
        for line in self.path.read_text(encoding="utf8").splitlines() if self.path.exists() else ():
            try:
                found.append(Outcome(**json.loads(line)))
            except (ValueError, TypeError):
                continue
        return found

    def next_case(self, campaign: str) -> int:
        return 1 + max((one.case for one in self.outcomes() if one.campaign == campaign), default=-1)


def table(outcomes: Iterable[Outcome]) -> str:
    """Markdown: a line a campaign, and the faults below."""
    by: dict[str, list[Outcome]] = {}
    for one in outcomes:
        by.setdefault(one.campaign, []).append(one)
    lines = ["| campaign | tried | survived | seconds |", "|---|---|---|---|"]
    for campaign, found in sorted(by.items()):
        survived, seconds = sum(not one.fault for one in found), sum(one.seconds for one in found)
        lines.append(f"| {campaign} | {len(found):,} | {survived:,} | {seconds:,.0f} |")
    lines += [
        f"\n{one.campaign} {one.case} ({one.what}): {one.fault}" for found in by.values() for one in found if one.fault
    ]
    return "\n".join(lines) + "\n"
