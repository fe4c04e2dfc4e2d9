"""Is the hub reachable? Asked once a minute, so that a machine without a network is told at once, not after retries."""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from urllib.parse import urlsplit
from urllib.request import getproxies

TIMEOUT = 5.0  # seconds for a connection
REMEMBERED = 60.0  # seconds that an answer holds
_ASKED: dict[str, tuple[float, bool]] = {}


def reachable(address: str | None = None) -> bool:
    """Whether the hub's host (HF_ENDPOINT, else huggingface.co) can be connected to; True behind a proxy."""
    parts = urlsplit(address or os.environ.get("HF_ENDPOINT") or "https://huggingface.co")
    host = parts.hostname or "huggingface.co"
    if getproxies().keys() - {"no"}:  # hosts that are reached without a proxy make none
        return True
    asked, answer = _ASKED.get(host, (-REMEMBERED, False))
    if time.monotonic() - asked > REMEMBERED:
        try:
            socket.create_connection((host, parts.port or (80 if parts.scheme == "http" else 443)), TIMEOUT).close()
            answer = True
        except OSError:
            answer = False
        _ASKED[host] = (time.monotonic(), answer)
    return answer


@contextmanager
def offline_at_once() -> Iterator[None]:
    """Where the hub is not reachable, its libraries are told so inside: they read what they have kept, or give up."""
    import datasets.config
    import huggingface_hub.constants

    settings = (datasets.config, huggingface_hub.constants)
    before = [settings_of.HF_HUB_OFFLINE for settings_of in settings]
    if not any(before) and not reachable():
        for settings_of in settings:
            settings_of.HF_HUB_OFFLINE = True
    try:
        yield
    finally:
        for settings_of, value in zip(settings, before, strict=True):
            settings_of.HF_HUB_OFFLINE = value
