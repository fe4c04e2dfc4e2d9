"""Tokenised splits on disk: made once, memory-mapped by every process, found again by what they are made of.

A `TokenizedSet` is one Arrow file under HYPERPELT_CACHE (else ~/.cache/hyperpelt). Its name holds a fingerprint of the
task's definition, its rows, the tokenizer and the lengths: change any of them and another file is made. Files are
written beside their place and renamed, under a lock, so that several processes may ask for the same set at once.

    tokens = TokenizedSet.load_or_build(task, "train", tokenizer, max_source_length=128, max_target_length=32)
    tokens[17].input_ids, tokens.source_lengths, tokens.num_cut_sources
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import cached_property
from hashlib import blake2b
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from jaxtyping import Float, Int
from tqdm import tqdm

from hyperpelt.errors import UserError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from hyperpelt.tasks import Example, Task

VERSION = 1  # of the file's layout and of how texts become tokens
CACHE_VARIABLE = "HYPERPELT_CACHE"
BATCH = 1024  # rows rendered and tokenised together


class TokenRow(NamedTuple):
    """One training row. `number` is its place in the task's split, as error messages count."""

    input_ids: Int[np.ndarray, " S"]
    labels: Int[np.ndarray, " T"]
    weight: float
    number: int


class TokenizedSet:
    """One tokenised split, memory-mapped. Built by `load_or_build`; opened by `open`."""

    def __init__(self, path: Path) -> None:
        import pyarrow as pa

        self.path = path
        # The arrays below are views of the mapped file: nothing is read before it is asked for.
        table = pa.ipc.open_file(pa.memory_map(str(path))).get_batch(0)
        self._source, self._source_starts = _ragged(table.column("input_ids"))
        self._target, self._target_starts = _ragged(table.column("labels"))
        self.weights: Float[np.ndarray, " N"] = table.column("weight").to_numpy()
        self.numbers: Int[np.ndarray, " N"] = table.column("number").to_numpy()
        about = json.loads(table.schema.metadata[b"hyperpelt"])
        self.task: str = about["task"]
        self.split: str = about["split"]
        self.fingerprint: str = about["fingerprint"]
        self.num_cut_sources: int = about["num_cut_sources"]
        self.num_cut_targets: int = about["num_cut_targets"]

    def __len__(self) -> int:
        return len(self.numbers)

    def __getitem__(self, index: int) -> TokenRow:
        source = self._source[self._source_starts[index] : self._source_starts[index + 1]]
        target = self._target[self._target_starts[index] : self._target_starts[index + 1]]
        return TokenRow(source, target, float(self.weights[index]), int(self.numbers[index]))

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
    ) -> TokenizedSet:
        """The tokens of a split, from the cache if they are there.

        limit: a fixed random sample of that many rows. progress: show a bar while they are made. Raises UserError for
        an empty split, a row that does not render, a task with images, and a cache that cannot be written.
        """
        from filelock import FileLock

        examples = task.examples(split, data_root=data_root, limit=limit)
        if not len(examples):
            raise UserError(f"{task.name}: its split {split!r} has no rows.")
        lengths = {"max_source_length": max_source_length, "max_target_length": max_target_length}
        rows = task.rows(split, data_root=data_root)
        key = _digest(
            [VERSION, task.name, split, task.fingerprint(), fingerprint_rows(rows), limit, lengths],
            fingerprint_tokenizer(tokenizer),
        )
        folder = cache_folder(cache_dir)
        path = folder / f"{re.sub('[^a-z0-9_.-]+', '-', task.name)}-{split}-{key}.arrow"
        with FileLock(path.with_suffix(".lock")):
            found = _open_whole(path)
            if found is None:
                columns, about = _tokenise(examples, tokenizer, progress, **lengths)
                about |= {"task": task.name, "split": split, "fingerprint": key, **lengths}
                _write(path, columns, about)
                found = cls(path)
        return found


# ---------------------------------------------------------------------------------------------------------- making


def encode_inputs(
    tokenizer: PreTrainedTokenizerBase, texts: Sequence[str], max_length: int
) -> tuple[list[list[int]], int]:
    """Token ids with the tokenizer's special tokens, cut to `max_length`; and how many texts had to be cut."""
    encoded = list(tokenizer(list(texts), verbose=False)["input_ids"])
    long = [index for index, ids in enumerate(encoded) if len(ids) > max_length]
    if long:  # the tokenizer itself knows which special tokens a cut text keeps
        again = tokenizer([texts[index] for index in long], truncation=True, max_length=max_length)["input_ids"]
        for index, ids in zip(long, again, strict=True):
            encoded[index] = list(ids)
    return encoded, len(long)


def cut_targets(targets: Iterable[Sequence[int]], max_length: int) -> tuple[list[list[int]], int]:
    """Targets of at most `max_length` tokens; a cut one keeps its last token (EOS), so that it still ends."""
    whole = [list(ids) for ids in targets]
    cut = [ids if len(ids) <= max_length else [*ids[: max_length - 1], ids[-1]] for ids in whole]
    return cut, sum(len(ids) > max_length for ids in whole)


def _tokenise(
    examples: Sequence[Example],
    tokenizer: PreTrainedTokenizerBase,
    progress: bool,
    *,
    max_source_length: int,
    max_target_length: int,
) -> tuple[dict[str, Any], dict[str, int]]:
    from hyperpelt.backbones import encode_targets

    sources: list[list[int]] = []
    targets: list[list[int]] = []
    weights: list[float] = []
    num_cut = np.zeros(2, np.int64)
    bar = tqdm(total=len(examples), desc="tokenising", unit="row", leave=False, disable=None if progress else True)
    for batch in _batches(examples):
        _refuse_images(batch, examples)
        ids, cut_sources = encode_inputs(tokenizer, [example.input for example in batch], max_source_length)
        texts = list(dict.fromkeys(example.target for example in batch))  # few, where they are choices
        encoded = dict(zip(texts, encode_targets(tokenizer, texts), strict=True))
        labels, cut_labels = cut_targets([encoded[example.target] for example in batch], max_target_length)
        num_cut += (cut_sources, cut_labels)
        sources += ids
        targets += labels
        weights += [example.weight for example in batch]
        bar.update(len(batch))
    bar.close()
    numbers = np.asarray(examples.numbers if hasattr(examples, "numbers") else range(len(sources)), np.int64)
    columns = {"input_ids": sources, "labels": targets, "weight": np.asarray(weights, np.float32), "number": numbers}
    return columns, {"num_cut_sources": int(num_cut[0]), "num_cut_targets": int(num_cut[1])}


def _batches(examples: Iterable[Example]) -> Iterator[list[Example]]:
    rows = iter(examples)
    while batch := list(islice(rows, BATCH)):
        yield batch


def _refuse_images(batch: Sequence[Example], examples: Any) -> None:
    if any(example.images for example in batch):
        raise UserError(f"{examples.task.name} has images; this version trains on text alone. Leave the task out.")


# ------------------------------------------------------------------------------------------------------ fingerprints


def _digest(*values: Any) -> str:
    return blake2b(json.dumps(values, sort_keys=True, default=str).encode(), digest_size=12).hexdigest()


def fingerprint_rows(rows: Sequence[Mapping[str, Any]]) -> str:
    """A hash of the rows' content, whatever file or machine they come from."""
    import pyarrow as pa

    state = blake2b(digest_size=16)
    if hasattr(rows, "with_format"):  # a datasets.Dataset: hash its columns, without making Python objects
        for table in rows.with_format("arrow").iter(batch_size=8192):
            sink = pa.BufferOutputStream()
            with pa.ipc.new_stream(sink, table.schema.remove_metadata()) as writer:
                writer.write_table(table.replace_schema_metadata(None).combine_chunks())
            state.update(memoryview(sink.getvalue()))
    else:
        for row in rows:
            state.update(json.dumps(dict(row), sort_keys=True, default=str).encode() + b"\n")
    return state.hexdigest()


def fingerprint_tokenizer(tokenizer: PreTrainedTokenizerBase) -> str:
    """A hash of everything that decides which ids a text gets."""
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is None:
        return _digest(type(tokenizer).__name__, tokenizer.get_vocab(), tokenizer.special_tokens_map)
    description = json.loads(backend.to_str())
    # What the last call left behind is no property of the tokenizer.
    kept = {key: value for key, value in description.items() if key not in ("truncation", "padding")}
    return _digest(kept, tokenizer.special_tokens_map)


# -------------------------------------------------------------------------------------------------------------- disk


def cache_folder(cache_dir: str | Path | None = None) -> Path:
    """Where tokenised sets are kept: the argument, HYPERPELT_CACHE, or ~/.cache/hyperpelt. Made if absent."""
    folder = Path(cache_dir or os.environ.get(CACHE_VARIABLE) or Path.home() / ".cache" / "hyperpelt") / "tokenized"
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"Cannot make the cache folder {folder} ({error.strerror}); set {CACHE_VARIABLE}.") from None
    if not os.access(folder, os.W_OK):
        raise UserError(f"Cannot write to the cache folder {folder}; set {CACHE_VARIABLE} to one that you own.")
    return folder


def _open_whole(path: Path) -> TokenizedSet | None:
    """The cached set, or None if it is absent or damaged (then it is made again)."""
    import pyarrow as pa

    try:
        return TokenizedSet(path)
    except (FileNotFoundError, pa.ArrowInvalid, KeyError, json.JSONDecodeError):
        return None


def _write(path: Path, columns: Mapping[str, Any], about: Mapping[str, Any]) -> None:
    import pyarrow as pa

    arrays = {
        name: _as_ragged(values) if isinstance(values, list) else pa.array(values) for name, values in columns.items()
    }
    schema = pa.schema([pa.field(name, array.type) for name, array in arrays.items()])
    schema = schema.with_metadata({"hyperpelt": json.dumps(about)})
    temporary = path.with_suffix(f".{os.getpid()}.tmp")
    try:
        with pa.OSFile(str(temporary), "wb") as sink, pa.ipc.new_file(sink, schema) as writer:
            writer.write_batch(pa.record_batch(list(arrays.values()), schema=schema))
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def _as_ragged(rows: Sequence[Sequence[int]]) -> Any:
    import pyarrow as pa

    starts = np.concatenate([[0], np.cumsum([len(ids) for ids in rows])]).astype(np.int64)
    flat = np.fromiter((token for ids in rows for token in ids), np.int32, count=int(starts[-1]))
    return pa.LargeListArray.from_arrays(pa.array(starts), pa.array(flat))


def _ragged(column: Any) -> tuple[Int[np.ndarray, " tokens"], Int[np.ndarray, " N1"]]:
    return column.values.to_numpy(), column.offsets.to_numpy()
