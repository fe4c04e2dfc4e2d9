"""In-context prompting of the frozen backbone: the instruction, then the shots with their answers, then the question.

    Is the hypothesis true?
    premise: ... hypothesis: ... answer: yes
    premise: ... hypothesis: ... answer: no
    premise: ... hypothesis: ... answer:

Shots come in the seed's order; as many stand in a prompt as fit its length, the same ones first for every question.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from hyperpelt.backbones.plain_text import encode
from hyperpelt.tasks import Example, Task

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

ANSWER = " answer:"


@dataclass(frozen=True)
class Prompted:
    """A render function that puts shots before what another one renders. **lengths**: tokens of each shot."""

    render: Callable[[Mapping[str, Any]], Example]
    instruction: str
    shots: tuple[str, ...]
    lengths: tuple[int, ...]
    count: Callable[[str], int]
    max_length: int

    def __call__(self, row: Mapping[str, Any]) -> Example:
        example = self.render(row)
        asked = f"{example.input}{ANSWER}"
        room = self.max_length - self.count(f"{self.instruction}\n{asked}")
        chosen = []
        for shot, length in zip(self.shots, self.lengths, strict=True):
            if length > room:
                break
            chosen.append(shot)
            room -= length
        parts = (self.instruction, *chosen, asked)
        ending = example.ending and f"{example.ending}{ANSWER}"  # what a cut leaves whole ends the prompt, too
        return replace(example, input="\n".join(part for part in parts if part), ending=ending)


def prompted(
    task: Task, shots: Sequence[Example], tokenizer: PreTrainedTokenizerBase, *, seed: int, max_length: int
) -> Task:
    """The same task, its inputs preceded by the instruction and the shots."""

    def count(text: str) -> int:
        return len(encode(tokenizer, [text])[0])

    order = list(shots)
    random.Random(f"{task.name} {seed} in context").shuffle(order)
    texts = tuple(f"{shot.input}{ANSWER} {shot.target}" for shot in order)
    render = Prompted(task.render, task.description, texts, tuple(map(count, texts)), count, max_length)
    return replace(task, render=render)


def prompted_each(
    task: Task,
    shots: Callable[[Task], Sequence[Example]],
    tokenizer: PreTrainedTokenizerBase,
    *,
    seed: int,
    max_length: int,
) -> Task:
    """`prompted`, and so each of a task's templates, which shows the shots as it renders them itself."""
    each = {
        name: prompted(one, shots(one), tokenizer, seed=seed, max_length=max_length) for name, one in task.variants()
    }
    first = next(iter(each.values()))
    renders = tuple((name, one.render) for name, one in each.items() if name is not None)
    return replace(task, render=first.render, templates=renders)


def num_fitting(task: Task, rows: Sequence[Mapping[str, Any]]) -> float:
    """How many shots stand in a prompt on average, over some rows."""
    render = task.render
    assert isinstance(render, Prompted)
    counts = [sum(shot in render(row).input for shot in render.shots) for row in rows]
    return sum(counts) / max(1, len(counts))
