"""One writer a folder: a lock that the operating system takes back when its process ends, however it ends.

`.lock` in the folder is locked, and stays there unlocked; `.lock.owner` says who holds it, for others to read.

    lock = FolderLock(folder, advice="...");  lock.acquire();  ...;  lock.release()
    with writing(folder, advice="..."): ...       for a moment, unless this process has the right already
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from filelock import FileLock, Timeout

from hyperpelt.errors import UserError
from hyperpelt.files.names import host, is_alive

LOCK, OWNER = ".lock", ".lock.owner"
ORPHANED = 20.0  # seconds that forked helpers of a killed process (a loader's workers) may take to notice, and end
MOMENT = 10.0  # seconds that `writing` waits: others who write for a moment are done by then
_held: set[tuple[int, Path]] = set()  # process and folder: a forked one has not what its parent has


class FolderLock:
    """The right to write to a folder, which must exist. `advice` says what somebody else can do meanwhile."""

    def __init__(self, folder: Path, *, advice: str) -> None:
        self.folder, self.advice = folder, advice
        self._lock = FileLock(folder / LOCK)

    def acquire(self, seconds: float = 0.0) -> None:
        """Take the lock, within so many seconds or not at all.

        Raises:
            UserError: another process has it; or nothing can be written there.
        """
        try:
            self._lock.acquire(timeout=seconds)
        except Timeout:
            self._wait_for_orphans()
        except OSError as error:
            raise UserError(f"Cannot write to {self.folder} ({error.strerror}); choose another folder.") from None
        _held.add(self._mine())
        about = {"pid": os.getpid(), "host": host(), "since": time.strftime("%Y-%m-%d %H:%M:%S")}
        with suppress(OSError):  # a full disk: it is a courtesy
            (self.folder / OWNER).write_text(json.dumps(about), encoding="utf8")

    def _wait_for_orphans(self) -> None:
        """A lock outlives its process in those that it forked."""
        owner = self._owner()
        try:
            self._lock.acquire(timeout=ORPHANED if owner is None else 0)
        except Timeout:
            raise UserError(f"{self.folder} is in use by {owner or 'another process'}. {self.advice}") from None

    def release(self) -> None:
        """Give it back; nothing happens if it is not held."""
        if self._lock.is_locked:
            _held.discard(self._mine())
            (self.folder / OWNER).unlink(missing_ok=True)
            self._lock.release()

    def _mine(self) -> tuple[int, Path]:
        return os.getpid(), self.folder.resolve()

    def _owner(self) -> str | None:
        """Who holds the lock, for people; None if that process is dead."""
        try:
            about = json.loads((self.folder / OWNER).read_text(encoding="utf8"))
            here = about["host"] == host()
            if here and not is_alive(about["pid"]):
                return None
            return f"process {about['pid']} on {'this machine' if here else about['host']} since {about['since']}"
        except (OSError, ValueError, KeyError, TypeError):
            return "another process"


@contextmanager
def writing(folder: Path, *, advice: str) -> Iterator[None]:
    """The right to write to a folder, which must exist, while inside; who has it already, as a run has, keeps it.

    A lock that was made for this goes with it.

    Raises:
        UserError: another process has the right, and for longer than a moment; or nothing can be written there.
    """
    if (os.getpid(), folder.resolve()) in _held:
        yield
        return
    lock, mine = FolderLock(folder, advice=advice), not (folder / LOCK).exists()
    lock.acquire(MOMENT)
    try:
        yield
    finally:
        if mine:
            (folder / LOCK).unlink(missing_ok=True)  # before it is given back: who waits for it takes a new one
        lock.release()
