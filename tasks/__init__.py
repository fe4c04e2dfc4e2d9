"""The built-in tasks: an ordinary plugin of hyperpelt, installed as `hyperpelt_tasks`.

    glue         GLUE, nine tasks, and the mixture `glue` of the eight that HyperFormer and HyperPELT train on
    super_glue   SuperGLUE's seven that GLUE does not have
    transfer     text sets that are usually transferred to: reviews, questions, paraphrase, inference, common sense
    tabletop     the embedded suite: text and picture tasks made from a seed, and their mixtures
    digits       scikit-learn's handwritten digits as visual questions
    vl           vision and language: VQAv2, GQA, NLVR2, SNLI-VE, COCO captions, ...

Each module defines tasks while `register` runs, and reads nothing.
"""

from __future__ import annotations

from importlib import import_module

MODULES = ("glue", "super_glue", "transfer", "tabletop", "digits", "vl")


def register() -> None:
    """Register every built-in task (called through the entry point `hyperpelt.tasks`)."""
    for module in MODULES:
        import_module(f"{__name__}.{module}").register()
