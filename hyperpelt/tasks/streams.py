"""Splits that are read as they are trained on, for sets that do not fit into memory or onto a disk.

    Stream(Files({"train": "shards/*.jsonl", "validation": "validation.jsonl"}), rows={"train": 10_000_000})
    Stream(Hub("allenai/c4", "en"), rows={"train": 364_868_892})

`rows` names the splits that are streamed, and how many rows they have: rates and epochs are reckoned from that. Files
are JSONL (also packed) or Parquet, each one a shard; the hub's shards are as `datasets` streams them. The other splits
are read whole. Whoever asks for the rows of a streamed split as such (`tasks show`, the check, a transfer) gets its
first `HEAD`.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from itertools import islice
from pathlib import Path
from typing import Any

from hyperpelt.errors import UserError
from hyperpelt.tasks.columns import class_names, undecoded, with_names
from hyperpelt.tasks.files import Files
from hyperpelt.tasks.json_rows import BOM, json_object, open_packed
from hyperpelt.tasks.readers import format_of
from hyperpelt.tasks.rows import iterate
from hyperpelt.tasks.sources import Hub, Row, Rows

HEAD = 1000  # rows
GROUP = 256  # rows of Parquet read at once
Numbered = tuple[int, Row]


@dataclass(frozen=True)
class Stream:
    """The splits named in `rows` of another source, streamed. See the module."""

    source: Any
    rows: Any = field(kw_only=True)

    def __post_init__(self) -> None:
        if type(self.source) not in (Files, Hub):
            raise UserError(f"Stream takes a source of Files or of the Hub, got {self.source!r}.")
        rows = dict(self.rows) if isinstance(self.rows, Mapping | tuple) else {}
        stated = [isinstance(number, int) and not isinstance(number, bool) and number > 0 for number in rows.values()]
        if not rows or not all(stated):
            raise UserError(
                f"A stream must state how many rows it has (rates and epochs are computed from it): expected "
                f"{{split: rows}} such as {{train: 10000000}}, got {self.rows!r}."
            )
        object.__setattr__(self, "rows", tuple(rows.items()))

    @property
    def types(self) -> Sequence[tuple[str, str]]:
        return getattr(self.source, "types", ())

    def describe(self) -> str:
        return f"{self.source.describe()} (streamed: {', '.join(f'{n:,} rows of {split}' for split, n in self.rows)})"

    def splits(self, data_root: Path | None) -> tuple[str, ...]:
        return self.source.splits(data_root)

    def state(self, split: str, data_root: Path | None) -> Hashable:
        return self.source.state(split, data_root)

    def read(self, split: str, data_root: Path | None) -> Rows:
        """All rows of a split; of a streamed one the first `HEAD`."""
        if split not in dict(self.rows):
            return self.source.read(split, data_root)
        found: list[Row] = []
        features: Any = None
        names: list[dict[str, tuple[str, ...]]] = []
        for shard in self.shards(split, data_root):
            features = features or shard.features
            names.append(class_names(shard))
            found += [row for _, row in islice(shard.read(), HEAD - len(found))]
            if len(found) == HEAD:
                break
        if features is not None and all(others == names[0] for others in names):
            import datasets

            return undecoded(datasets.Dataset.from_list([dict(row) for row in found], features=features))
        columns = list(dict.fromkeys(name for row in found for name in row))
        return [dict.fromkeys(columns) | dict(row) for row in found]

    def shards(self, split: str, data_root: Path | None) -> list[Shard]:
        """What a streamed split is read from. Raises UserError for files of another format."""
        if isinstance(self.source, Files):
            return [_of_file(file) for file in self.source.files(split, data_root)]
        if data_root is not None:
            return [ParquetShard(file) for file in self.source.files(split, data_root)]
        stream = self.source.stream(split)
        stream = undecoded(stream) if stream.features else stream
        return [HubShard(stream, index, self.source.describe()) for index in range(stream.num_shards)]


class Shard:
    """Part of a stream. **name**: for messages; **identity**: changes with its content, as far as that is known."""

    name: str
    identity: Hashable
    features: Any = None  # of `datasets`, where the shard has some

    def read(self, start: int = 0) -> Iterator[Numbered]:
        """(number in the shard, row) from row `start` on. Raises UserError that names the shard."""
        raise NotImplementedError

    @cached_property
    def size(self) -> int:
        """Rows of the shard; without parsing them, where that can be."""
        return sum(1 for _ in self.read())

    @property
    def is_empty(self) -> bool:
        """Whether it is known to have no row, without looking through it."""
        return False


def _of_file(file: Path) -> Shard:
    kinds: dict[str | None, Callable[[Path], Shard]] = {"jsonl": JsonShard, "parquet": ParquetShard}
    kind = kinds.get(format_of(file))
    if kind is None:
        raise UserError(f"Cannot stream {file}: expected JSONL (.jsonl, also packed) or Parquet.")
    return kind(file)


class JsonShard(Shard):
    """Lines of JSONL; blank ones are none."""

    def __init__(self, file: Path) -> None:
        self.file, self.name, self.identity = file, file.name, (file.name, file.stat().st_size)

    def _lines(self) -> Iterator[bytes]:
        try:
            with open_packed(self.file) as stream:
                for number, line in enumerate(stream):
                    text = line if number else line.removeprefix(BOM)
                    if text.strip():
                        yield text
        except (OSError, EOFError, ValueError) as problem:  # a cut file, one that is not packed as its name says
            raise UserError(f"Could not read {self.file}: {type(problem).__name__}: {problem}") from problem

    def read(self, start: int = 0) -> Iterator[Numbered]:
        for number, line in enumerate(islice(self._lines(), start, None), start):
            try:
                yield number, json_object(line)
            except UserError as problem:
                raise UserError(f"{self.file}, row {number}: {problem}") from None

    @cached_property
    def size(self) -> int:
        return sum(1 for _ in self._lines())

    @property
    def is_empty(self) -> bool:
        return next(self._lines(), None) is None


class ParquetShard(Shard):
    """A Parquet file, whose groups of rows are skipped unread."""

    def __init__(self, file: Path) -> None:
        self.file, self.name, self.identity = file, file.name, (file.name, file.stat().st_size)

    @cached_property
    def _metadata(self) -> Any:
        import pyarrow.parquet as pq

        try:
            return pq.read_metadata(self.file)
        except Exception as problem:  # pyarrow has types of its own
            raise UserError(f"Could not read {self.file}: {type(problem).__name__}: {problem}") from problem

    @cached_property
    def size(self) -> int:
        return int(self._metadata.num_rows)

    @property
    def is_empty(self) -> bool:
        return not self.size

    @cached_property
    def features(self) -> Any:  # type: ignore[override]
        import datasets

        return datasets.Features.from_arrow_schema(self._metadata.schema.to_arrow_schema())

    def read(self, start: int = 0) -> Iterator[Numbered]:
        import datasets
        import pyarrow as pa
        import pyarrow.parquet as pq

        groups, first = list(range(self._metadata.num_row_groups)), 0
        while groups and first + self._metadata.row_group(groups[0]).num_rows <= start:
            first += self._metadata.row_group(groups.pop(0)).num_rows
        try:
            with pq.ParquetFile(self.file) as file:
                for batch in file.iter_batches(batch_size=GROUP, row_groups=groups) if groups else ():
                    rows: Any = undecoded(datasets.Dataset(pa.Table.from_batches([batch])))
                    names = class_names(rows)
                    for number, row in enumerate(iterate(rows), first):
                        if number >= start:
                            yield number, with_names(row, names)
                    first += len(rows)
        except (OSError, pa.ArrowException) as problem:
            raise UserError(f"Could not read {self.file}: {type(problem).__name__}: {problem}") from problem


class HubShard(Shard):
    """One of the shards of a stream of `datasets`."""

    def __init__(self, stream: Any, index: int, origin: str) -> None:
        self._stream, self._index = stream, index
        self.features, self._origin = stream.features, origin
        self.name = f"shard {index} of {stream.num_shards}"
        self.identity = (origin, self.name)

    def read(self, start: int = 0) -> Iterator[Numbered]:
        part = self._stream.shard(num_shards=self._stream.num_shards, index=self._index)
        try:
            yield from enumerate(part.skip(start) if start else part, start)
        except Exception as problem:  # the network may go in the midst of it
            told = f"{type(problem).__name__}: {problem}"
            raise UserError(f"The stream of {self._origin} broke off in {self.name} ({told})") from problem
