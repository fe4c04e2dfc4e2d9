"""The one exception that means: the input was at fault, and this is what to do about it.

Every message is one sentence or two: what was expected, what came, where (task, split, row, file), what to do.
The command line prints it without a traceback and exits with status 2.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from difflib import get_close_matches

LONGEST = 300  # letters of a value that a message shows


def shown(value: object) -> str:
    """A value in a message: as Python writes it, cut where it is long."""
    return cut(repr(value))


def cut(text: str, longest: int = LONGEST) -> str:
    """A text in a message; of a long one the beginning."""
    return text if len(text) <= longest else f"{text[:longest]}... ({len(text):,} letters)"


def counted(number: int, what: str) -> str:
    """'1 task', '8 tasks', '1,000 rows'."""
    return f"{number:,} {what}{'s' * (number != 1)}"


# What a terminal obeys instead of showing it (ESC and its 8-bit kin), what turns a line around, half characters.
_HIDDEN = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u200e\u200f\u202a-\u202e\u2066-\u2069\ud800-\udfff]")


def visible(text: str) -> str:
    """Data as a terminal may be given them: control characters are shown (`\\x1b`), line ends and tabs stay."""
    return _HIDDEN.sub(lambda found: found[0].encode("unicode_escape").decode(), text)


class UserError(ValueError):
    """Bad input: a name, a file, a row, a setting. Never raised for a defect of the library itself."""


def of_the_machine(error: BaseException) -> str | None:
    """A sentence for memory that is too small and for other processes that ended; None for what is neither.

    PyTorch has a class of its own for the memory of an accelerator alone, and none for what gloo throws.
    """
    kind, first = type(error).__name__, cut(next(iter(str(error).splitlines()), ""))
    if kind in ("MemoryError", "OutOfMemoryError") or re.search("out of memory|allocate memory", first):
        return (
            f"The memory is too small for this ({first or kind}): take smaller batches, gradient_checkpointing=true or "
            "a smaller backbone; `hyperpelt plan` tells what fits."
        )
    if kind in ("DistBackendError", "DistNetworkError", "DistStoreError") or "gloo" in first:
        return (
            f"The processes of this run cannot reach each other, or one of them ended ({first}). What was saved is "
            "kept: start it again with resume=auto."
        )
    return None


def unknown(kind: str, name: str, options: Iterable[str]) -> UserError:
    """A "did you mean" error for `name`, which is none of `options`.

    With no near match the message lists the options (the first twelve of a long list).
    """
    options, what = sorted(options), f"{kind}:" if kind.endswith("'") else kind  # two names are told apart
    near = get_close_matches(name, options, n=3, cutoff=0.6)
    if near:
        hint = f"Did you mean {' or '.join(repr(match) for match in near)}?"
    elif options:
        shown = ", ".join(options[:12]) + (f", ... ({len(options)} in all)" if len(options) > 12 else "")
        hint = f"Known: {shown}."
    else:
        hint = f"No {kind} is known here."
    return UserError(f"Unknown {what} {name!r}. {hint}")
