"""Statements about images, to be judged: NLVR, NLVR2 (two images a row), SNLI-VE.

NLVR and NLVR2 say the same sentence of several images: rows of a sentence are a group, and `consistency` is the share
of sentences that are judged right with all of theirs (Suhr et al. 2019, arXiv 1811.00491).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from hyperpelt import Example, Hub, Splits, Task
from hyperpelt import register as add
from hyperpelt_tasks.rendering import YES_MAYBE_NO, write

FALSE_TRUE = ("false", "true")


def register() -> None:
    """Register the three sets."""
    _add(
        "nlvr",
        Hub("lil-lab/nlvr", "v1"),
        Judged(("image",), kept=(0,)),
        choices=FALSE_TRUE,
        metrics=("accuracy", "consistency"),
        splits=Splits(),
        description="Is the statement about the boxes with coloured shapes true or false?",
    )
    _add(
        "nlvr2",
        Hub("pingzhili/nlvr2"),
        Judged(("image0", "image1"), kept=(0, 1, 3)),
        choices=FALSE_TRUE,
        metrics=("accuracy", "consistency"),
        splits=Splits.held_out(by="sentence"),
        description="Is the statement about the two photos true or false?",
    )
    _add(
        "snli-ve",
        Hub("sedrickkeh/snli-ve"),
        supposed,
        choices=YES_MAYBE_NO,
        splits=Splits(),
        description="If the image shows how it is, is the hypothesis true: yes, maybe or no?",
    )


@dataclass(frozen=True)
class Judged:
    """A render function: a sentence and its images; rows whose identifiers agree in the parts `kept` are a group.

    NLVR2 writes split-set-pair-sentence, and its official evaluation leaves out the pair; NLVR writes sentence-image.
    """

    images: tuple[str, ...]
    kept: tuple[int, ...]

    def __call__(self, row: Mapping[str, Any]) -> Example:
        parts = row["identifier"].split("-") if row.get("identifier") else None
        return Example(
            input=write({"statement": row["sentence"]}),
            label=_truth(row["label"]),
            images=tuple(row[name] for name in self.images),
            group=None if parts is None else "-".join(parts[place] for place in self.kept),
        )


def _truth(label: Any) -> Any:
    """NLVR2 writes True and False as words; a class index stays."""
    return str(label).lower() if isinstance(label, str | bool) else label


def supposed(row: Mapping[str, Any]) -> Example:
    """SNLI-VE: the image alone is the premise; the caption it was collected with would tell what it shows."""
    return Example(input=write({"hypothesis": row["hypothesis"]}), label=row["label"], images=(row["image"],))


def _add(name: str, source: Hub, render: Any, **definition: Any) -> None:
    add(Task(name=f"vl/{name}", source=source, render=render, modalities=("text", "image"), **definition))
