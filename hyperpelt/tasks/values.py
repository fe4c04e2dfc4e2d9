"""What a value of a row is, as its author reads it: by which texts it is known, whether it is there, which number.

The same answer comes as `1`, `1.0`, `"1"` or `True`, by what wrote the file and what read it. Everything that compares
a value of a row with something that a person wrote (a label with the choices, a dropped value, a translated label)
compares these texts.
"""

from __future__ import annotations

import math
import re
import struct
from collections.abc import Mapping
from decimal import Decimal
from typing import Any

_DECIMAL = re.compile(r"[+-]?(\d+(\.\d*)?|\.\d+)([eE][+-]?\d+)?")
_THOUSANDS = re.compile(r"[+-]?\d{1,3}(,\d{3})+(\.\d+)?")
_MINUS = dict.fromkeys(map(ord, "\u2010\u2011\u2012\u2013\u2212\ufe63\uff0d"), "-")


class ClassNumber(int):
    """A number of a `ClassLabel` column that knows the names of its classes; equal to the plain number."""

    names: tuple[str, ...]

    def __new__(cls, number: int, names: tuple[str, ...] = ()) -> ClassNumber:
        made = super().__new__(cls, number)
        made.names = names
        return made

    @property
    def name(self) -> str | None:
        """Its class's; None for a number that has no class, such as -1."""
        return self.names[self] if 0 <= self < len(self.names) else None


def plain(value: Any) -> Any:
    """NumPy's scalars as Python's, a decimal (a database's NUMERIC) as the number it is; everything else as it is."""
    if isinstance(value, Decimal):
        return int(value) if value.is_finite() and value == value.to_integral_value() else float(value)
    kind = type(value).__module__.partition(".")[0]
    return value.item() if kind == "numpy" and not getattr(value, "shape", ()) and hasattr(value, "item") else value


def is_missing(value: Any) -> bool:
    """None, NaN, pandas' NA and NaT, a blank text: what files hold where nothing was written."""
    if value is None or type(value).__name__ in ("NAType", "NaTType"):
        return True
    value = plain(value)
    return (
        value is None or (isinstance(value, str) and not value.strip()) or (isinstance(value, float) and value != value)
    )


def known_by(value: Any) -> tuple[str, ...]:
    """The texts that a value may have been written as, the likeliest first: True is 'true' and 'True', 1.0 is '1.0' and
    '1', a class is its name, a decimal has its own digits."""
    if isinstance(value, ClassNumber) and value.name is not None:
        return (value.name,)
    if isinstance(value, Decimal):
        return (str(value), *known_by(plain(value)))
    value = plain(value)
    if isinstance(value, bool):
        return (str(value).lower(), str(value))
    if isinstance(value, float) and value.is_integer():
        return (repr(value), number_text(value))
    return (number_text(value) if isinstance(value, float) else str(value),)


def truth_of(value: Any) -> str | None:
    """'true' or 'false' of a truth value, however it is written (CSV's TRUE is JSON's true); None of anything else."""
    text = known_by(value)[0].casefold()
    return text if text in ("true", "false") else None


def same_text(one: Any, other: Any) -> bool:
    """Whether two values may have been written alike; all that is missing is alike, and so is a truth in any case."""
    missing = [is_missing(value) or (isinstance(value, str) and value.lower() == "nan") for value in (one, other)]
    if isinstance(one, Mapping | list | tuple) or isinstance(other, Mapping | list | tuple):
        return one == other
    if all(missing) or not set(known_by(one)).isdisjoint(known_by(other)):
        return True
    return truth_of(one) is not None and truth_of(one) == truth_of(other)


def number_text(value: float) -> str:
    """The shortest text of a number that reads back as it, without an exponent where it is whole: 3, 0.1, 1234567.

    A number that came out of 32 bits has the text that was put into them: 0.1, not 0.10000000149011612.
    """
    if isinstance(value, int):
        return str(int(value))
    if value.is_integer() and abs(value) < 1e16:
        return str(int(value))
    texts = (f"{value:.{digits}g}" for digits in range(1, 10))
    return next((text for text in texts if _single(float(text)) == value), repr(value))


def _single(value: float) -> float | None:
    try:
        return struct.unpack("f", struct.pack("f", value))[0]
    except OverflowError:
        return None


def read_number(text: str) -> float | None:
    """The number that a text is, whatever blanks stand in it and whichever minus before it; None if it is none.

    A tokenizer may write 3.5 as '3. 5'. Thousands may be parted by commas; nothing else may stand beside the digits.
    """
    bare = "".join(text.split()).translate(_MINUS)
    if _THOUSANDS.fullmatch(bare):
        return float(bare.replace(",", ""))
    return float(bare) if _DECIMAL.fullmatch(bare) else None


def is_number(text: str) -> bool:
    """Whether a text spells a finite number as Python reads it (not 1,000 or 1_000)."""
    return _DECIMAL.fullmatch(text.strip()) is not None and math.isfinite(float(text))


def whole_number(value: Any) -> int | None:
    """The whole number that a value is, or that a text spells as a program would ('1', '1.0', not '01'); no truth
    value is one."""
    value = plain(value)
    if isinstance(value, bool):
        return None
    if isinstance(value, str):
        match = re.fullmatch(r"(0|-?[1-9]\d*)(\.0*)?", value)
        return int(match[1]) if match else None
    if isinstance(value, float):
        return int(value) if value.is_integer() else None
    return int(value) if hasattr(type(value), "__index__") else None
