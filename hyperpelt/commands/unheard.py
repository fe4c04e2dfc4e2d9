"""Stderr is for people: when nobody hears it any more, the work goes on without a word."""

from __future__ import annotations

import os
import sys
from typing import Any


class Unheard:
    """A stream whose writes cannot fail: once its reader has gone, a terminal was closed or a disk is full, it is
    silent."""

    def __init__(self, stream: Any) -> None:
        self._stream = stream

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    def write(self, text: str) -> int:
        try:
            return self._stream.write(text)
        except OSError:
            self._to_nobody()
            return len(text)

    def flush(self) -> None:
        try:
            self._stream.flush()
        except OSError:
            self._to_nobody()

    def _to_nobody(self) -> None:
        """Below the stream too: what it still holds is written when the process ends."""
        nobody = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nobody, self._stream.fileno())
        os.close(nobody)


def let_it_be_unheard() -> None:
    """From now on, stderr of this process."""
    if sys.stderr is not None:  # a process without a console has none
        sys.stderr = Unheard(sys.stderr)
