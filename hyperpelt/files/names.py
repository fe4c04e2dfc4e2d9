"""Names of what is not in its place yet, or not any more, and who made it.

    .NAME.HOST-PID-N.tmp     being written
    .NAME.HOST-PID-N.old     the former NAME, while the new one takes its place
    .NAME.HOST-PID-N.gone    being removed

A process that was killed leaves such names behind: `leftovers` finds those whose process is dead. Names of earlier
versions (`.NAME.PID.tmp`, `.tmp-NAME-PID`, `.old-NAME-PID`) are known, too.
"""

from __future__ import annotations

import os
import platform
import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from itertools import count
from pathlib import Path
from typing import Literal

Kind = Literal["tmp", "old", "gone"]
LONGEST = 120  # bytes of a name that are kept in a temporary one: file systems allow 255

_count = count(1)
_NAMES = (
    re.compile(r"\.(?P<name>.+)\.(?P<host>\w+)-(?P<pid>\d+)-\d+\.(?P<kind>tmp|old|gone)"),
    re.compile(r"\.(?P<name>.+)\.(?P<pid>\d+)\.(?P<kind>tmp)"),
    re.compile(r"\.(?P<kind>tmp|old)-(?P<name>.+)-(?P<pid>\d+)"),
)


@cache
def host() -> str:
    """This machine's name, as far as it fits into a file's name."""
    return re.sub(r"\W", "", platform.node())[:24] or "here"


def hidden(path: Path, kind: Kind) -> Path:
    """A name of its own beside `path`."""
    name = path.name if kind == "old" else os.fsencode(path.name)[:LONGEST].decode("utf8", "ignore")
    return path.with_name(f".{name}.{host()}-{os.getpid()}-{next(_count)}.{kind}")


def is_alive(pid: int) -> bool:
    """Whether a process of this machine has the number."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except (PermissionError, OverflowError):  # somebody else's; a number that no process has
        return True
    return True


@dataclass(frozen=True)
class Leftover:
    """What a process left beside the place of `name`."""

    path: Path
    name: str
    kind: str


def leftovers(folder: Path, name: str, *, everyone: bool = False) -> Iterator[Leftover]:
    """What dead processes left in a folder, for names that match the regular expression `name`.

    everyone: of living ones, too: for who holds the folder's lock, all others are dead.
    """
    for path in sorted(folder.iterdir()) if folder.is_dir() else ():
        match = next(filter(None, (pattern.fullmatch(path.name) for pattern in _NAMES)), None)
        if match is None or not re.fullmatch(name, match["name"]):
            continue
        elsewhere = match.groupdict().get("host", host()) != host()
        if everyone or not (elsewhere or is_alive(int(match["pid"]))):
            yield Leftover(path, match["name"], match["kind"])
