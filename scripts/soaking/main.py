"""The command: campaigns in turn until the time is up, then the table of all cases so far."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from fnmatch import fnmatch
from itertools import count
from pathlib import Path
from random import Random
from typing import Annotated

import typer

from soaking import damage, ending, fuzz, several, verbs
from soaking.journal import Journal, NotPossible, Outcome, Tried, table
from soaking.place import Place

app = typer.Typer(add_completion=False)
# Cases a round; of what is not named, one. They cost from a hundredth of a second to a minute.
TURNS = {
    "bad settings": 30, "bad methods": 30, "bad plugins": 30, "bad tasks": 20, "bad rows": 10, "bad overrides": 5,
    "bad command lines": 20, "damaged runs": 5, "damaged backbones": 3, "damaged transfers": 3, "damaged features": 3,
    "kills": 2,
}  # fmt: skip
RARE = {"kills under torchrun": 4, "kills of transfer's processes": 4}  # one in so many rounds
CAMPAIGNS: dict[str, Callable[[Place, Random], tuple[str, str] | Tried]] = {
    **fuzz.CAMPAIGNS,
    **verbs.CAMPAIGNS,
    **damage.CAMPAIGNS,
    **ending.CAMPAIGNS,
    **several.CAMPAIGNS,
}


def soak(
    folder: Path, *, seed: int, seconds: float, only: str = "*", told: Callable[[Outcome], None] = lambda _: None
) -> list[Outcome]:
    """Run campaigns until the time is up; gives the outcomes of this call."""
    journal, place, ends = Journal(folder), _place(folder), time.monotonic() + seconds
    numbers = {name: journal.next_case(name) for name in CAMPAIGNS if fnmatch(name, only)}
    done: list[Outcome] = []
    for turn in count(1) if numbers else ():
        for name in numbers:
            for _ in range(0 if turn % RARE.get(name, 1) else TURNS.get(name, 1)):
                if time.monotonic() > ends:
                    return done
                done.append(_case(place, name, numbers[name], seed))
                numbers[name] += 1
                told(done[-1])
                journal.add(done[-1])
    return done


def single(folder: Path, *, seed: int, only: str, case: int) -> list[Outcome]:
    """One case of each campaign once more, unrecorded."""
    place = _place(folder)
    return [_case(place, name, case, seed) for name in CAMPAIGNS if fnmatch(name, only)]


def again(folder: Path, *, seed: int, only: str) -> list[Outcome]:
    """All cases that had a fault once more; what becomes of them now is what counts."""
    journal, place = Journal(folder), _place(folder)
    done = []
    for one in journal.outcomes():
        if one.fault and fnmatch(one.campaign, only):
            done.append(_case(place, one.campaign, one.case, seed))
            journal.add(done[-1])
    return done


def _place(folder: Path) -> Place:
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    return Place(folder / "place").make()


def _case(place: Place, name: str, number: int, seed: int) -> Outcome:
    began, here, environment = time.monotonic(), Path.cwd(), dict(os.environ)
    os.chdir(place.folder)
    try:
        found, left_out = CAMPAIGNS[name](place, Random(f"{seed}/{name}/{number}")), ""
        tried = found if isinstance(found, Tried) else Tried(*found)
    except NotPossible as reason:
        tried, left_out = Tried("", ""), str(reason)
    finally:
        os.chdir(here)
        os.environ.clear()
        os.environ.update(environment)
    seconds = round(time.monotonic() - began, 2)
    return Outcome(name, number, " ".join(tried.what.split()), tried.fault, seconds, tried.kills, left_out)


@app.command()
def main(
    folder: Annotated[Path, typer.Option(help="Folder of the journal and the work.")] = Path("/tmp/hyperpelt-soak"),
    minutes: Annotated[float, typer.Option(help="When to stop.")] = 60.0,
    seed: Annotated[int, typer.Option(help="Seed of all cases.")] = 0,
    only: Annotated[str, typer.Option(help="Pattern of campaigns.")] = "*",
    case: Annotated[int | None, typer.Option(help="Repeat this case, unrecorded.")] = None,
    faults: Annotated[bool, typer.Option("--faults", help="Repeat the cases that had a fault, recorded.")] = False,
) -> None:
    """Soak until the time is up; exit status 1 if anything was not as promised."""

    def tell(one: Outcome) -> None:
        print(f"{one.campaign} {one.case} ({one.what}): {one.fault or 'as promised'}", flush=True)

    if case is not None:
        done = single(folder, seed=seed, only=only, case=case)
    elif faults:
        done = again(folder, seed=seed, only=only)
    else:
        done = soak(
            folder, seed=seed, seconds=60 * minutes, only=only, told=lambda one: tell(one) if one.fault else None
        )
    for one in done if case is not None or faults else ():
        tell(one)
    print(table(done if case is not None else Journal(folder).outcomes()))
    raise typer.Exit(int(any(one.fault for one in done)))
