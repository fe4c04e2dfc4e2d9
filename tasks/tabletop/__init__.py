"""The embedded suite: a small world of coloured things on a table and of people, made from a seed and needing no
network.

    tabletop               the mixture of twelve text tasks, shaped like GLUE's and SuperGLUE's
    tabletop-transfer      two text tasks that are never trained on: review, swaps
    tabletop-vl            four tasks on rendered pictures
    tabletop-vl-transfer   two more, never trained on: count, foil

What the tasks are, with examples and baselines: docs/suite.md. Harder or other rows of the same tasks:

    from hyperpelt_tasks import tabletop
    for task in tabletop.tasks(prefix="hard", difficulty="hard", seed=7):
        hyperpelt.register(task)

The modules: dice (random numbers), lexicon, opinions, causes, senses (words), world (deeds and splits), language
(telling), suite (how rows are made), judged, pairs, inference, asking, sense (text tasks), table, render, vision
(pictures), definitions (all of them as tasks), baselines (what counting words achieves).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from hyperpelt import Task


def tasks(**options: Any) -> list[Task]:
    """All tasks of the suite, not registered; see `definitions.tasks`."""
    from hyperpelt_tasks.tabletop import definitions

    return definitions.tasks(**options)


def register() -> None:
    """Register the default suite: twenty tasks and their four mixtures."""
    from hyperpelt import Mixture
    from hyperpelt import register as add
    from hyperpelt_tasks.tabletop import definitions

    for task in definitions.tasks():
        add(task)
    groups = {
        "tabletop": (definitions.TEXT, "The embedded suite's text tasks."),
        "tabletop-transfer": (definitions.TEXT_TRANSFER, "Text tasks of the embedded suite that are never trained on."),
        "tabletop-vl": (definitions.VISION, "The embedded suite's tasks on pictures."),
        "tabletop-vl-transfer": (definitions.VISION_TRANSFER, "Picture tasks of the suite that are never trained on."),
    }
    for name, (members, description) in groups.items():
        add(Mixture(name=name, rates=[f"tabletop/{member}" for member in members], description=description))
