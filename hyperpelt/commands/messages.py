"""What other libraries say: texts of files and rows are in it, so it is printed as data, too.

Their log records and warnings all pass through here, whoever handles them. Progress bars do not: those of this library
hold names that were checked, and those of others (the downloads of `huggingface_hub`) the names of files.
"""

from __future__ import annotations

import logging
import traceback
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from hyperpelt.errors import visible


class _Record(logging.LogRecord):
    """A record whose text, and the traceback with it, control no terminal."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        if self.exc_info and self.exc_info[0] is not None:
            self.exc_text = visible("".join(traceback.format_exception(*self.exc_info)).rstrip("\n"))

    def getMessage(self) -> str:
        return visible(super().getMessage())


@contextmanager
def printed_as_data() -> Iterator[None]:
    """While inside, what is logged and warned of in this process is made visible."""
    factory, formatted = logging.getLogRecordFactory(), warnings.formatwarning

    def as_data(*arguments: Any, **options: Any) -> str:
        return visible(formatted(*arguments, **options))

    logging.setLogRecordFactory(_Record)
    warnings.formatwarning = as_data
    try:
        yield
    finally:
        logging.setLogRecordFactory(factory)
        warnings.formatwarning = formatted
