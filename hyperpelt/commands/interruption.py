"""Ctrl-C while libraries are at work: what comes out of them is not always a KeyboardInterrupt.

A compiled module that is interrupted as it is imported answers with an error of its own ("ImportError: initialization
failed"), and so may whatever turns exceptions into others.
"""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

from hyperpelt.training.interrupts import TrainingInterrupted


@contextmanager
def heard() -> Iterator[None]:
    """While inside, an error that follows upon Ctrl-C is a KeyboardInterrupt, whatever was made of it.

    Training has a handler of its own while it runs. Outside the main thread, and where the caller has a handler,
    nothing changes.
    """
    before, came = signal.getsignal(signal.SIGINT), False
    if before is not signal.default_int_handler or threading.current_thread() is not threading.main_thread():
        yield
        return

    def note(number: int, frame: FrameType | None) -> None:
        nonlocal came
        came = True
        signal.default_int_handler(number, frame)

    signal.signal(signal.SIGINT, note)
    try:
        yield
    except TrainingInterrupted:
        raise
    except Exception as error:
        if came:
            raise KeyboardInterrupt from error
        raise
    finally:
        signal.signal(signal.SIGINT, before)
