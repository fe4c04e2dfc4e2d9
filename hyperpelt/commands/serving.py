"""A trained run put to work in Python, in one call: `hyperpelt.predict(run, rows)`.

hyperpelt.predict("runs/first", [
    {"task": "glue/rte", "sentence1": "...", "sentence2": "...", "id": 7},
    {"task": "glue/cola", "sentence": "..."},
])
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Unpack

from hyperpelt.errors import UserError, unknown

if TYPE_CHECKING:
    import torch

    from hyperpelt.evaluation.settings import Answering
    from hyperpelt.model.tuned import TunedModel

IDS = ("id", "idx")


def predict(
    run: str | Path | TunedModel,
    rows: Iterable[Mapping[str, Any] | str],
    *,
    task: str | None = None,
    plugins: Sequence[str] = (),
    device: str | torch.device | None = None,
    allow_urls: bool = False,
    **how: Unpack[Answering],
) -> list[dict[str, Any]]:
    """Answers to rows of a run's tasks, in their order; batches mix tasks.

    - **run**: a run folder, a shipped run, a hub id (its lengths and scoring rule are then the defaults), or a model
    - **rows**: a list, or a data frame of pandas: the columns of each row's task, beside `task` (unless **task** is
      that of all, or the run has but one), and `id` or `idx`, which are passed through; or a text, which is the row of
      a task that reads one column
    - **plugins**: beside those of the run; **how**: see `hyperpelt.evaluation.settings.Settings`
    - returns for each row `{"task", "id"?, "answer", "probabilities"?, "cut"?}` (see `predict` of
      `hyperpelt.evaluation.prediction`), or `{"task", "id"?, "error"}` for one that is
      of no task of the run or does not render: one sentence; the others are answered

    Raises:
        UserError: no such run.
    """
    from hyperpelt.evaluation.prediction import predict_mixed

    model, defaults = _loaded(run, plugins, device)
    if isinstance(rows, str | Mapping):
        raise UserError(f"predict takes a list of rows, got a single {type(rows).__name__}: put it in a list.")
    # A data frame of pandas gives the names of its columns where one goes through it.
    frame: Any = rows if hasattr(rows, "iterrows") else None
    given = rows if frame is None else frame.to_dict("records")
    task = model.tasks[0] if task is None and len(model.tasks) == 1 else task
    read = [_read(model, row, task) for row in given]
    good = [(known, example) for _, known, example, _ in read if example is not None]
    settings: dict[str, Any] = {**defaults, **how}
    tasks, examples = [known for known, _ in good], [example for _, example in good]
    answers = iter(predict_mixed(model, tasks, examples, allow_urls=allow_urls, **settings))
    return [place | ({"error": error} if example is None else next(answers)) for place, _, example, error in read]


def _loaded(
    run: str | Path | TunedModel, plugins: Sequence[str], device: str | torch.device | None
) -> tuple[TunedModel, dict[str, Any]]:
    if not isinstance(run, str | Path):
        return run, {}
    import torch

    from hyperpelt.commands.evaluate import load, scoring_settings

    model, settings = load(str(run), list(plugins), torch.device("cpu" if device is None else device))
    return model, scoring_settings(settings, None, None) | {"blind": settings.blind if settings else False}


def _read(model: TunedModel, row: Any, task: str | None) -> tuple[dict[str, Any], Any, Any, str]:
    """(what is passed through, the task, the rendered row, or why there is none)."""
    from hyperpelt import tasks
    from hyperpelt.tasks.lines import row_of

    try:
        columns: dict[str, Any] = {} if isinstance(row, str) else dict(row)
    except (TypeError, ValueError):
        problem = f"expected a row's columns (a mapping) or a text, got a {type(row).__name__}"
        return {"task": task}, None, None, problem
    named = task if task is not None else columns.pop("task", None)
    place = {"task": named, **{name: columns[name] for name in IDS if name in columns}}
    try:
        if named is None:
            raise UserError("the row names no task: expected a column 'task' (or task= for all rows)")
        if named not in model.tasks:
            raise unknown("task of this model", str(named), model.tasks)
        known = tasks.get(named)
        return place, known, known.example(row_of(known, row) if isinstance(row, str) else columns, answered=False), ""
    except UserError as problem:
        return place, None, None, str(problem)
