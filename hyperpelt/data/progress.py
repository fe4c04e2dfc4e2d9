"""How far long work is: a bar on a terminal, elsewhere (a log, a notebook, a scheduler) a line now and then."""

from __future__ import annotations

import sys
import time
from collections.abc import Collection, Iterable, Iterator
from typing import TypeVar

from tqdm import tqdm

Item = TypeVar("Item")
EVERY = 30.0  # seconds from one line to the next, so that short work says nothing


def shown(
    items: Iterable[Item], what: str, units: str, *, progress: bool = True, done: int = 0, total: int | None = None
) -> Iterator[Item]:
    """The items, while stderr is told how many of them are done.

    units: what is counted, such as rows. progress: False says nothing. done: how many were before the first. total: of
    all, where `items` has no length.
    """
    if total is None and isinstance(items, Collection):
        total = done + len(items)
    if not progress:
        yield from items
    elif sys.stderr.isatty():
        yield from tqdm(items, desc=what, unit=f" {units}", leave=False, initial=done, total=total)
    else:
        yield from _in_lines(items, what, units, done, total)


def _in_lines(items: Iterable[Item], what: str, units: str, done: int, total: int | None) -> Iterator[Item]:
    said, of_all = time.monotonic(), "" if total is None else f" of {total:,}"
    for count, item in enumerate(items, done + 1):
        yield item
        if time.monotonic() - said >= EVERY:
            said = time.monotonic()
            print(f"{what}: {count:,}{of_all} {units}", file=sys.stderr, flush=True)
