"""What an evaluation will ask of a task's rows, asked without a model: can they be measured, and tokenised?"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

from hyperpelt.errors import UserError
from hyperpelt.tasks.findings import Finding, Numbered, about_rows, shorten

if TYPE_CHECKING:
    from hyperpelt.metrics import Metric
    from hyperpelt.tasks.rendering import Example
    from hyperpelt.tasks.types import Task

MEASURED = 256  # rows of open answers that metrics are tried on: some of these read each answer at length


def measure_gold(task: Task, examples: Sequence[Example]) -> dict[str, float]:
    """Every metric of a task that can be computed here, of the gold answers against themselves.

    Raises UserError that names the metric which cannot be computed on such rows, whatever its function raised.
    """
    from hyperpelt import metrics

    if task.kind == "generation":
        examples = examples[:MEASURED]
    labels = [example.label for example in examples]
    groups = [example.group for example in examples]
    found: dict[str, float] = {}
    for name in metrics.available(task.metrics)[0]:
        try:
            found |= metrics.compute([name], [_as_answered(label) for label in labels], labels, groups=groups)
        except UserError:
            raise
        except Exception as problem:  # a metric may be a stranger's function
            raise UserError(
                f"the metric {name!r} fails on the gold answers with {type(problem).__name__}: {problem}"
            ) from problem
    return found


def _as_answered(label: Any) -> Any:
    """The gold answer as a model would give it: of several accepted texts the first."""
    return label[0] if isinstance(label, tuple) else label


def unfit_metrics(task: Task) -> Iterator[Finding]:
    """An error for each metric that there is not, or that is not for the task's kind."""
    from hyperpelt import metrics

    for name in task.metrics:
        try:
            message = of_another_kind(task, metrics.get(name))
        except UserError as problem:
            message = str(problem)
        if message:
            yield Finding(level="error", about="answers", message=message)


def of_another_kind(task: Task, metric: Metric) -> str:
    """What is said of a metric that is not for the task's kind; '' of one that is."""
    if task.kind in metric.kinds:
        return ""
    return f"the metric {metric.name!r} is for {' and '.join(metric.kinds)} tasks, and this is a {task.kind} task."


def unmeasured(task: Task, split: str, rows: Sequence[Numbered]) -> Iterator[Finding]:
    """An error for a metric, each of which there is, that would end the evaluation of this split."""
    try:
        measure_gold(task, [example for _, example in rows])
    except UserError as problem:
        yield Finding(level="error", about="answers", split=split, message=str(problem))


def untokenised(split: str, rows: Sequence[Numbered], tokenizer: Any, max_target_length: int) -> Iterator[Finding]:
    """Endings of no token, and candidates that training cuts or no backbone of this tokenizer has positions for."""
    blank = [number for number, example in rows if example.ending and not _num_tokens(tokenizer, example.ending)]
    if blank:
        yield about_rows("error", "tokens", split, blank, "with an ending that the tokenizer makes no token of")
    choices = dict.fromkeys(choice for _, example in rows for choice in example.choices or ())
    longest = max(choices, key=lambda choice: len(choice), default="")
    count = _num_tokens(tokenizer, longest) + 1
    most = getattr(tokenizer, "model_max_length", None) or 10**9
    if count > most:
        message = f"the choice {shorten(longest, 40)!r} has {count} tokens, more than the {most} of the backbone"
        yield Finding(level="error", about="tokens", split=split, message=message)
    elif count > max_target_length:
        message = (
            f"choices of up to {count} tokens: training cuts them at {max_target_length}, evaluation reads them whole"
        )
        yield Finding(level="warning", about="tokens", split=split, message=message)


def _num_tokens(tokenizer: Any, text: str) -> int:
    return len(tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"])
