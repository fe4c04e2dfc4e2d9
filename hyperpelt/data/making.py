"""From rendered rows to the columns of a tokenised split.

A row that brings `targets` keeps all of them as tokens, with their scores: which one is learnt is drawn anew each time
the row comes (`TokenizedSet.drawn`). Of a row's images their keys are kept; their features stand in the feature store.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from itertools import islice
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from hyperpelt.backbones.plain_text import encode, encode_framed, frame
from hyperpelt.data.parts import Stamp
from hyperpelt.data.progress import shown as told
from hyperpelt.errors import UserError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from hyperpelt.data.seeing import Eye
    from hyperpelt.tasks import Example, Examples

BATCH = 1024  # rows rendered and tokenised together
Numbered = tuple[int, "Example"]


def encode_inputs(
    tokenizer: PreTrainedTokenizerBase, texts: Sequence[str], max_length: int, endings: Sequence[str] = ()
) -> tuple[list[list[int]], int]:
    """Token ids with the tokenizer's special tokens, cut to `max_length`; and how many texts had to be cut.

    endings: of each text its last part, which a cut leaves whole ("" for none) if it is short enough.
    """
    encoded, long = encode_cut(tokenizer, texts, max_length, endings)
    return encoded, len(long)


def encode_cut(
    tokenizer: PreTrainedTokenizerBase, texts: Sequence[str], max_length: int, endings: Sequence[str]
) -> tuple[list[list[int]], list[int]]:
    """The same, and which texts had to be cut."""
    encoded = encode(tokenizer, texts)
    long = [index for index, ids in enumerate(encoded) if len(ids) > max_length]
    for index in long:
        ending = endings[index] if endings else ""
        cut = _cut_before(tokenizer, texts[index], ending, max_length) if ending else None
        encoded[index] = cut or _cut(tokenizer, encoded[index], max_length)
    return encoded, long


def _cut(tokenizer: PreTrainedTokenizerBase, ids: Sequence[int], max_length: int) -> list[int]:
    """Without what is too much of the text itself: its end, or its beginning where the tokenizer says so."""
    before, after = frame(tokenizer)
    body = ids[len(before) : len(ids) - len(after)]
    room = max(0, max_length - len(before) - len(after))
    kept = body[len(body) - room :] if tokenizer.truncation_side == "left" else body[:room]
    return [*before, *kept, *after]


def _cut_before(tokenizer: PreTrainedTokenizerBase, text: str, ending: str, max_length: int) -> list[int] | None:
    """The text's tokens, without those before its ending that are too many; None if the ending itself is too long."""
    assert text.endswith(ending), f"the ending {ending!r} does not end the input {text!r}"
    framed, place = encode_framed(tokenizer, text), len(text) - len(ending)
    if framed.ends is not None:
        first = next((index for index, end in enumerate(framed.ends) if end > place), len(framed.body))
        start, last = framed.body[:first], framed.body[first:]
    else:  # a tokenizer that does not tell where its tokens stand: both parts for themselves
        start, last = encode(tokenizer, [text[:place], ending], special_tokens=False)
    if not last:
        raise UserError(f"the tokenizer makes no token from the ending {ending!r}: leave it out")
    kept = max_length - len(framed.before) - len(last) - len(framed.after)
    # Of the part before it some must be left, or there is nothing to hold the ending against.
    if kept + len(framed.before) < max_length // 4:
        return None
    return [*framed.before, *start[:kept], *last, *framed.after]


def cut_targets(targets: Iterable[Sequence[int]], max_length: int) -> tuple[list[list[int]], int]:
    """Targets of at most `max_length` tokens; a cut one keeps its last token (EOS), so that it still ends."""
    whole = [list(ids) for ids in targets]
    cut = [ids if len(ids) <= max_length else [*ids[: max_length - 1], ids[-1]] for ids in whole]
    return cut, sum(len(ids) > max_length for ids in whole)


class Columns:
    """The columns of tokenised rows as they grow. Images and further targets have columns only if a row has some."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase, max_source_length: int, max_target_length: int) -> None:
        self.tokenizer, self.lengths = tokenizer, (max_source_length, max_target_length)
        self.inputs: list[np.ndarray] = []
        self.labels: list[list[int]] = []
        self.weights: list[float] = []
        self.numbers: list[int] = []
        self.images: list[bytes] = []
        self.targets: list[tuple[list[list[int]], list[float]]] = []  # of each row: tokens and scores
        self.cut: list[int] = []  # bit 0: the source was too long, bit 1: the target

    def add(self, rows: Sequence[Numbered]) -> None:
        """Tokenise some rows, whose images are keys by now."""
        examples = [example for _, example in rows]
        endings = [example.ending for example in examples]
        ids, long = encode_cut(self.tokenizer, [example.input for example in examples], self.lengths[0], endings)
        self.inputs += [np.asarray(row, np.int32) for row in ids]  # lists of Python numbers take twenty times as much
        tokens, cut = self._target_tokens(examples)
        too_long = set(long)
        self.labels += [tokens[example.target] for example in examples]
        flags = zip(range(len(examples)), examples, strict=True)
        self.cut += [(place in too_long) | (example.target in cut) << 1 for place, example in flags]
        self.targets += [
            ([tokens[text] for text, _ in example.targets], [score for _, score in example.targets])
            for example in examples
        ]
        self.weights += [example.weight for example in examples]
        self.numbers += [number for number, _ in rows]
        self.images += [b"".join(map(bytes.fromhex, example.images)) for example in examples]

    def _target_tokens(self, examples: Sequence[Example]) -> tuple[dict[str, list[int]], set[str]]:
        """Tokens of every target text, each made once (they are few, where they are choices); and which were cut."""
        from hyperpelt.backbones import encode_targets

        texts = [text for example in examples for text in (example.target, *(text for text, _ in example.targets))]
        texts = list(dict.fromkeys(texts))
        whole = encode_targets(self.tokenizer, texts)
        tokens, _ = cut_targets(whole, self.lengths[1])
        cut = {text for text, ids in zip(texts, whole, strict=True) if len(ids) > self.lengths[1]}
        return dict(zip(texts, tokens, strict=True)), cut

    def arrays(self) -> dict[str, Any]:
        """Columns by name: lists of rows, or arrays."""
        columns: dict[str, Any] = {"input_ids": self.inputs, "labels": self.labels}
        if any(self.images):
            columns["images"] = [np.frombuffer(keys, np.uint8) for keys in self.images]
        if any(scores for _, scores in self.targets):
            columns["target_ids"] = [[token for ids in some for token in ids] for some, _ in self.targets]
            columns["target_lengths"] = [[len(ids) for ids in some] for some, _ in self.targets]
            columns["target_scores"] = [np.asarray(scores, np.float32) for _, scores in self.targets]
        columns |= {"weight": np.asarray(self.weights, np.float32), "number": np.asarray(self.numbers, np.int64)}
        return columns | {"cut": np.asarray(self.cut, np.uint8)}


class Shown(NamedTuple):
    """A progress bar over more rows than are made at once."""

    done: int
    total: int


def tokenise(
    examples: Examples, columns: Columns, *, eye: Eye | None, blind: bool, progress: Shown | None
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Rows of a split as columns, and what to tell of them: bad images, and the files of all.

    eye: sees images; blind: they are withheld. Raises UserError for images where there is neither.
    """
    rows = _with_progress(_numbered(examples, blind), "tokenising", progress)
    seen = rows if eye is None else eye.see(rows, where=f"{examples.task.name} {examples.split}", drop_bad=True)
    if eye is None:
        for batch in _batches(seen):
            _refuse_images(batch, examples)
            columns.add(batch)
        return columns.arrays(), {"num_bad_images": 0}
    files: dict[str, Stamp] = {}
    bad, eye.files = eye.num_bad, files
    for batch in _batches(seen):
        columns.add(batch)
    eye.files = None
    return columns.arrays(), {"num_bad_images": eye.num_bad - bad, "image_files": files}


def see_again(examples: Examples, eye: Eye, *, progress: bool) -> None:
    """Encode the images of a split whose tokens are made, but whose features are not (all) there."""
    shown = Shown(0, len(examples)) if progress else None
    rows = _with_progress(_numbered(examples, blind=False), "encoding images", shown)
    for _ in eye.see(rows, where=f"{examples.task.name} {examples.split}"):
        pass


def _with_progress(rows: Iterator[Numbered], what: str, shown: Shown | None) -> Iterator[Numbered]:
    done, total = shown or (0, 0)
    yield from told(rows, what, "rows", progress=shown is not None, done=done, total=total)


def _numbered(examples: Any, blind: bool) -> Iterator[Numbered]:
    numbers = getattr(examples, "numbers", None) or range(len(examples))
    for number, example in zip(numbers, examples, strict=True):
        yield number, replace(example, images=()) if blind and example.images else example


def _batches(rows: Iterable[Numbered]) -> Iterator[list[Numbered]]:
    rows = iter(rows)
    while batch := list(islice(rows, BATCH)):
        yield batch


def _refuse_images(batch: Sequence[Numbered], examples: Examples) -> None:
    if any(example.images for _, example in batch):
        from hyperpelt.data.seeing import refuse

        raise refuse(examples.task.name)
