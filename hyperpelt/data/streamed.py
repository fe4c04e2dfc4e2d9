"""Rows that are read and tokenised as they are drawn, from shards that may be larger than any disk.

Draw n of a task is a pure function of its seed, shards and n. Shards are dealt out to at most `LANES` lanes; draw n is
row n // L of lane n % L. A lane reads its shards in an order that the seed fixes anew in each of its epochs, and
shuffles every `BLOCK` rows. A process reads the lanes that are its own and tells the others their tokens, window by
window of the sampler; so every process knows the whole global batch, and a run is the same however many processes share
it. A resumed run counts its way to where it stopped: lines without parsing them, groups of Parquet by their metadata.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any
from zlib import crc32

import numpy as np
from jaxtyping import Int

from hyperpelt.data.fingerprints import digest, fingerprint_tokenizer
from hyperpelt.data.making import BATCH, Columns
from hyperpelt.data.parts import Part, as_arrays
from hyperpelt.data.tokenized import VERSION, TokenizedSet
from hyperpelt.errors import UserError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from hyperpelt.tasks import Row, Task
    from hyperpelt.tasks.streams import Shard

LANES = 16  # shards that are read at once, at most
BLOCK = 1024  # rows shuffled together
HELD = 2  # windows
Named = tuple[str, "Row"]
Gather = Callable[[Any], list[Any]]


class Lane:
    """An endless sequence of rows from some shards. **seeds**: of its order; **keeps**: whether a row is drawn at all,
    None for every one."""

    def __init__(self, shards: Sequence[Shard], seeds: Sequence[int], keeps: Callable[[Row], bool] | None) -> None:
        self._shards, self._seeds, self._keeps = shards, seeds, keeps
        self._sizes: dict[int, int] = {}
        self._seek(0)

    def take(self, start: int, stop: int) -> list[Named]:
        """Rows `start` to `stop`, each with its name. Going on from the last ones costs nothing beside reading."""
        if not self._start <= start <= self._start + len(self._block) + BLOCK:
            self._seek(start)
        found = []
        for position in range(start, stop):
            while position >= self._start + len(self._block):
                self._read_block()
            found.append(self._block[position - self._start])
        return found

    def _seek(self, position: int) -> None:
        epoch, offset, total = 0, position, 0
        for shard in self._order(0) if position else ():
            total += self._size(shard)
            if total > position:
                break
        else:
            if position:
                epoch, offset = divmod(position, self._not_empty(total))
        self._epoch, self._read = epoch, offset - offset % BLOCK  # rows of the epoch so far
        self._rows = self._from(epoch, self._read)
        self._start, self._block = position - offset % BLOCK, list[Named]()

    def _read_block(self) -> None:
        self._start += len(self._block)
        rows = list(islice(self._rows, BLOCK))
        if not rows:
            self._not_empty(self._read)
            self._epoch, self._read = self._epoch + 1, 0
            self._rows = self._from(self._epoch, 0)
            rows = list(islice(self._rows, BLOCK))
        order = np.random.default_rng([*self._seeds, 1, self._epoch, self._read]).permutation(len(rows))
        self._block = [rows[place] for place in order]
        self._read += len(rows)

    def _not_empty(self, rows: int) -> int:
        if not rows:
            raise UserError(f"no row to draw in {', '.join(shard.name for shard in self._shards)}")
        return rows

    def _order(self, epoch: int) -> list[int]:
        return np.random.default_rng([*self._seeds, 0, epoch]).permutation(len(self._shards)).tolist()

    def _size(self, shard: int) -> int:
        if shard not in self._sizes:
            whole = self._keeps is None
            self._sizes[shard] = self._shards[shard].size if whole else sum(1 for _ in self._kept(shard, 0))
        return self._sizes[shard]

    def _from(self, epoch: int, start: int) -> Iterator[Named]:
        for shard in self._order(epoch):
            if start and start >= self._size(shard):
                start -= self._size(shard)
                continue
            for number, row in self._kept(shard, start):
                yield f"{number} of {self._shards[shard].name}", row
            start = 0

    def _kept(self, shard: int, start: int) -> Iterator[tuple[int, Row]]:
        keeps = self._keeps
        if keeps is None:
            return self._shards[shard].read(start)
        return islice(((number, row) for number, row in self._shards[shard].read() if keeps(row)), start, None)


class StreamedSet(TokenizedSet):
    """A split that is streamed. Rows are known by their draw, and there once `hold` has been called for them.

    - **seed**: of the order; **rank**, **world**: this process; **gather**: everyone's value, in the order of ranks
    """

    def __init__(
        self,
        task: Task,
        split: str,
        tokenizer: PreTrainedTokenizerBase,
        *,
        max_source_length: int,
        max_target_length: int,
        seed: int,
        data_root: str | Path | None = None,
        rank: int = 0,
        world: int = 1,
        gather: Gather = lambda value: [value],
    ) -> None:
        from hyperpelt.tasks.rows import leaves_out

        size = task.streamed(split)
        shards = [shard for shard in task.shards(split, data_root=data_root) if not shard.is_empty]
        if not shards or size is None:
            raise UserError(f"{task.name}: its split {split!r} has no shard with a row.")
        self.task, self.split, self.path = task.name, split, None
        self._size, self._gather, self._tokenizer = size, gather, tokenizer
        self._lengths = {"max_source_length": max_source_length, "max_target_length": max_target_length}
        identity = [VERSION, task.name, split, task.fingerprint(), [shard.identity for shard in shards], self._lengths]
        self.fingerprint = digest(identity, fingerprint_tokenizer(tokenizer))
        self.num_cut_sources = self.num_cut_targets = None  # nobody has seen them all
        self.num_bad_images = 0
        self._head = task.examples(split, data_root=data_root)
        self._columns = dict.fromkeys(dict(self._head.first()))
        keeps = (lambda row: not leaves_out(task.splits, self._head.named(row))) if task.splits.drop else None
        self._num_lanes = min(LANES, len(shards))
        self._lanes = {
            lane: Lane(shards[lane :: self._num_lanes], [seed, 7, crc32(task.name.encode()), lane], keeps)
            for lane in range(rank, self._num_lanes, world)
        }
        self._held: dict[tuple[int, int], _Window] = {}

    def __len__(self) -> int:
        """Rows that the split is said to have."""
        return self._size

    def hold(self, start: int, stop: int) -> None:
        """Have draws `start` to `stop` here, and let earlier ones go. All processes call it alike.

        Raises:
            UserError: a shard that cannot be read, or a row that does not render, on whatever process.
        """
        if (start, stop) in self._held:
            return
        mine, problem = None, None
        try:
            mine = self._made(start, stop)
        except UserError as error:
            problem = str(error)
        found = self._gather((mine, problem))
        for _, problem in found:
            if problem is not None:
                raise UserError(problem)
        self._held[start, stop] = _Window(made for made, _ in found)
        for earlier in list(self._held)[:-HELD]:
            del self._held[earlier]

    def _made(self, start: int, stop: int) -> _Made:
        """This process's share of some draws: columns, and of each its name and choices."""
        rows: list[tuple[int, Named]] = []
        for lane, reader in self._lanes.items():
            first = -(-max(0, start - lane) // self._num_lanes)  # rows of the lane that were drawn before
            last = -(-max(0, stop - lane) // self._num_lanes)
            taken = reader.take(first, last) if last > first else []
            rows += [(lane + position * self._num_lanes, row) for position, row in enumerate(taken, first)]
        columns = Columns(self._tokenizer, **self._lengths)
        examples = [(draw, self._head.rendered(self._columns | dict(row), name)) for draw, (name, row) in rows]
        for place in range(0, len(examples), BATCH):
            columns.add(examples[place : place + BATCH])
        told = {draw: (name, example.choices) for (draw, (name, _)), (_, example) in zip(rows, examples, strict=True)}
        made = columns.arrays()
        return {**made, "place": made["number"]}, told

    def _window(self, index: int) -> _Window:
        for window in self._held.values():
            if index in window.told:
                return window
        raise KeyError(f"Draw {index} of {self.task} {self.split} is not held.")

    def _at(self, index: int) -> tuple[Part, int]:
        return self._window(int(index)).where[int(index)]

    def number_of(self, index: int) -> int:
        return int(index)

    def name_of(self, index: int) -> str:
        """What people call the row: 'my/web train row 17 of part-3.jsonl'."""
        return f"{self.task} {self.split} row {self._window(int(index)).told[int(index)][0]}"

    def choices_of(self, index: int) -> tuple[str, ...] | None:
        """The row's own choices."""
        return self._window(int(index)).told[int(index)][1]

    @property
    def has_images(self) -> bool:
        return False

    @property
    def has_targets(self) -> bool:
        return any(part.has_targets for window in self._held.values() for part in window.parts)

    @property
    def source_lengths(self) -> Lengths:  # type: ignore[override]
        return Lengths(self, ("input_ids",))

    @property
    def target_lengths(self) -> Lengths:  # type: ignore[override]
        return Lengths(self, ("labels",))

    @property
    def lengths(self) -> Lengths:  # type: ignore[override]
        return Lengths(self, ("input_ids", "labels"))


_Made = tuple[dict[str, Any], dict[int, tuple[str, tuple[str, ...] | None]]]


class _Window:
    """Draws as all processes have made them."""

    def __init__(self, made: Iterator[_Made]) -> None:
        self.parts: list[Part] = []
        self.told: dict[int, tuple[str, tuple[str, ...] | None]] = {}
        self.where: dict[int, tuple[Part, int]] = {}
        for columns, told in made:
            part = Part(as_arrays(columns), {})
            self.parts.append(part)
            self.told |= told
            self.where |= {int(draw): (part, at) for at, draw in enumerate(part.places)}


class Lengths:
    """Tokens of the draws that are held, asked for as of an array."""

    def __init__(self, rows: StreamedSet, columns: Sequence[str]) -> None:
        self._set, self._columns = rows, columns

    def __len__(self) -> int:
        return len(self._set)

    def __getitem__(self, draws: Int[np.ndarray, " R"]) -> Int[np.ndarray, " R"]:
        found = (self._set._at(draw) for draw in draws)
        return np.array([sum(len(part.of(name, at)) for name in self._columns) for part, at in found], np.int64)
