"""The one way most built-in text tasks are written out: `sentence1: ... sentence2: ...`, as T5 and HyperFormer do.

No task name stands in front (HyperFormer's choice with adapters): what the task is, the tuned weights say. Targets are
single words, one token each for T5's and BERT's vocabularies, and the same words wherever the same thing is asked
(yes and no, same and different): so tasks share their answers, a loss per token weighs the decision and not its
spelling, and what was learnt on one task can be tried on the next. They differ from the first token on.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from hyperpelt import Example, UserError

YES_NO = ("yes", "no")
NO_YES = ("no", "yes")
YES_MAYBE_NO = ("yes", "maybe", "no")
DIFFERENT_SAME = ("different", "same")
NEGATIVE_POSITIVE = ("negative", "positive")


def write(fields: Mapping[str, Any]) -> str:
    """'name: value name: value', with runs of white space as one space.

    Raises UserError for a null, which would be written as the word None.
    """
    for name, value in fields.items():
        if value is None:
            raise UserError(
                f"column {name!r} is null, expected a text: mend the row, or leave such rows out with "
                f"Splits(drop={{{name!r}: None}})"
            )
    return " ".join(" ".join(f"{name}: {value}".split()) for name, value in fields.items())


def written(fields: Mapping[str, Any], **rest: Any) -> Example:
    """An Example of these fields in their order, the longest of which is the one that loses its end where all of them
    are too long together; `rest` as `Example` takes it."""
    texts = {name: write({name: value}) for name, value in fields.items()}
    longest = max(texts, key=lambda name: len(texts[name]))
    behind = list(texts)[list(texts).index(longest) + 1 :]
    return Example(input=" ".join(texts.values()), ending=" ".join(texts[name] for name in behind), **rest)


@dataclass(frozen=True)
class Fields:
    """A render function: these columns in this order; the gold is the label id in column `label`."""

    columns: tuple[str, ...]
    label: str = "label"

    def __call__(self, row: Mapping[str, Any]) -> Example:
        return written({name: row[name] for name in self.columns}, label=row[self.label])
