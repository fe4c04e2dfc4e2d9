"""Long work says how far it is where no terminal shows a bar, and short work says nothing."""

from __future__ import annotations

import sys

import pytest

from hyperpelt.data import progress


class _Terminal:
    def __init__(self, stream):
        self._stream = stream

    def isatty(self):
        return True

    def __getattr__(self, name):
        return getattr(self._stream, name)


@pytest.fixture
def clock(monkeypatch):
    """Ten seconds between two readings."""
    times = iter(range(0, 10_000, 10))
    monkeypatch.setattr(progress.time, "monotonic", lambda: float(next(times)))


def test_a_line_every_half_minute_says_how_many_are_done(clock, capsys):
    assert list(progress.shown(range(8), "glue/rte", "batches")) == list(range(8))
    lines = capsys.readouterr().err.splitlines()
    assert lines == ["glue/rte: 3 of 8 batches", "glue/rte: 6 of 8 batches"]


def test_what_has_no_length_is_counted_and_what_was_done_before_counts(clock, capsys):
    assert list(progress.shown(iter("abc"), "rows", "rows", done=2_000)) == list("abc")
    assert capsys.readouterr().err == "rows: 2,003 rows\n"


def test_short_work_and_work_that_is_asked_to_be_silent_say_nothing(capsys, monkeypatch):
    assert list(progress.shown(range(500), "rows", "rows")) == list(range(500))
    monkeypatch.setattr(progress, "EVERY", 0.0)
    assert list(progress.shown(range(5), "rows", "rows", progress=False)) == list(range(5))
    assert capsys.readouterr().err == ""


def test_a_terminal_gets_a_bar(capsys, monkeypatch):
    monkeypatch.setattr(sys, "stderr", _Terminal(sys.stderr))
    assert list(progress.shown(range(5), "glue/rte", "batches")) == list(range(5))
    assert "glue/rte" in capsys.readouterr().err
