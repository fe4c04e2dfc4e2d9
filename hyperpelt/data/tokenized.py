"""Tokenised splits on disk: made once, memory-mapped by every process, found again by what they are made of.

A `TokenizedSet` is one Arrow file in the user's cache (`hyperpelt.config.caching`). Its name holds a fingerprint of the
task's definition, its rows, some of them as rendered, the tokenizer and the lengths: change any of them and another
file is made. Files are written beside their place and renamed, under a lock, so that several processes may ask for the
same set at once.

    tokens = TokenizedSet.load_or_build(task, "train", tokenizer, max_source_length=128, max_target_length=32)
    tokens[17].input_ids, tokens.source_lengths, tokens.num_cut_sources
"""

from __future__ import annotations

import glob
import json
import logging
import re
from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple
from zlib import crc32

import numpy as np
from jaxtyping import Float, Int

from hyperpelt.config.caching import user_cache, writable
from hyperpelt.config.paths import place
from hyperpelt.data.fingerprints import digest, fingerprint_rows, fingerprint_tokenizer
from hyperpelt.data.making import Columns, cut_targets, encode_inputs, see_again, tokenise
from hyperpelt.errors import UserError
from hyperpelt.files import checksums, folders
from hyperpelt.files.atomic import replacing

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from hyperpelt.data.seeing import Eye
    from hyperpelt.tasks import Examples, Task

__all__ = ["TokenRow", "TokenizedSet", "cut_targets", "encode_inputs"]

_log = logging.getLogger(__name__)
VERSION = 3  # of the file's layout and of how texts become tokens
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
    """One tokenised split, memory-mapped. Built by `load_or_build`; opened by `open`."""

    def __init__(self, path: Path) -> None:
        import pyarrow as pa

        self.path = path
        # The arrays below are views of the mapped file: nothing is read before it is asked for.
        table = pa.ipc.open_file(pa.memory_map(str(path))).get_batch(0)
        self._source, self._source_starts = _ragged(table.column("input_ids"))
        self._target, self._target_starts = _ragged(table.column("labels"))
        # Columns that only some sets have.
        further = ("images", "target_ids", "target_lengths", "target_scores")
        self._further = {name: _ragged(table.column(name)) for name in further if name in table.schema.names}
        self.weights: Float[np.ndarray, " N"] = table.column("weight").to_numpy()
        self.numbers: Int[np.ndarray, " N"] = table.column("number").to_numpy()
        self.columns = {name: table.column(name) for name in table.schema.names}
        self.about: dict[str, Any] = json.loads(table.schema.metadata[b"hyperpelt"])
        self.checksum: str | None = self.about.get("xxh3")
        about = self.about
        self.task: str = about["task"]
        self.split: str = about["split"]
        self.fingerprint: str = about["fingerprint"]
        self.num_cut_sources: int = about["num_cut_sources"]
        self.num_cut_targets: int = about["num_cut_targets"]
        self.num_bad_images: int = about.get("num_bad_images", 0)

    def __len__(self) -> int:
        return len(self.numbers)

    def __getitem__(self, index: int) -> TokenRow:
        source = self._source[self._source_starts[index] : self._source_starts[index + 1]]
        target = self._target[self._target_starts[index] : self._target_starts[index + 1]]
        return TokenRow(source, target, float(self.weights[index]), int(self.numbers[index]), self._images(index))

    @property
    def has_images(self) -> bool:
        return "images" in self._further

    @property
    def has_targets(self) -> bool:
        """Whether rows have several targets, of which one is drawn."""
        return "target_scores" in self._further

    def drawn(self, index: int, *, seed: int, step: int) -> TokenRow:
        """The row with one of its targets, drawn by score, the score times its weight being its weight.

        The draw is a function of seed, step, task and row: not of processes, workers, or other rows.
        """
        row = self[index]
        scores = self._of("target_scores", index) if self.has_targets else np.zeros(0)
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
        values, starts = self._further[column]
        return values[starts[index] : starts[index + 1]]

    def __reduce__(self) -> tuple[type[TokenizedSet], tuple[Path]]:
        return TokenizedSet, (self.path,)  # a worker process maps the file itself

    def name_of(self, index: int) -> str:
        """What people call the row: 'glue/rte train row 17'."""
        return f"{self.task} {self.split} row {self.numbers[index]}"

    @cached_property
    def source_lengths(self) -> Int[np.ndarray, " N"]:
        return np.diff(self._source_starts)

    @cached_property
    def target_lengths(self) -> Int[np.ndarray, " N"]:
        """Tokens that carry loss, EOS included."""
        return np.diff(self._target_starts)

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
        cache_dir: str | Path | None = None,
        progress: bool = False,
        eye: Eye | None = None,
        blind: bool = False,
    ) -> TokenizedSet:
        """The tokens of a split, from the cache if they are there.

        limit: a fixed random sample of that many rows. progress: show a bar while they are made. eye: sees the images
        of rows, whose features are in its store afterwards. blind: images are withheld. Raises UserError for an empty
        split, a row that does not render, images where there is no eye for them, and a cache that cannot be written.
        """
        from filelock import FileLock

        eye = eye if "image" in task.modalities and not blind else None
        examples = task.examples(split, data_root=data_root, limit=limit)
        if not len(examples):
            raise UserError(f"{task.name}: its split {split!r} has no rows.")
        lengths = {"max_source_length": max_source_length, "max_target_length": max_target_length}
        rows = task.rows(split, data_root=data_root)
        made_of = [VERSION, task.name, split, task.fingerprint(), fingerprint_rows(rows), limit, lengths]
        made_of.append(_as_rendered(examples))
        key = digest([*made_of, *_how_seen(task, eye, rows)], fingerprint_tokenizer(tokenizer))
        folder = cache_folder(cache_dir)
        path = folder / f"{re.sub('[^a-z0-9_.-]+', '-', task.name)}-{split}-{key}.arrow"
        with FileLock(path.with_suffix(".lock")):
            _clear_away(path)
            found = _open_whole(path)
            if found is None:
                columns = Columns(tokenizer, **lengths)
                made, about = tokenise(examples, columns, eye=eye, blind=blind, progress=progress)
                if not len(columns.numbers):
                    raise UserError(f"{task.name}: every row of its split {split!r} has a bad image; none is left.")
                about |= {"task": task.name, "split": split, "fingerprint": key, **lengths}
                _write(path, made, about)
                found = cls(path)
            elif eye is not None and eye.lacks(found.image_keys()):
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
    folders = [str(folder) for _, folder in getattr(rows, "parts", ())]  # where the rows' relative paths start
    return ["blind" if eye is None else f"images, {eye.on_bad_image}", *folders]


# -------------------------------------------------------------------------------------------------------------- disk


def cache_folder(cache_dir: str | Path | None = None) -> Path:
    """Where tokenised sets are kept: below the argument or the user's cache. Made if absent."""
    return writable((user_cache() if cache_dir is None else place(cache_dir)) / "tokenized")


def _open_whole(path: Path) -> TokenizedSet | None:
    """The cached set, or None if it is absent or not as it was written (then it is made again)."""
    if not path.exists():
        return None
    try:
        found = TokenizedSet(path)
        if found.checksum == _checksum(found.columns, found.about):
            return found
        reason = "its checksum differs" if found.checksum else "it is of an earlier version"
    except Exception as problem:  # whatever is wrong with it, it can be made again
        reason = str(problem)
    _log.warning("%s is not as it was written (%s): its rows are tokenised again.", path, reason)
    return None


def _clear_away(path: Path) -> None:
    """What killed processes left of this set; who holds its lock is the only one at work on it."""
    folders.recover(path.parent, re.escape(path.name), everyone=True)
    for earlier in path.parent.glob(f"{glob.escape(path.stem)}.*.tmp"):  # as earlier versions wrote
        earlier.unlink(missing_ok=True)


def _checksum(columns: Mapping[str, Any], about: Mapping[str, Any]) -> str:
    """Of every value of a set, and of what is said of it."""
    rest = {key: value for key, value in about.items() if key != "xxh3"}
    parts = [checksums.of_json(rest).encode()]
    for name, column in columns.items():
        parts += [name.encode(), str(column.type).encode()]
        ragged = hasattr(column, "offsets")
        parts += [column.offsets.to_numpy(), column.values.to_numpy()] if ragged else [column.to_numpy()]
    return checksums.of_parts(parts)


def _write(path: Path, columns: Mapping[str, Any], about: Mapping[str, Any]) -> None:
    import pyarrow as pa

    arrays = {
        name: _as_ragged(values) if isinstance(values, list) else pa.array(values) for name, values in columns.items()
    }
    about = {**about, "xxh3": _checksum(arrays, about)}
    schema = pa.schema([pa.field(name, array.type) for name, array in arrays.items()])
    schema = schema.with_metadata({"hyperpelt": json.dumps(about)})
    with (
        replacing(path) as temporary,
        pa.OSFile(str(temporary), "wb") as sink,
        pa.ipc.new_file(sink, schema) as writer,
    ):
        writer.write_batch(pa.record_batch(list(arrays.values()), schema=schema))


def _as_ragged(rows: Sequence[Sequence[int]]) -> Any:
    import pyarrow as pa

    starts = np.concatenate([[0], np.cumsum([len(ids) for ids in rows])]).astype(np.int64)
    if any(isinstance(ids, np.ndarray) for ids in rows):  # bytes of image keys, scores
        flat = np.concatenate(rows)
    else:
        flat = np.fromiter((token for ids in rows for token in ids), np.int32, count=int(starts[-1]))
    return pa.LargeListArray.from_arrays(pa.array(starts), pa.array(flat))


def _ragged(column: Any) -> tuple[np.ndarray, Int[np.ndarray, " N1"]]:
    return column.values.to_numpy(), column.offsets.to_numpy()
