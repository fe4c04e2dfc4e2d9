"""A model's answers to rendered examples: ranked choices, numbers between choices, generated text.

    answers = answer(model, task, examples, settings).answers       # one an example, in the examples' order

Ranking encodes each input once and scores all candidates of a batch in one decoder pass; generation searches with as
many beams as the task says (one: greedily). Inputs are sorted by length and cut into batches over *all* examples before
the batches are dealt out to the processes, so an answer does not depend on how many there are, and no row has two.

Letters: B rows of a batch, S source tokens, N candidates of a batch, T target tokens.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import Int
from torch import Tensor

from hyperpelt.data import IGNORED, MULTIPLE
from hyperpelt.data.progress import shown
from hyperpelt.data.seeing import refuse
from hyperpelt.evaluation.encoded import Input, cut, deal, encode, tokenizer_of
from hyperpelt.evaluation.settings import Settings
from hyperpelt.model import scoring
from hyperpelt.tasks.spelling import decode
from hyperpelt.tasks.values import read_number

if TYPE_CHECKING:
    from accelerate import Accelerator

    from hyperpelt.data.seeing import Eye
    from hyperpelt.model.tuned import TunedModel
    from hyperpelt.tasks import Example, Task


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """One answer: its text, what metrics take (index, number or text; None if it is no choice), a score a candidate;
    whether the input was longer than what was read of it."""

    text: str
    prediction: Any
    scores: tuple[float, ...] | None = None
    is_cut: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Answers:
    """All answers to a list of examples, and how many inputs had to be cut for them."""

    answers: list[Answer]
    num_cut: int


def answer(
    model: TunedModel,
    task: Task,
    examples: Sequence[Example],
    settings: Settings,
    *,
    eye: Eye | None = None,
    accelerator: Accelerator | None = None,
    progress: bool = False,
) -> Answers:
    """Answer every example, on all processes together; each process gets all answers.

    eye: has seen the examples (`Eye.see`), whose images are keys by now. Raises UserError for a task that the model
    does not have, and for images where there is no eye.
    """
    if eye is None and any(example.images for example in examples):
        raise refuse(task.name)
    inputs, num_cut = encode(model, task, examples, settings)
    batches = cut(inputs, settings.batch_size, settings.decoder_rows)
    rank, world = (accelerator.process_index, accelerator.num_processes) if accelerator else (0, 1)
    mine = list(deal(batches, rank, world))
    found: list[tuple[int, Answer]] = []
    with _evaluating(model):
        for batch, counts in shown(mine, task.name, "batches", progress=progress):
            answers = _answer_batch(model, [task] * len(batch), [inputs[index] for index in batch], settings, eye)
            found += zip(batch, answers, strict=True) if counts else []
    return Answers(answers=_in_order(_gathered(found, world), len(examples)), num_cut=num_cut)


def _gathered(found: list[tuple[int, Answer]], world: int) -> list[tuple[int, Answer]]:
    if world == 1:
        return found
    from accelerate.utils import gather_object

    return gather_object(found)


def _in_order(found: list[tuple[int, Answer]], count: int) -> list[Answer]:
    answers = dict(found)
    assert len(found) == len(answers) == count, f"{len(found)} answers to {count} rows"
    return [answers[index] for index in range(count)]


@contextmanager
def _evaluating(model: TunedModel) -> Iterator[None]:
    """Dropout off and no gradients (so that each task's tensors are made once); the mode comes back afterwards."""
    was_training = model.training
    model.eval()
    try:
        with torch.no_grad():
            yield
    finally:
        model.train(was_training)


def answer_mixed(
    model: TunedModel, tasks: Sequence[Task], examples: Sequence[Example], settings: Settings, *, eye: Eye | None = None
) -> list[Answer]:
    """Answer examples of several tasks, one task an example, in batches that mix them.

    Those that are ranked share batches, and those that are written with as many beams. Raises UserError as `answer`.
    """
    groups: dict[tuple[bool, int], list[int]] = {}
    for number, (task, example) in enumerate(zip(tasks, examples, strict=True)):
        ranked = (example.choices is not None, 0 if example.choices is not None else task.num_beams)
        groups.setdefault(ranked, []).append(number)
    found: dict[int, Answer] = {}
    with _evaluating(model):
        for numbers in groups.values():
            inputs, _ = encode(model, tasks[numbers[0]], [examples[number] for number in numbers], settings)
            for batch in cut(inputs, settings.batch_size, settings.decoder_rows):
                chosen = [numbers[place] for place in batch]
                rows, own = [inputs[place] for place in batch], [tasks[number] for number in chosen]
                found.update(zip(chosen, _answer_batch(model, own, rows, settings, eye), strict=True))
    return [found[number] for number in range(len(examples))]


def _answer_batch(
    model: TunedModel, tasks: Sequence[Task], batch: Sequence[Input], settings: Settings, eye: Eye | None
) -> list[Answer]:
    source = _padded([row.ids for row in batch], tokenizer_of(model).pad_token_id, multiple=MULTIPLE).to(model.device)
    lengths = torch.tensor([len(row.ids) for row in batch], device=model.device)
    mask = (torch.arange(source.shape[1], device=model.device) < lengths[:, None]).long()
    task_ids = torch.tensor([model.task_id(task.name) for task in tasks])
    seen = _seen(batch, eye)
    if batch[0].candidates is None:
        beams = settings.num_beams or tasks[0].num_beams
        texts = _generate(model, source, mask, task_ids, seen, max_new_tokens=settings.max_target_length, beams=beams)
        written = zip(tasks, texts, strict=True)
        answers = [Answer(text=text, prediction=_parsed(task.kind, text)) for task, text in written]
    else:
        scores = _score(model, source, mask, task_ids, batch, settings, seen)
        each = zip(tasks, batch, scores, strict=True)
        answers = [_chosen(task.kind, row.choices or (), found, settings) for task, row, found in each]
    return [replace(answer, is_cut=row.is_cut) for answer, row in zip(answers, batch, strict=True)]


def _seen(batch: Sequence[Input], eye: Eye | None) -> dict[str, Tensor]:
    """`visual` and `visual_rows` of a batch, as the model takes them; nothing where no row has an image."""
    keys = [key for row in batch for key in row.images]
    if eye is None or not keys:
        return {}
    owners = [number for number, row in enumerate(batch) for _ in row.images]
    return {"visual": eye.features(keys), "visual_rows": torch.tensor(owners)}


def _score(
    model: TunedModel,
    source: Int[Tensor, "B S"],
    mask: Int[Tensor, "B S"],
    task_ids: Int[Tensor, " B"],
    batch: Sequence[Input],
    settings: Settings,
    seen: dict[str, Tensor],
) -> list[list[float]]:
    """Every row's scores, one a candidate."""
    candidates = [tokens for row in batch for tokens in row.candidates or ()]
    texts = [text for row in batch for text in row.choices or ()]
    rows = torch.tensor([index for index, row in enumerate(batch) for _ in range(row.width)])
    labels = _padded(candidates, IGNORED)
    # One pass, except for a single row with very many candidates.
    log_probs = [
        model.token_log_probs(source, mask, task_ids, part, part_rows, **seen)
        for part, part_rows in zip(labels.split(settings.decoder_rows), rows.split(settings.decoder_rows), strict=True)
    ]
    scores = scoring.normalise(
        torch.cat(log_probs),
        labels,
        texts,
        eos_token_id=tokenizer_of(model).eos_token_id,
        normalisation=settings.normalisation,
    )
    return scoring.group(scores, rows, len(batch))


def _generate(
    model: TunedModel,
    source: Int[Tensor, "B S"],
    mask: Int[Tensor, "B S"],
    task_ids: Int[Tensor, " B"],
    seen: dict[str, Tensor],
    *,
    max_new_tokens: int,
    beams: int,
) -> list[str]:
    tokens = model.generate(
        source,
        attention_mask=mask,
        task_ids=task_ids,
        visual=seen.get("visual"),
        visual_rows=seen.get("visual_rows"),
        max_new_tokens=max_new_tokens,
        do_sample=False,
        num_beams=beams,
    )
    assert isinstance(tokens, Tensor), "ids for ids"
    return decode(tokenizer_of(model), tokens)


def _padded(rows: Sequence[Sequence[int]], value: int, *, multiple: int = 1) -> Int[Tensor, "B S"]:
    """Rows filled up on the right, to a length that is a multiple of `multiple`."""
    width = -(-max(map(len, rows)) // multiple) * multiple
    return torch.tensor([[*row, *[value] * (width - len(row))] for row in rows])


def _chosen(kind: str, choices: Sequence[str], scores: Sequence[float], settings: Settings) -> Answer:
    """The answer that a row's candidates give: an index, a number between them, or the best one's text."""
    best = scoring.best(scores)
    if kind == "regression":
        values = [float(choice) for choice in choices]
        number = scoring.expected_value(scores, values) if settings.regression == "expected" else values[best]
        return Answer(text=f"{number:g}", prediction=number, scores=tuple(scores))
    prediction = best if kind == "classification" else choices[best]
    return Answer(text=choices[best], prediction=prediction, scores=tuple(scores))


def _parsed(kind: str, text: str) -> str | float:
    """A generated answer as its metrics take it; nan where a number was expected and none came."""
    if kind != "regression":
        return text
    number = read_number(text)
    return math.nan if number is None else number
