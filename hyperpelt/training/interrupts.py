"""Stopping a run from outside: Ctrl-C, SIGTERM, and SIGHUP of a closed terminal wait for the end of the step."""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType


class TrainingInterrupted(Exception):
    """A run was stopped by a signal, after it was saved (**checkpoint**: None where it had not begun).

    `exit_status` is what shells expect: 130, 143 or 129.
    """

    def __init__(self, signum: int, *, step: int = 0, checkpoint: Path | None = None, command: str = "") -> None:
        self.signum, self.step, self.checkpoint = signum, step, checkpoint
        name = "Ctrl-C" if signum == signal.SIGINT else signal.Signals(signum).name
        saved = f"after step {step}; saved in {checkpoint}. Go on with: {command}"
        super().__init__(
            f"stopped by {name} {saved if checkpoint else 'before the first step, when nothing was to save.'}"
        )

    @property
    def exit_status(self) -> int:
        return 128 + self.signum


class StopNow(BaseException):
    """Raised by a signal inside `Stop.at_once`."""


class Stop:
    """Whether somebody wants the run to end: the signal's number, or 0."""

    signum: int = 0
    noted_at: float = 0.0
    impatient: bool = False

    @contextmanager
    def at_once(self, enabled: bool = True) -> Iterator[None]:
        """While inside (a long evaluation, which can be done again), a signal raises StopNow instead of waiting."""
        self.impatient = enabled
        try:
            if enabled and self.signum:
                raise StopNow
            yield
        finally:
            self.impatient = False


# A launcher (torchrun, accelerate) hands on to its processes the signal that the terminal has sent them already, or
# turns Ctrl-C into SIGTERM: within this many seconds that is the same wish, not a second one.
ECHO_SECONDS = 2.0
HANGUP = [signal.SIGHUP] if hasattr(signal, "SIGHUP") else []  # Windows has none


@contextmanager
def noticing_signals() -> Iterator[Stop]:
    """While inside, the first Ctrl-C, SIGTERM or SIGHUP is noted; a later one acts at once, as it would have before.

    A SIGHUP that the process was started to ignore (`nohup`) stays ignored. Outside the main thread, where Python takes
    no signal handlers, nothing changes.
    """
    stop = Stop()
    if threading.current_thread() is not threading.main_thread():
        yield stop
        return
    heard = [number for number in HANGUP if signal.getsignal(number) is not signal.SIG_IGN]
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM, *heard)}

    def note(number: int, frame: FrameType | None) -> None:
        if stop.signum and time.monotonic() - stop.noted_at > ECHO_SECONDS:
            for each, handler in before.items():
                signal.signal(each, handler)
            signal.raise_signal(number)
        elif not stop.signum:
            stop.signum, stop.noted_at = number, time.monotonic()
            if stop.impatient:
                raise StopNow

    for number in before:
        signal.signal(number, note)
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
