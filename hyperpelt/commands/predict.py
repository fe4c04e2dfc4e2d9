"""`hyperpelt predict`: rows in, answers with probabilities out."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from hyperpelt.commands import common
from hyperpelt.errors import UserError

if TYPE_CHECKING:
    from hyperpelt.model.tuned import TunedModel
    from hyperpelt.tasks import Example, Task
    from hyperpelt.tasks.asked import Asked

CHUNK = 512  # rows answered together: memory stays bounded, answers appear while input still comes


class Format(StrEnum):
    """What the input holds, as `hyperpelt.tasks.asked` knows it."""

    lines = "lines"
    jsonl = "jsonl"
    csv = "csv"
    tsv = "tsv"
    json = "json"
    parquet = "parquet"


OneTask = Annotated[
    str | None, typer.Option("--task", help="A task of the run, such as glue/rte; default: each row's column `task`.")
]
File = Annotated[
    Path | None, typer.Argument(metavar="[FILE]", help="Rows to answer; default: stdin. '-' is stdin too.")
]
Holds = Annotated[
    Format | None, typer.Option("--format", help="What the input holds; default: as the file's name says.")
]
Identity = Annotated[
    str | None, typer.Option("--id", metavar="COLUMN", help="Column passed through; default: id or idx, if there.")
]
Urls = Annotated[bool, typer.Option("--allow-urls", help="Fetch images whose path is an http(s) URL.")]


def predict(
    run: common.Run,
    task: OneTask = None,
    file: File = None,
    format: Holds = None,
    id_column: Identity = None,
    normalisation: common.Normalisation = None,
    regression: common.Regression = common.Number.expected,
    batch_size: common.BatchSize = None,
    num_beams: common.Beams = None,
    allow_urls: Urls = False,
    plugin: common.Plugins = None,
    backbone: common.Backbone = None,
    debug: common.Debug = False,
) -> None:
    """Answer rows: CSV, TSV, JSON, JSONL or Parquet with the task's columns, or lines of text; JSONL comes out.

    Rows are read as in training. A line of plain text is a row for a task that reads one column; other tasks refuse it
    and name their columns. Each answer is `{"line": n, "answer": ..., "probabilities": {choice: p}}` (for a table
    `"row": n`, from 0), with the row's id if it has one. A row that cannot be read is reported and answered by
    `{"line": n, "error": ...}`; the exit status is then 2. `"cut": true` marks one of which max_source_length kept
    only a part. An image column holds paths of files, relative to FILE's folder (for stdin: to the current folder).

    Without --task, in a run of several tasks, each row names its own: `{"task": "glue/rte", ...}`; batches mix tasks.
    """
    from hyperpelt.commands.evaluate import load, scoring_settings
    from hyperpelt.training.distributed import start_processes

    model, settings = load(run, plugin, start_processes().device, backbone)
    from hyperpelt import tasks
    from hyperpelt.evaluation.prediction import predict_mixed
    from hyperpelt.tasks.asked import read_asked, read_mixed

    wanted = [task] if task is not None else list(model.tasks)
    for name in wanted:
        model.task_id(name)
    common.require_tasks(run, wanted)
    known = {name: tasks.get(name) for name in wanted}
    _say_changes(model, known)
    how = scoring_settings(settings, normalisation, batch_size) | {"regression": regression.value}
    how |= {"num_beams": num_beams, "blind": settings.blind if settings else False}
    num_bad = num_cut = 0
    source = None if file is None or str(file) == "-" else file
    reading: dict[str, Any] = {"format": format and format.value, "id_column": id_column}
    rows = read_mixed(known, source, **reading) if task is None else read_asked(known[task], source, **reading)
    for chunk in _chunks(rows, 1 if source is None and sys.stdin.isatty() else CHUNK):
        read = [_with_images(row, allow_urls) for row in chunk]
        good = [(row.task, row.example) for row in read if row.task is not None and row.example is not None]
        answers = iter(predict_mixed(model, [task for task, _ in good], [example for _, example in good], **how))
        for row in read:
            if row.example is None:
                num_bad += 1
                common.note(f"{row}: {row.error}")
            content = {"error": row.error} if row.example is None else next(answers)
            num_cut += "cut" in content
            print(common.as_json({**row.place, **content}), flush=True)
    if num_cut:
        common.note(f"{num_cut} of the rows are longer than the run reads (max_source_length): `cut` says which.")
    if num_bad:
        raise UserError(f"{num_bad} of the rows could not be answered; they are named above.")


def text_column(task: Task) -> str | None:
    """The column that a line of text is; None if the task reads other than one."""
    from hyperpelt.tasks.lines import columns_of

    columns = columns_of(task, "0")
    return columns[0] if len(columns) == 1 else None


def _read(line: tuple[int, bytes], task: Task, allow_urls: bool) -> Asked:
    """A line, by its number and content, as it is read from standard input."""
    from hyperpelt.tasks.asked import read_lines

    return _with_images(next(read_lines(task, [line])), allow_urls)


def _say_changes(model: TunedModel, known: Mapping[str, Task]) -> None:
    """A note on each task that is not what the model was trained on."""
    from hyperpelt.evaluation.judging import change_since_training

    for name, task in known.items():
        changed = change_since_training(model, task)
        if changed is not None:
            common.note(f"{name}: {changed}")


def _chunks(rows: Iterator[Asked], size: int) -> Iterator[list[Asked]]:
    """Up to `size` rows together; a person who types gets an answer to each line."""
    chunk: list[Asked] = []
    for row in rows:
        chunk.append(row)
        if len(chunk) == size:
            yield chunk
            chunk = []
    if chunk:
        yield chunk


def _with_images(row: Asked, allow_urls: bool) -> Asked:
    """The row with its images read, all of which can be decoded: a bad one is its row's error alone."""
    if row.example is None:
        return row
    try:
        _check_text((row.example.input, *(row.example.choices or ())))
        return replace(row, example=_seen(row.example, allow_urls)) if row.example.images else row
    except UserError as problem:
        return replace(row, example=None, error=str(problem))


def _seen(example: Example, allow_urls: bool) -> Example:
    from hyperpelt.vision.images import load_image, source_of

    sources = tuple(source_of(image, allow_urls=allow_urls) for image in example.images)
    for source in sources:
        load_image(source)
    return replace(example, images=sources)


def _check_text(texts: Iterable[str]) -> None:
    """JSON can write half a character ("\\ud800"), which is no text that could be tokenised: its row's error alone."""
    for text in texts:
        try:
            text.encode("utf8")
        except UnicodeEncodeError as problem:
            found = problem.object[problem.start : problem.end]
            raise UserError(f"expected text, got half a character ({found!a})") from None
