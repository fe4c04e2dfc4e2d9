"""Captions: COCO (Karpathy and Fei-Fei's split), Flickr30k, NoCaps, Flickr8k.

Each image has several captions: training draws one of them anew each time, evaluation compares with all. Captions are
searched for with five beams (VL-T5, VL-Adapter).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from hyperpelt import Example, Hub, Splits, Task
from hyperpelt import register as add
from hyperpelt_tasks.vl.sources import Captioned

INPUT = "describe the image"
BEAMS = 5


def register() -> None:
    """Register the four sets."""
    _add(
        "coco-caption",
        # Karpathy's train and restval together are `train` here: 113,287 images.
        Captioned(Hub("jxie/coco_captions"), key="cocoid"),
        Described("captions"),
        splits=Splits(),
        answer=("captions",),
        description="Describe the photo in one sentence.",
    )
    _add(
        "flickr30k",
        Hub("umaru97/flickr30k_train_val_test"),
        Described("caption"),
        splits=Splits(validation="val"),
        answer=("caption",),
        description="Describe the photo of people or animals in one sentence.",
    )
    _add(
        "nocaps",
        # To be evaluated on after training on COCO: it has no training split, and its test captions are not public.
        Hub("lmms-lab/NoCaps"),
        Described("annotations_captions"),
        splits=Splits(train=None, validation=None, test="validation"),
        answer=("annotations_captions",),
        description="Describe the photo, which may show things that COCO lacks, in one sentence.",
    )
    _add(
        "flickr8k",
        Hub("local/flickr8k-1k"),
        Described("captions"),
        splits=Splits(),
        answer=("captions",),
        description="Describe the photo in one sentence.",
    )


@dataclass(frozen=True)
class Described:
    """A render function: the image, and all its captions from a column."""

    captions: str

    def __call__(self, row: Mapping[str, Any]) -> Example:
        if row[self.captions] is None:
            return Example(input=INPUT, images=(row["image"],))
        captions = tuple(" ".join(text.split()) for text in row[self.captions])
        targets = tuple((caption, 1.0) for caption in captions)
        return Example(input=INPUT, label=captions, targets=targets, images=(row["image"],))


def _add(name: str, source: Any, render: Described, **definition: Any) -> None:
    add(
        Task(
            name=f"vl/{name}",
            source=source,
            render=render,
            kind="generation",
            metrics=("cider_d", "bleu4"),
            modalities=("text", "image"),
            num_beams=BEAMS,
            **definition,
        )
    )
