"""Ends that nobody chose: kills at any moment, full disks, two processes at once. Nothing is lost by them."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from random import Random
from typing import Any

from soaking.forking import finish, forked, no_room_beyond, wait
from soaking.journal import NotPossible, Tried
from soaking.place import Place
from soaking.works import KEEPING, WORKS, Work

ALL = {**WORKS, **KEEPING}


_EXPECTED: dict[str, tuple[Any, int, float]] = {}


def _expected(name: str, place: Place) -> tuple[Any, int, float]:
    """(result, file events, seconds) of the work where nothing ends it."""
    if name not in _EXPECTED:
        folder, began = place.fresh(), time.monotonic()
        ALL[name].prepare(place, folder)
        status, err, events = finish(ALL[name], place, folder)
        assert status == 0, err
        _EXPECTED[name] = ALL[name].result(folder), events, time.monotonic() - began
    return _EXPECTED[name]


def _compare(work: Work, place: Place, folder: Path, expected: Any) -> str:
    status, err, _ = finish(work, place, folder)
    if status != 0:
        return f"started again: exit {status}: {err[-300:]}"
    if work.result(folder) != expected:
        return "started again, it ends in another result"
    return left_behind(folder)


def left_behind(folder: Path) -> str:
    """What is there under a temporary name, as a fault."""
    left = [path.name for path in folder.rglob(".*") if path.suffix in (".tmp", ".old", ".gone")]
    return f"left behind: {left[:3]}" if left else ""


def kills(works: Mapping[str, Work], place: Place, random: Random) -> Tried:
    """One to three kills, at random moments or file events; then the work is done again to its end."""
    name = random.choice(list(works))
    expected, events, seconds = _expected(name, place)
    work, folder = works[name], place.fresh()
    moments, killed = list[str](), 0
    work.prepare(place, folder)
    for _ in range(random.choice((1, 1, 1, 2, 3))):
        if random.random() < 0.6:
            moments.append(f"event {(event := random.randint(1, max(events - 1, 1)))}")
            status = wait(forked(work, place, folder, event=event))
        else:
            moments.append(f"{(moment := random.uniform(0, seconds)):.2f} s")
            status = wait(forked(work, place, folder), moment)
        killed += status is None or status < 0
    return Tried(f"{name} at {', '.join(moments)}", _compare(work, place, folder, expected), killed)


def disks(place: Place, random: Random) -> Tried:
    """A small disk of its own is full at some point: one sentence, and with room the work ends as it would have."""
    name = random.choice(list(ALL))
    expected, _, _ = _expected(name, place)
    size, folder, work = random.randint(20, 600), place.fresh(), ALL[name]
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", f"size={size}k", "tmpfs", str(folder)], capture_output=True, check=False
    )
    if mounted.returncode:
        raise NotPossible("a small disk cannot be mounted here")
    try:
        try:
            work.prepare(place, folder)
        except OSError:
            raise NotPossible("too small for what the work starts from") from None
        what, fault = f"{name}, {size} KiB", _fault_of_a_full_disk(work, place, folder)
        subprocess.run(["mount", "-o", "remount,size=100m", str(folder)], check=True)
        return Tried(what, fault or _compare(work, place, folder, expected))
    finally:
        subprocess.run(["umount", str(folder)], check=False)


def quotas(place: Place, random: Random) -> Tried:
    """From some file event on the system lets no file grow beyond a size, as a quota does, whoever runs the soak."""
    name = random.choice(list(ALL))
    expected, events, _ = _expected(name, place)
    folder, work = place.fresh(), ALL[name]
    work.prepare(place, folder)
    event, size = random.randint(1, max(events - 1, 1)), random.choice((0, 0, 0, 200, 1500, 6000))
    fault = _fault_of_a_full_disk(work, place, folder, event=event, action=partial(no_room_beyond, size))
    what = f"{name}, {size} bytes a file from event {event}"
    return Tried(what, fault or _compare(work, place, folder, expected))


def _fault_of_a_full_disk(work: Work, place: Place, folder: Path, **action: Any) -> str:
    status, err, _ = finish(work, place, folder, **action)
    if status not in (0, 2):
        return f"exit {status}: {err[-300:]}"
    return "" if status == 0 or "hyperpelt: " in err else f"exit 2 without a sentence: {err[-300:]}"


def pairs(place: Place, random: Random) -> Tried:
    """Two processes at the same work in one folder: one does it, or both share it; none ends it otherwise."""
    name = random.choice([name for name in ALL if name != "overwriting"])
    expected, _, seconds = _expected(name, place)
    work, folder = ALL[name], place.fresh()
    first = forked(work, place, folder)
    time.sleep(random.uniform(0, seconds / 2))
    second = forked(work, place, folder)
    statuses = [wait(first), wait(second)]
    if not set(statuses) <= {0, 2} or statuses == [2, 2]:
        return Tried(f"{name} twice", f"exits {statuses}")
    return Tried(f"{name} twice", "" if work.result(folder) == expected else "another result")


CAMPAIGNS: dict[str, Callable[[Place, Random], Tried]] = {
    "kills": partial(kills, WORKS),
    "kills of caches": partial(kills, KEEPING),
    "full disks": disks,
    "quotas": quotas,
    "pairs": pairs,
}
