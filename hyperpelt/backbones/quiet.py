"""Transformers without its progress bars."""

from __future__ import annotations


def quiet_transformers() -> None:
    """No bars for reading and writing files that take a moment; downloads keep theirs."""
    from transformers.utils import logging

    logging.disable_progress_bar()
