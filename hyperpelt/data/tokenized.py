"""Tokenised splits on disk: made once, memory-mapped by every process, found again by what they are made of.

A `TokenizedSet` is some Arrow files (`hyperpelt.data.parts`) in the user's cache (`hyperpelt.config.caching`). Their
name holds a fingerprint of the task's definition, its rows, some of them as rendered, the tokenizer and the lengths:
change any of them and other files are made. Whoever needs some rows of a split only (`rows`, such as those that a run
draws) has no others tokenised; who needs further ones later adds a part. So a set of any size takes the memory of one
part, and what was finished when a process was killed is not done again. All of it happens under a lock, so that
several processes may ask for the same set at once.

    tokens = TokenizedSet.load_or_build(task, "train", tokenizer, max_source_length=128, max_target_length=32)
    tokens[17].input_ids, tokens.source_lengths, tokens.num_cut_sources
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple
from zlib import crc32

import numpy as np
from jaxtyping import Float, Int

from hyperpelt.config.caching import user_cache, writable
from hyperpelt.config.paths import place
from hyperpelt.data.fingerprints import digest, fingerprint_rows, fingerprint_tokenizer
from hyperpelt.data.making import Columns, Shown, cut_targets, encode_inputs, see_again, tokenise
from hyperpelt.data.parts import Made, Part, clear_away, complete
from hyperpelt.errors import UserError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from hyperpelt.data.seeing import Eye
    from hyperpelt.tasks import Examples, Task

__all__ = ["TokenRow", "TokenizedSet", "cut_targets", "encode_inputs"]

VERSION = 3  # of how texts become tokens
RENDERED = 63  # rows, and the last one, whose rendering is part of what a set is found by
KEY_BYTES = 32  # of an image's key


class TokenRow(NamedTuple):
    """One training row. `number` is its place in the task's split, as error messages count; `images` are keys."""

    input_ids: Int[np.ndarray, " S"]
    labels: Int[np.ndarray, " T"]
    weight: float
    number: int
    images: tuple[str, ...] = ()


class TokenizedSet:
    """One tokenised split, memory-mapped. Made by `load_or_build`.

    - **paths**: of its parts; **size**: rows of the split
    - **rows**: the places whose rows were asked for, None for all; asking for another one is a KeyError
    - **compact**: rows that no part holds (their images are bad) are left out, and the others close up
    """

    def __init__(
        self,
        task: str,
        split: str,
        fingerprint: str,
        paths: Sequence[Path],
        size: int,
        rows: Int[np.ndarray, " R"] | None = None,
        compact: bool = False,
    ) -> None:
        self.task, self.split, self.fingerprint = task, split, fingerprint
        self._made_of = (task, split, fingerprint, tuple(paths), size, rows, compact)
        self._parts = [Part.open(path) for path in paths]
        for part in self._parts:
            part.about.pop("image_files", None)  # there may be a million
        self._part, self._index = np.full(size, -1, np.int32), np.zeros(size, np.int32)
        for number, part in enumerate(self._parts):
            self._part[part.places], self._index[part.places] = number, np.arange(len(part.places))
        self._kept = self._part >= 0 if compact else np.ones(size, bool)
        self._part, self._index = self._part[self._kept], self._index[self._kept]
        self.path: Path | None = paths[0] if paths else None
        self.weights: Float[np.ndarray, " N"] = self._column([part.weights for part in self._parts])
        self.numbers: Int[np.ndarray, " N"] = self._column([part.numbers for part in self._parts], -1)
        cut = self._column([part.cut for part in self._parts])
        cut = cut if rows is None else cut[rows]
        # Of the rows that were asked for.
        self.num_cut_sources: int | None = int(np.count_nonzero(cut & 1))
        self.num_cut_targets: int | None = int(np.count_nonzero(cut & 2))
        self.num_bad_images: int = sum(part.about["num_bad_images"] for part in self._parts)

    def __len__(self) -> int:
        return len(self.numbers)

    def __getitem__(self, index: int) -> TokenRow:
        part, at = self._at(index)
        source, target = part.of("input_ids", at), part.of("labels", at)
        return TokenRow(source, target, float(part.weights[at]), int(part.numbers[at]), self._images(index))

    def _at(self, index: int) -> tuple[Part, int]:
        part = self._part[index]
        if part < 0:
            raise KeyError(f"Row {index} of {self.task} {self.split} was not asked for.")
        return self._parts[part], int(self._index[index])

    def _column(self, values: Sequence[np.ndarray], missing: Any = 0) -> np.ndarray:
        """A column of all rows from those of the parts."""
        found = np.full(len(self._kept), missing, values[0].dtype if values else np.int64)
        for part, column in zip(self._parts, values, strict=True):
            found[part.places] = column
        return found[self._kept]

    @cached_property
    def source_lengths(self) -> Int[np.ndarray, " N"]:
        """Tokens of each row's source; 0 where it was not asked for."""
        return self._column([part.lengths("input_ids") for part in self._parts])

    @cached_property
    def target_lengths(self) -> Int[np.ndarray, " N"]:
        """Tokens that carry loss, EOS included; 0 where a row was not asked for."""
        return self._column([part.lengths("labels") for part in self._parts])

    @property
    def has_images(self) -> bool:
        return any("images" in part.ragged for part in self._parts)

    @property
    def has_targets(self) -> bool:
        """Whether rows have several targets, of which one is drawn."""
        return any(part.has_targets for part in self._parts)

    @property
    def lengths(self) -> Int[np.ndarray, " N"]:
        """Tokens of each row, source and target."""
        return self.source_lengths + self.target_lengths

    def number_of(self, index: int) -> int:
        """The row's number in the task's split."""
        return int(self.numbers[index])

    def drawn(self, index: int, *, seed: int, step: int) -> TokenRow:
        """The row with one of its targets, drawn by score, the score times its weight being its weight.

        The draw is a function of seed, step, task and row: not of processes, workers, or other rows.
        """
        row = self[index]
        scores = self._of("target_scores", index)
        if not len(scores):
            return row
        generator = np.random.default_rng([seed, 4, step, crc32(self.task.encode()), row.number])
        chosen = int(np.searchsorted(np.cumsum(scores, dtype=np.float64), generator.random() * scores.sum(), "right"))
        chosen = min(chosen, len(scores) - 1)
        ends = np.cumsum(self._of("target_lengths", index))
        labels = self._of("target_ids", index)[ends[chosen] - self._of("target_lengths", index)[chosen] : ends[chosen]]
        return row._replace(labels=labels, weight=row.weight * float(scores[chosen]))

    def image_keys(self) -> Iterator[str]:
        """The key of every image of every row."""
        for index in range(len(self)) if self.has_images else ():
            yield from self._images(index)

    def _images(self, index: int) -> tuple[str, ...]:
        if not self.has_images:
            return ()
        found = self._of("images", index).tobytes().hex()
        return tuple(found[start : start + 2 * KEY_BYTES] for start in range(0, len(found), 2 * KEY_BYTES))

    def _of(self, column: str, index: int) -> np.ndarray:
        part, at = self._at(index)
        return part.of(column, at)

    def __reduce__(self) -> tuple[Any, ...]:
        return TokenizedSet, self._made_of  # a worker process maps the files itself

    def name_of(self, index: int) -> str:
        """What people call the row: 'glue/rte train row 17'."""
        return f"{self.task} {self.split} row {self.numbers[index]}"

    @classmethod
    def load_or_build(
        cls,
        task: Task,
        split: str,
        tokenizer: PreTrainedTokenizerBase,
        *,
        max_source_length: int,
        max_target_length: int,
        data_root: str | Path | None = None,
        limit: int | None = None,
        rows: Int[np.ndarray, " R"] | None = None,
        cache_dir: str | Path | None = None,
        progress: bool = False,
        eye: Eye | None = None,
        blind: bool = False,
    ) -> TokenizedSet:
        """The tokens of a split, from the cache if they are there.

        limit: a fixed random sample of that many rows. rows: places of those that are needed, ascending (of a set whose
        images are seen, all are made). progress: show a bar while they are made. eye: sees the images of rows, whose
        features are in its store afterwards. blind: images are withheld. Raises UserError for an empty split, a needed
        row that does not render, images where there is no eye for them, and a cache that cannot be written.
        """
        from filelock import FileLock

        eye = eye if "image" in task.modalities and not blind else None
        examples = task.examples(split, data_root=data_root, limit=limit)
        if not len(examples):
            raise UserError(f"{task.name}: its split {split!r} has no rows.")
        lengths = {"max_source_length": max_source_length, "max_target_length": max_target_length}
        raw = task.rows(split, data_root=data_root)
        made_of = [VERSION, task.name, split, task.fingerprint(), fingerprint_rows(raw), limit, lengths]
        made_of.append(_as_rendered(examples))
        key = digest([*made_of, *_how_seen(task, eye, raw)], fingerprint_tokenizer(tokenizer))
        stem = f"{cache_folder(cache_dir)}/{re.sub('[^a-z0-9_.-]+', '-', task.name)}-{split}-{key}"
        with FileLock(f"{stem}.0.lock"):
            clear_away(stem)
            asked = np.arange(len(examples)) if rows is None or eye is not None else rows
            make = partial(_make, examples, tokenizer, lengths, eye=eye, blind=blind, progress=progress)
            paths = complete(stem, asked, make, {"task": task.name, "split": split, "fingerprint": key, **lengths})
            some = asked if len(asked) < len(examples) else None
            found = cls(task.name, split, key, paths, len(examples), some, compact=eye is not None)
            if not len(found):
                raise UserError(f"{task.name}: every row of its split {split!r} has a bad image; none is left.")
            if eye is not None and eye.lacks(found.image_keys()):
                see_again(examples, eye, progress=progress)
        return found


def _as_rendered(examples: Examples) -> str:
    """Some rows as they are rendered now: a definition may call code that its own fingerprint does not know of."""
    places = sorted({index * (len(examples) - 1) // RENDERED for index in range(RENDERED + 1)})
    return digest([(e.input, e.target, e.weight, e.targets) for e in (examples[place] for place in places)])


def _how_seen(task: Task, eye: Eye | None, rows: Any) -> list[str]:
    """What decides which rows and keys come out of images; nothing for text, whose files stay what they were."""
    if "image" not in task.modalities:
        return []
    folders = [str(file.parent) for _, file, _ in getattr(rows, "parts", ())]  # where the rows' relative paths start
    return ["blind" if eye is None else f"images 2, {eye.on_bad_image}", *folders]


def cache_folder(cache_dir: str | Path | None = None) -> Path:
    """Where tokenised sets are kept: below the argument or the user's cache. Made if absent."""
    return writable((user_cache() if cache_dir is None else place(cache_dir)) / "tokenized")


def _make(
    examples: Examples,
    tokenizer: PreTrainedTokenizerBase,
    lengths: Mapping[str, int],
    places: Int[np.ndarray, " R"],
    *,
    eye: Eye | None,
    blind: bool,
    progress: bool,
    done: int,
    total: int,
) -> Made:
    """The columns of the rows at some places, and what to tell of them. done, total: rows, for the bar."""
    some = examples.select(places.tolist())
    columns = Columns(tokenizer, **lengths)
    made, found = tokenise(some, columns, eye=eye, blind=blind, progress=Shown(done, total) if progress else None)
    kept = np.isin(np.asarray(some.numbers), made["number"])
    return {**made, "place": places[kept]}, {**found, "left_out": places[~kept].tolist()}
