"""Prefix-tuning (Li & Liang 2021, arXiv 2101.00190) and prompt tuning (Lester et al. 2021, 2104.08691).

    prefix-tuning     = prefix @ attention x per task
    prefix-tuning-mlp = the same, rows made by an MLP (m = 512) that baking a task folds away
    prompt-tuning     = prompt @ embedded encoder input x per task

T5-base, one task: N=10 552,960; N=10, m=512 29,571,072; N=100 76,800. Identity: N = 0. References: `adapters` on BART,
float64 transcription on T5; peft for prompts.
"""

from __future__ import annotations

from hyperpelt.methods.base import Method, Part, Source
from hyperpelt.methods.registry import method
from hyperpelt.tuners import Prefix, Prompt


@method(
    "prefix-tuning",
    paper="Prefix-tuning, arXiv 2101.00190",
    family="prefixes, prompts",
    equations="sections 4.2, 4.3",
    reference="adapters, transcription",
)
def prefix_tuning(*, prefix_length: int = 10, init: str = "quiet") -> Method:
    """Prefix-tuning; **prefix_length**: rows N at each attention; **init**: as in `hyperpelt.tuners.Prefix`."""
    return Method(name="prefix-tuning", parts=(Part(tuner=Prefix(length=prefix_length, init=init), at=("attention",)),))


@method(
    "prefix-tuning-mlp",
    paper="Prefix-tuning, arXiv 2101.00190",
    family="prefixes, prompts",
    equations="sections 4.2, 4.3",
    reference="transcription",
)
def prefix_tuning_mlp(*, prefix_length: int = 10, hidden: int = 512, init: str = "quiet") -> Method:
    """Prefix-tuning whose rows an MLP of **hidden** units makes."""
    part = Part(tuner=Prefix(length=prefix_length, init=init), at=("attention",), source="prefix_mlp")
    sources = {"prefix_mlp": Source(type="per_task", hidden=hidden)}
    return Method(name="prefix-tuning-mlp", parts=(part,), sources=sources)


@method(
    "prompt-tuning",
    paper="Prompt tuning, arXiv 2104.08691",
    family="prefixes, prompts",
    equations="section 2",
    reference="peft",
)
def prompt_tuning(*, length: int = 100) -> Method:
    """Prompt tuning; **length**: rows before the embedded input."""
    return Method(name="prompt-tuning", parts=(Part(tuner=Prompt(length=length), at=("encoder.embedding",)),))
