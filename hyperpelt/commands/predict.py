"""`hyperpelt predict`: lines or JSONL in, answers with probabilities out."""

from __future__ import annotations

import codecs
import contextlib
import json
import sys
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from hyperpelt.commands import common
from hyperpelt.errors import UserError

if TYPE_CHECKING:
    from hyperpelt.tasks import Example, Task

CHUNK = 512  # lines answered together: memory stays bounded, answers appear while input still comes


def predict(
    run: common.Run,
    task: Annotated[str, typer.Option("--task", help="A task of the run, such as glue/rte.")],
    file: Annotated[
        Path | None, typer.Argument(metavar="[FILE]", help="Rows to answer; default: stdin. '-' is stdin too.")
    ] = None,
    normalisation: common.Normalisation = None,
    regression: common.Regression = common.Number.expected,
    batch_size: common.BatchSize = None,
    num_beams: common.Beams = None,
    allow_urls: Annotated[
        bool, typer.Option("--allow-urls", help="Fetch images whose path is an http(s) address.")
    ] = False,
    plugin: common.Plugins = None,
    debug: common.Debug = False,
) -> None:
    """Answer rows: one JSON object a line with the task's columns, or one text a line; JSONL comes out.

    A line that is no JSON object is the text of the task's only text column, or, for a task with several, an input
    already rendered. Each answer is `{"answer": ..., "probabilities": {choice: p}}`. A line that cannot be read is
    reported with its number and answered by `{"error": ...}`; the others are answered, and the exit status is 2.
    An image column holds the path of a file, seen from the current folder.
    """
    from hyperpelt.commands.evaluate import load, scoring_settings
    from hyperpelt.training.distributed import start_processes

    model, settings = load(run, plugin, start_processes().device)
    from hyperpelt import tasks
    from hyperpelt.evaluation import run as evaluation

    model.task_id(task)
    definition = tasks.get(task)
    how = scoring_settings(settings, normalisation, batch_size) | {"regression": regression.value}
    how |= {"num_beams": num_beams, "blind": settings.blind if settings else False}
    num_bad = 0
    from_terminal = _is_stdin(file) and sys.stdin.isatty()
    for lines in _chunks(_lines(file), 1 if from_terminal else CHUNK):
        read = [_read(line, definition, allow_urls) for line in lines]
        good = [line.example for line in read if line.example is not None]
        answers = iter(evaluation.predict(model, definition, good, **how) if good else [])
        for line in read:
            num_bad += line.example is None
            if line.example is None:
                common.note(f"line {line.number}: {line.error}")
            content = {"line": line.number, "error": line.error} if line.example is None else next(answers)
            print(json.dumps(content, ensure_ascii=False), flush=True)
    if num_bad:
        raise UserError(f"{num_bad} of the lines could not be answered; they are named above.")


@dataclass(frozen=True)
class Line:
    """One line of input: its rendered example, or why there is none."""

    number: int
    example: Example | None
    error: str = ""


def _is_stdin(file: Path | None) -> bool:
    return file is None or str(file) == "-"


def _lines(file: Path | None) -> Iterator[tuple[int, bytes]]:
    """(number, content) of every line that is not blank."""
    if file is None or _is_stdin(file):
        yield from _numbered(sys.stdin.buffer)
        return
    try:
        with file.open("rb") as stream:
            yield from _numbered(stream)
    except OSError as problem:
        raise UserError(f"Cannot read {file}: {problem.strerror}.") from None


def _numbered(stream: Iterable[bytes]) -> Iterator[tuple[int, bytes]]:
    """The lines that are not blank; a byte order mark, as Windows writes it, is no text."""
    lines = ((number, line.removeprefix(codecs.BOM_UTF8)) for number, line in enumerate(stream, 1))
    return ((number, line) for number, line in lines if line.strip())


def _chunks(lines: Iterator[tuple[int, bytes]], size: int) -> Iterator[list[tuple[int, bytes]]]:
    """Up to `size` lines together; a person who types gets an answer to each line."""
    chunk: list[tuple[int, bytes]] = []
    for line in lines:
        chunk.append(line)
        if len(chunk) == size:
            yield chunk
            chunk = []
    if chunk:
        yield chunk


def _read(line: tuple[int, bytes], task: Task, allow_urls: bool) -> Line:
    number, content = line
    try:
        example = _example(content.decode("utf8").strip(), task)
        _check_text(example)
        return Line(number, _with_images(example, allow_urls) if example.images else example)
    except UnicodeDecodeError as problem:
        return Line(number, None, f"expected UTF-8 text: {problem.reason} at byte {problem.start}")
    except UserError as problem:  # which may quote the half characters of the line
        return Line(number, None, str(problem).encode("utf8", "backslashreplace").decode("utf8"))


def _example(text: str, task: Task) -> Example:
    if text.startswith("{"):
        try:
            row = json.loads(text)
        except json.JSONDecodeError as problem:
            raise UserError(f"expected a JSON object: {problem.msg} at column {problem.colno}") from None
        except (ValueError, RecursionError) as problem:  # a number of thousands of digits, thousands of brackets
            raise UserError(f"expected a JSON object that can be read: {problem}") from None
        return task.example(row, answered=False)
    column = text_column(task)
    if column is not None:
        return task.example({column: text}, answered=False)
    return _rendered(text, task)


def _check_text(example: Example) -> None:
    """JSON can write half a character ("\\ud800"), which is no text that could be tokenised: its line's error alone."""
    for text in (example.input, *(example.choices or ())):
        try:
            text.encode("utf8")
        except UnicodeEncodeError as problem:
            found = problem.object[problem.start : problem.end]
            raise UserError(f"expected text, got half a character ({found!a})") from None


def _with_images(example: Example, allow_urls: bool) -> Example:
    """The example with its images read, all of which can be decoded: a bad one is its line's error alone."""
    from hyperpelt.vision.images import load_image, source_of

    sources = tuple(source_of(image, allow_urls=allow_urls) for image in example.images)
    for source in sources:
        load_image(source)
    return replace(example, images=sources)


def _rendered(text: str, task: Task) -> Example:
    from hyperpelt.tasks import Example

    if task.kind != "generation" and task.choices is None:
        raise UserError(f"the choices of {task.name} differ from row to row: expected a JSON object with its columns")
    return Example(input=text, choices=task.choices)


class _Probe(dict[str, Any]):
    """A row that has every column, and remembers which ones were asked for."""

    def __init__(self, answer: Iterable[str]) -> None:
        super().__init__(dict.fromkeys(answer))
        self.asked: set[str] = set()

    def __missing__(self, column: str) -> str:
        self.asked.add(column)
        return ""


def columns_read(task: Task) -> set[str]:
    """The columns that the task's rendering reads besides the answer, found by rendering a row of empty texts."""
    probe = _Probe(task.answer)
    with contextlib.suppress(Exception):  # a stranger's function on a made-up row may raise anything
        task.render(probe)
        return probe.asked
    return set()


def text_column(task: Task) -> str | None:
    """The only column that the task's rendering reads besides the answer; None if it reads several."""
    asked = columns_read(task)
    return asked.pop() if len(asked) == 1 else None
