"""What a task is: a source of rows, a small function that renders a row to text, and how answers are judged.

    Task.rows(split)      raw rows
    Task.examples(split)  the same rows rendered: input text, target text, choices, gold label
    Mixture               named tasks with rates

Nothing is read when a task is defined. Every failure of a row names the task, the split and the row.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal, overload

from hyperpelt.errors import UserError
from hyperpelt.tasks.columns import class_names, with_names
from hyperpelt.tasks.completing import complete
from hyperpelt.tasks.fingerprint import fingerprint
from hyperpelt.tasks.origin import caller
from hyperpelt.tasks.readers import FileRow, typed
from hyperpelt.tasks.rendering import Columns, Example, Naming, beside
from hyperpelt.tasks.rows import iterate, keys_of, numbers_of, picked, rows_of
from hyperpelt.tasks.sources import Row, Rows, Source, resolve_root
from hyperpelt.tasks.splits import Splits, cut
from hyperpelt.tasks.streams import Shard, Stream
from hyperpelt.tasks.values import is_number

Kind = Literal["classification", "regression", "generation"]
KINDS = ("classification", "regression", "generation")
MODALITIES = ("text", "image")
NAME = re.compile(r"[a-z0-9_.-]+(/[a-z0-9_.-]+)*")


@dataclass(frozen=True, kw_only=True)
class Task:
    """A task by its definition; see docs/tasks.md for a walk through the fields.

    name: lower case, such as 'glue/rte'. source: `Hub`, `Files`, `Generator` or anything with their verbs.
    render: a pure function of a row. kind: how answers are judged. choices: the fixed candidates in label order; None
    if each row brings its own, or if answers are open. metrics: names in `hyperpelt.metrics`. description: one
    sentence that instructs. answer: the columns that hold the gold answer, which a row to predict on does not have
    (they are None then). templates: further renderings by name, of which training draws one for a row each time and
    evaluation scores all; `render` is then the first of them. num_beams: of the search for open answers; 1 is greedy.
    origin: file:line of the definition.
    """

    name: str
    source: Source
    render: Callable[[Row], Example]
    kind: Kind = "classification"
    choices: tuple[str, ...] | None = None
    metrics: tuple[str, ...] = ("accuracy",)
    splits: Splits = field(default_factory=Splits)
    description: str = ""
    modalities: tuple[str, ...] = ("text",)
    answer: tuple[str, ...] = ("label",)
    num_beams: int = 1
    templates: tuple[tuple[str, Callable[[Row], Example]], ...] = ()
    origin: str = ""

    def __post_init__(self) -> None:
        for name in ("choices", "metrics", "modalities", "answer"):
            value = getattr(self, name)
            value = (value,) if isinstance(value, str) else value
            object.__setattr__(self, name, value if value is None else tuple(value))
        if not self.origin:
            object.__setattr__(self, "origin", str(caller()))
        for problem in self._problems():
            raise UserError(f"Task {self.name!r} ({self.origin}): {problem}.")

    def _problems(self) -> Iterator[str]:
        if not isinstance(self.name, str) or not NAME.fullmatch(self.name):
            yield "expected a name of lower-case letters, digits, '_', '-', '.', in parts separated by '/'"
        if not isinstance(self.source, Source):
            yield f"expected a source (Hub, Files or Generator), got {self.source!r}"
        if not callable(self.render):
            yield f"expected render to be a function of a row, got {self.render!r}"
        if self.kind not in KINDS:
            yield f"expected kind to be one of {', '.join(KINDS)}, got {self.kind!r}"
        if not isinstance(self.splits, Splits):
            yield f"expected splits to be a Splits, got {self.splits!r}"
        if not self.metrics:
            yield "expected at least one metric"
        if not self.modalities or not set(self.modalities) <= set(MODALITIES):
            yield f"expected modalities among {', '.join(MODALITIES)}, got {self.modalities!r}"
        if not isinstance(self.num_beams, int) or self.num_beams < 1:
            yield f"expected num_beams to be a count of at least 1, got {self.num_beams!r}"
        names = [name for name, _ in self.templates]
        if len(set(names)) < len(names) or not all(isinstance(name, str) and name for name in names):
            yield f"expected templates with a name each, every name once, got {names!r}"
        if self.choices is not None:
            yield from self._problems_of_choices(self.choices, self.kind)
        if isinstance(self.source, Stream) and isinstance(self.splits, Splits):
            yield from self._problems_of_streams(self.source)

    def _problems_of_streams(self, source: Stream) -> Iterator[str]:
        for split in dict(source.rows):
            parts = [part for part in map(self.splits.part, self.splits.names()) if part.split == split]
            if len(parts) > 1 or not all(part.whole for part in parts):
                told = ", ".join(map(str, parts))
                yield f"the source split {split!r} is streamed, so nothing can be cut out of it ({told}): name others"
        if self.modalities != ("text",) or self.templates:
            yield "a streamed task has text alone and one rendering"

    @staticmethod
    def _problems_of_choices(choices: tuple[str, ...], kind: Kind) -> Iterator[str]:
        strange = [choice for choice in choices if not isinstance(choice, str) or not choice.strip()]
        if strange:
            yield f"expected choices to be non-empty strings, got {strange[0]!r}"
        if len(choices) < 2 or len(set(choices)) < len(choices):
            yield f"expected two or more different choices, got {choices!r}"
        words = [choice for choice in choices if isinstance(choice, str) and not is_number(choice)]
        if kind == "regression" and words and not strange:
            yield f"expected the choices of a regression to be numbers, got {words[0]!r}"

    def __hash__(self) -> int:
        return hash((self.name, self.origin))

    def fingerprint(self) -> str:
        """A hash of the definition: what decides how rows are chosen, rendered and judged. Not of the data, nor of
        where the definition stands."""
        parts = (self.name, self.source, self.kind, self.choices, self.metrics, self.splits, self.modalities)
        # What is as by default stays unsaid, so that tasks without it keep their fingerprints.
        search = () if self.num_beams == 1 else (self.num_beams,)
        return fingerprint(*parts, self.description, self.answer, self.render, *search, *self.templates)

    def variants(self) -> tuple[tuple[str | None, Task], ...]:
        """(template's name, the task with that rendering alone); of a task without templates itself, without a name."""
        if not self.templates:
            return ((None, self),)
        return tuple((name, replace(self, render=render, templates=())) for name, render in self.templates)

    def rows(self, split: str, *, data_root: str | Path | None = None) -> Rows:
        """The raw rows of 'train', 'validation' or 'test': a `datasets.Dataset` or a list.

        data_root: folder of a local mirror; None: the environment variable HYPERPELT_DATA, else the hub.
        """
        with Naming(self.name, split):
            return rows_of(self.source, self.splits, split, resolve_root(data_root))

    def row_numbers(self, split: str, *, data_root: str | Path | None = None) -> Sequence[int]:
        """For each row of `split`, its number in the source split that it comes from."""
        with Naming(self.name, split):
            return numbers_of(self.source, self.splits, split, resolve_root(data_root))

    def examples(self, split: str, *, data_root: str | Path | None = None, limit: int | None = None) -> Examples:
        """The rows of a split, rendered one by one as they are asked for.

        limit: at most this many rows, a fixed random sample of the split in its order (files are often sorted by
        label); rows that `splits.by` keeps together are sampled together.
        """
        rows = self.rows(split, data_root=data_root)
        numbers: Sequence[int] = range(len(rows))
        if limit is not None and limit < len(rows):
            numbers = self._sample(rows, limit)
        return Examples(self, split, rows, numbers)

    def _sample(self, rows: Rows, limit: int) -> list[int]:
        if limit < 1:
            raise UserError(f"Task {self.name}: expected a limit of at least 1 row, got {limit}.")
        sample = cut(keys_of(rows, self.splits.by), [limit], seed=self.splits.seed)[0]
        return sorted(sample[:limit])

    def streamed(self, split: str) -> int | None:
        """How many rows a streamed split is said to have; None for one that is read whole."""
        return dict(self.source.rows).get(self.splits.part(split).split) if isinstance(self.source, Stream) else None

    def shards(self, split: str, *, data_root: str | Path | None = None) -> list[Shard]:
        """What a streamed split is read from, unrendered and with what `splits.drop` leaves out."""
        assert isinstance(self.source, Stream), "asked of streamed splits alone"
        with Naming(self.name, split):
            return self.source.shards(self.splits.part(split).split, resolve_root(data_root))

    def example(
        self, row: Row, *, answered: bool = True, split: str | None = None, number: int | str | None = None
    ) -> Example:
        """Render one row and complete it.

        answered False: a row to predict on: the columns of `answer` may be missing, and target and label stay empty.
        split, number: where the row stands, for messages. Columns are converted where the source says so (`types`),
        and relative paths of images start from the folder of the row's file, if it comes from one.

        Raises UserError that names the task, split and row.
        """
        with Naming(self.name, split, number, row):
            columns = typed(row, getattr(self.source, "types", ()))
            example = self.render(Columns(columns, self.answer, answered=answered))
            if isinstance(row, FileRow) and isinstance(example, Example) and example.images:
                example = replace(example, images=beside(example.images, row.folder))
            return complete(self.kind, example, self.choices, answered=answered)


class Examples(Sequence[Example]):
    """The rendered rows of one split, made when they are asked for (a task may carry images)."""

    def __init__(self, task: Task, split: str, rows: Rows, numbers: Sequence[int]) -> None:
        self.task, self.split, self._rows, self.numbers = task, split, rows, numbers
        # Where the names are the choices, in their order, the number alone says all.
        self._names = {column: names for column, names in class_names(rows).items() if names != task.choices}

    def __len__(self) -> int:
        return len(self.numbers)

    def __iter__(self) -> Iterator[Example]:
        for number, row in self.raw():
            yield self.task.example(row, split=self.split, number=number)

    def raw(self) -> Iterator[tuple[int, Row]]:
        """(row number in the split, row before rendering)."""
        with Naming(self.task.name, self.split):  # a source may be a stranger's code
            whole = self.numbers == range(len(self._rows))  # all, in their order
            rows = iterate(self._rows if whole else picked(self._rows, self.numbers))
            for number, row in zip(self.numbers, rows, strict=True):
                yield number, with_names(row, self._names)

    @overload
    def __getitem__(self, index: int) -> Example: ...
    @overload
    def __getitem__(self, index: slice) -> Examples: ...
    def __getitem__(self, index: int | slice) -> Example | Examples:
        if isinstance(index, slice):
            return Examples(self.task, self.split, self._rows, self.numbers[index])
        number = self.numbers[index]
        with Naming(self.task.name, self.split):
            row = self._rows[number]
        return self.rendered(row, number)

    def rendered(self, row: Row, number: int | str) -> Example:
        """A row of the same source, rendered. number: its own, for messages."""
        return self.task.example(self.named(row), split=self.split, number=number)

    def named(self, row: Row) -> Row:
        """A row of the same source, whose classes know their names."""
        return with_names(row, self._names)

    def first(self) -> Row:
        """The first row, before rendering."""
        return self._rows[self.numbers[0]]

    def in_files(self, numbers: Sequence[int]) -> str:
        """Where rows of these numbers stand in their files, such as 'row 3, 17 of claims.csv'; '' for other sources."""
        found: dict[str, list[str]] = {}
        for row in (self._rows[number] for number in numbers):
            if isinstance(row, FileRow):
                found.setdefault(row.file.name, []).append(str(row.number))
        return "; ".join(f"row {', '.join(there)} of {name}" for name, there in found.items())

    def select(self, places: Sequence[int]) -> Examples:
        """Those at some places, in that order."""
        return Examples(self.task, self.split, self._rows, [self.numbers[place] for place in places])

    def name_of(self, index: int) -> str:
        """How messages call this row, such as 'glue/rte train row 17'."""
        return f"{self.task.name} {self.split} row {self.numbers[index]}"


Rate = float | Callable[[Task, int], float] | None


@dataclass(frozen=True, kw_only=True)
class Mixture:
    """Named tasks (or other mixtures) with rates.

    A rate is a relative weight, a function of (task, number of training rows) that returns one, or None: the run's
    mixing strategy decides. A sequence of names means None for each.
    """

    name: str
    rates: Mapping[str, Rate] | Sequence[str]
    description: str = ""
    origin: str = ""

    def __post_init__(self) -> None:
        rates = self.rates if isinstance(self.rates, Mapping) else dict.fromkeys(self.rates)
        object.__setattr__(self, "rates", dict(rates))
        if not self.origin:
            object.__setattr__(self, "origin", str(caller()))
        if not isinstance(self.name, str) or not NAME.fullmatch(self.name):
            raise UserError(f"Mixture {self.name!r} ({self.origin}): expected a lower-case name such as 'glue'.")
        if not rates:
            raise UserError(f"Mixture {self.name!r} ({self.origin}) names no task.")
        for task, rate in rates.items():
            if rate is not None and not callable(rate) and not (isinstance(rate, int | float) and rate > 0):
                raise UserError(f"Mixture {self.name!r}: the rate of {task!r} is {rate!r}, expected a positive number.")

    def __hash__(self) -> int:
        return hash((self.name, self.origin))
