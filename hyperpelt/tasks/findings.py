"""What can be said about a task's rendered rows: answers, tokens, leaks. Used by `check_task`."""

from __future__ import annotations

import hashlib
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from hyperpelt.backbones import encode_targets
from hyperpelt.backbones.plain_text import encode
from hyperpelt.tasks.lines import columns_read
from hyperpelt.tasks.rendering import Example
from hyperpelt.tasks.rows import evened
from hyperpelt.tasks.types import Task
from hyperpelt.tasks.values import is_missing

Level = Literal["error", "warning", "note"]
Numbered = tuple[int, Example]  # a row's number in its split, and the row
SHOWN = 3  # row numbers named in a finding


@dataclass(frozen=True, kw_only=True)
class Finding:
    """One thing to know. about: rows, answers, tokens or leaks. split: where, if it concerns one split. rows: the first
    of the rows that it is about."""

    level: Level
    about: str
    message: str
    split: str | None = None
    rows: tuple[int, ...] = ()

    def __str__(self) -> str:
        return f"{self.level:7}  {f'{self.split}: ' if self.split else ''}{self.message}"


def for_reading(text: str, indent: int, longest: int = 2000) -> str:
    """A row's text as a person is shown it: its further lines stand below the first, of a long one the middle is left
    out."""
    if len(text) > longest:
        start, end = longest * 3 // 4, longest // 5
        text = f"{text[:start]} ... ({len(text) - start - end:,} letters left out) ... {text[-end:]}"
    return text.replace("\n", "\n" + " " * indent)


def about_rows(level: Level, about: str, split: str, numbers: Sequence[int], what: str) -> Finding:
    """'12 rows have an empty input (row 3, 4, 9, ...)'."""
    first = ", ".join(map(str, numbers[:SHOWN])) + (", ..." if len(numbers) > SHOWN else "")
    message = f"{len(numbers)} row{'s' * (len(numbers) > 1)} {what} (row {first})"
    return Finding(level=level, about=about, split=split, message=message, rows=tuple(numbers[:SHOWN]))


class Blanks:
    """Rows with nothing in a column that the rendering reads: they are read all the same, and their author may not
    know of them."""

    def __init__(self, task: Task) -> None:
        self._task, self._columns = task, list[str]()
        self._found: dict[str, list[int]] = defaultdict(list)

    def see(self, number: int, row: Mapping[str, Any]) -> None:
        """A row of the split, before it was rendered."""
        self._columns = self._columns or columns_read(self._task, row)
        for column in self._columns:
            if is_missing(row.get(column, number)):
                self._found[column].append(number)

    def findings(self, split: str) -> Iterator[Finding]:
        """A note for each column."""
        for column, numbers in self._found.items():
            yield about_rows("note", "rows", split, numbers, f"with nothing in the column {column!r}")


# ------------------------------------------------------------------------------------------------------------- answers


def balance(task: Task, rows: Sequence[Numbered]) -> dict[str, int]:
    """{choice: rows with this answer} of a classification with fixed choices; empty for other tasks."""
    if task.choices is None or task.kind != "classification":
        return {}
    counts = Counter(example.target for _, example in rows)
    return {choice: counts[choice] for choice in task.choices}


def answers(task: Task, split: str, rows: Sequence[Numbered]) -> Iterator[Finding]:
    """Inputs and answers that look wrong."""
    yield from _empty(task, split, rows)
    if "image" not in task.modalities:  # the same question about another image is another row
        yield from _contradictions(split, rows)
    twice = [n for n, example in rows if example.choices and len(set(example.choices)) < len(example.choices)]
    if twice:
        yield about_rows("warning", "answers", split, twice, "have the same choice twice")
    yield from _imbalance(split, balance(task, rows))


def _empty(task: Task, split: str, rows: Sequence[Numbered]) -> Iterator[Finding]:
    empty = [number for number, example in rows if not example.input.strip()]
    if empty:
        yield about_rows("error", "rows", split, empty, "with an empty input")
    bare = [number for number, example in rows if "image" in task.modalities and not example.images]
    if bare:
        yield about_rows("error", "rows", split, bare, "without an image, though the task declares images")


def _contradictions(split: str, rows: Sequence[Numbered]) -> Iterator[Finding]:
    labels: dict[tuple[str, Any], set[str]] = defaultdict(set)
    for _, example in rows:
        labels[example.input, example.choices].add(repr(example.label))
    torn = [text for (text, _), found in labels.items() if len(found) > 1]
    if torn:
        message = f"{len(torn)} inputs occur with different answers, such as {shorten(torn[0])!r}"
        yield Finding(level="warning", about="answers", split=split, message=message)


def _imbalance(split: str, counts: Mapping[str, int]) -> Iterator[Finding]:
    if not counts:
        return
    absent = [choice for choice, count in counts.items() if not count]
    if absent:
        message = f"no row has the answer {', '.join(map(repr, absent))}"
        yield Finding(level="warning", about="answers", split=split, message=message)
    if len(absent) == len(counts):  # every row has choices of its own
        return
    top, count = max(counts.items(), key=lambda item: item[1])
    share = count / sum(counts.values())
    message = f"always answering {top!r} gives {share:.1%} accuracy"
    yield Finding(level="warning" if share > 0.9 else "note", about="answers", split=split, message=message)


# -------------------------------------------------------------------------------------------------------------- tokens


def first_tokens(task: Task, tokenizer: Any) -> Iterator[Finding]:
    """Fixed choices that are not told apart at once. A regression's numbers share tokens by nature: no finding."""
    if task.choices is None or task.kind == "regression":
        return
    ids = {choice: tuple(_ids(tokenizer, choice)) for choice in task.choices}
    for one in task.choices:
        for other in task.choices:
            if one != other and ids[one] == ids[other][: len(ids[one])]:
                message = (
                    f"in tokens, choice {one!r} is the beginning of {other!r}: without the end token it always wins"
                )
                yield Finding(level="warning", about="tokens", message=message)
    by_first: dict[tuple[int, ...], list[str]] = defaultdict(list)
    for choice, tokens in ids.items():
        by_first[tokens[:1]].append(choice)
    for shared in by_first.values():
        if len(shared) > 1:
            message = f"choices {', '.join(map(repr, shared))} share their first token: take words that differ at once"
            yield Finding(level="warning", about="tokens", message=message)


def lengths(rows: Sequence[Numbered], tokenizer: Any) -> list[int]:
    """Tokens of each input, special tokens included."""
    return _num_tokens(tokenizer, [example.input for _, example in rows])


def tokens(
    split: str,
    rows: Sequence[Numbered],
    num_tokens: Sequence[int],
    tokenizer: Any,
    max_source_length: int,
    max_target_length: int,
) -> Iterator[Finding]:
    """What is cut, and what the tokenizer cannot write. num_tokens: from `lengths`."""
    cut = sum(n > max_source_length for n in num_tokens) / len(num_tokens)
    if cut:
        message = f"{cut:.1%} of inputs are cut at {max_source_length} tokens (the longest has {max(num_tokens)})"
        yield Finding(level="warning" if cut > 0.1 else "note", about="tokens", split=split, message=message)
    targets = sorted({example.target for _, example in rows})
    ids = dict(zip(targets, encode_targets(tokenizer, targets), strict=True))
    longest = max(map(len, ids.values()))
    if longest > max_target_length:
        message = f"targets of up to {longest} tokens are cut at {max_target_length}"
        yield Finding(level="warning", about="tokens", split=split, message=message)
    bad = {target for target in targets if tokenizer.unk_token_id in ids[target]}
    if bad and tokenizer.unk_token_id is not None:
        numbers = [number for number, example in rows if example.target in bad]
        what = f"with a target the tokenizer cannot write, such as {shorten(min(bad))!r}"
        yield about_rows("warning", "tokens", split, numbers, what)


def _ids(tokenizer: Any, text: str) -> list[int]:
    return encode_targets(tokenizer, [text])[0][:-1]


def _num_tokens(tokenizer: Any, texts: Sequence[str]) -> list[int]:
    counts: list[int] = []
    for start in range(0, len(texts), 1024):
        counts += map(len, encode(tokenizer, texts[start : start + 1024]))
    return counts


# --------------------------------------------------------------------------------------------------------------- leaks


def leaks(splits: Mapping[str, Sequence[Numbered]]) -> Iterator[Finding]:
    """Rows that occur in two splits, and repeated rows inside one. A row is its input, own choices and images."""
    exact = {split: Counter(_key(example, str) for _, example in rows) for split, rows in splits.items()}
    even = {split: Counter(_key(example, evened) for _, example in rows) for split, rows in splits.items()}
    names = list(splits)
    for i, first in enumerate(names):
        for second in names[i + 1 :]:
            same = sum(count for key, count in exact[second].items() if key in exact[first])
            alike = sum(count for key, count in even[second].items() if key in even[first])
            if alike:
                yield _leak(first, second, same, alike, len(splits[second]))
    for split, counts in exact.items():
        repeated = sum(count - 1 for count in counts.values())
        if repeated:
            message = f"{repeated} rows repeat an earlier row of the same split"
            yield Finding(level="note", about="leaks", split=split, message=message)


def _leak(first: str, second: str, same: int, alike: int, num_rows: int) -> Finding:
    share = alike / num_rows
    message = f"{alike} of {num_rows} rows ({share:.1%}) also stand in {first}"
    message += f": {same} exactly, {alike - same} but for case, spacing or punctuation" if alike > same else ""
    return Finding(level="error" if share > 0.05 else "warning", about="leaks", split=second, message=message)


def _key(example: Example, even: Callable[[str], str]) -> bytes:
    digest = hashlib.blake2b(even(example.input).encode(), digest_size=12)
    for choice in example.choices or ():
        digest.update(b"\x1f" + even(choice).encode())
    for image in example.images:
        digest.update(image)
    return digest.digest()


def shorten(text: str, width: int = 80) -> str:
    return text if len(text) <= width else text[: width - 3] + "..."
