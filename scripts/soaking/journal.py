"""What was tried and what became of it: one JSON line a case, so that a stopped soak goes on."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import NamedTuple

NAME = "soak.jsonl"


class NotPossible(Exception):
    """This machine cannot do the case; the message says why."""


class Tried(NamedTuple):
    """What a case tried, its fault (empty: as promised), and how many processes it killed."""

    what: str
    fault: str
    kills: int = 0


@dataclass(frozen=True)
class Outcome:
    """One case. fault: what went wrong; empty where all was as promised. left_out: why it could not be tried here.

    kills: processes that were killed.
    """

    campaign: str
    case: int
    what: str
    fault: str
    seconds: float
    kills: int = 0
    left_out: str = ""


class Journal:
    """The outcomes in a folder."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.path = folder / NAME

    def add(self, outcome: Outcome) -> None:
        cut = self.path.exists() and self.path.read_bytes()[-1:] not in (b"", b"\n")  # by a kill
        with self.path.open("a", encoding="utf8") as file:
            file.write("\n" * cut + json.dumps(asdict(outcome)) + "\n")

    def outcomes(self) -> list[Outcome]:
        """All of them, earlier calls' too: the last of each case. A line that a kill cut is left out."""
        found: dict[tuple[str, int], Outcome] = {}
        for line in self.path.read_text(encoding="utf8").splitlines() if self.path.exists() else ():
            try:
                one = Outcome(**json.loads(line))
            except (ValueError, TypeError):
                continue
            found[one.campaign, one.case] = one
        return list(found.values())

    def next_case(self, campaign: str) -> int:
        return 1 + max((one.case for one in self.outcomes() if one.campaign == campaign), default=-1)


def table(outcomes: Iterable[Outcome]) -> str:
    """Markdown: a line a campaign, what all of them come to, why cases were left out, and the faults."""
    by: dict[str, list[Outcome]] = {}
    for one in outcomes:
        by.setdefault(one.campaign, []).append(one)
    lines = ["| campaign | tried | kills | survived | left out | seconds |", "|---|---|---|---|---|---|"]
    lines += [_line(campaign, found) for campaign, found in sorted(by.items())]
    everything = [one for found in by.values() for one in found]
    lines.append(_line("all", everything))
    reasons = sorted({f"\nLeft out of {one.campaign}: {one.left_out}." for one in everything if one.left_out})
    faults = [f"\n{one.campaign} {one.case} ({one.what}): {one.fault}" for one in everything if one.fault]
    return "\n".join([*lines, *reasons, *faults]) + "\n"


def _line(campaign: str, found: Sequence[Outcome]) -> str:
    tried = [one for one in found if not one.left_out]
    survived, left_out = sum(not one.fault for one in tried), len(found) - len(tried)
    kills, seconds = sum(one.kills for one in tried), sum(one.seconds for one in found)
    return f"| {campaign} | {len(tried):,} | {kills:,} | {survived:,} | {left_out:,} | {seconds:,.0f} |"
