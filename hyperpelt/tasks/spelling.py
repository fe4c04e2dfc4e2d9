"""How a tokenizer writes the gold answers, so that answers are compared in one form; and the most that can be reached.

Open answers come back as a tokenizer decodes them: WordPiece writes '3. 5' for '3.5' and 'u. s. a.' for 'U.S.A.', and
what is not in a vocabulary is lost. `Spelling` gives an answer the spelling of its row's gold wherever it holds what
the tokenizer makes of the gold, or of one of its words. Metrics then see the words that the gold has, and need no rules
of their own for it. An answer that the tokenizer cannot write at all can be given by nobody: `ceiling` says what is
lost by that.

    spelling = Spelling(tokenizer, examples)
    spelling.respelt("garbage _ bin", example)       # 'garbage_bin', if the row's gold says so
    ceiling(task, examples, tokenizer)               # {"exact_match": 98.2}
"""

from __future__ import annotations

import re
import string
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

from hyperpelt.backbones import encode_targets, without_language
from hyperpelt.tasks.rendering import Example
from hyperpelt.tasks.values import read_number

if TYPE_CHECKING:
    from hyperpelt.tasks.types import Task

CHUNK = 1024  # texts tokenised together
NOT_A_NUMBER = float("nan")


def is_open(task: Task, examples: Sequence[Example]) -> bool:
    """Whether the task's answers are written word by word, and compared as text."""
    return task.kind == "generation" and any(example.choices is None for example in examples)


class Spelling:
    """What a tokenizer makes of every gold answer of some rows, and of the words in it."""

    def __init__(self, tokenizer: Any, examples: Iterable[Example]) -> None:
        self.tokenizer = tokenizer
        texts = dict.fromkeys(text for example in examples for text in _golds(example))
        words = dict.fromkeys(word for text in texts for word in _words(text))
        self.forms = self.written([*texts, *words])

    def written(self, texts: Sequence[str]) -> dict[str, str]:
        """Each text as the tokenizer writes it, without those that it cannot write whole."""
        texts = list(dict.fromkeys(texts))
        found: dict[str, str] = {}
        for start in range(0, len(texts), CHUNK):
            some = texts[start : start + CHUNK]
            ids = encode_targets(self.tokenizer, some)
            said = decode(self.tokenizer, ids)
            unknown = self.tokenizer.unk_token_id
            found |= {t: s for t, s, row in zip(some, said, ids, strict=True) if unknown is None or unknown not in row}
        return found

    def said(self, texts: Sequence[str]) -> list[str]:
        """Each text as the tokenizer writes it, or as much of it as it can."""
        return decode(self.tokenizer, encode_targets(self.tokenizer, texts))

    def respelt(self, answer: str, example: Example) -> str:
        """The answer in the spelling of the row's gold, wherever it says the same in the tokenizer's."""
        golds = _golds(example)
        if answer in golds:
            return answer
        whole = [gold for gold in golds if self.forms.get(gold) == answer]
        if whole:
            return whole[0]
        words = {form: w for gold in golds for w in _words(gold) if (form := self.forms.get(w, "")) and form != w}
        if not words:
            return answer
        longest = "|".join(map(re.escape, sorted(words, key=len, reverse=True)))
        return re.sub(rf"(?<!\w)({longest})(?!\w)", lambda match: words[match[1]], answer)

    @property
    def changed(self) -> dict[str, str]:
        """The gold answers, and words of them, that the tokenizer writes otherwise."""
        return {text: form for text, form in self.forms.items() if text.strip() != form}


def decode(tokenizer: Any, ids: Any) -> list[str]:
    """Answers as text, without special tokens."""
    written = without_language(tokenizer, ids)
    return [text.strip() for text in tokenizer.batch_decode(written, skip_special_tokens=True)]


def ceiling(
    task: Task, examples: Sequence[Example], tokenizer: Any, *, max_target_length: int | None = None
) -> dict[str, float]:
    """The scores of a model that writes exactly the target's tokens of every row, in points.

    Less than 100 where an answer cannot be written, two choices have the same tokens, or a target is not its label (the
    nearest of a regression's choices; one person's answer of ten). Raises UserError where a metric cannot be computed.
    """
    return _scores(task, examples, written_answers(task, examples, tokenizer, max_target_length))


def lost(
    task: Task, examples: Sequence[Example], tokenizer: Any, *, max_target_length: int | None = None
) -> dict[str, tuple[float, float]]:
    """{metric: (ceiling, what the targets themselves score)} where the tokenizer is what keeps it down."""
    reached = ceiling(task, examples, tokenizer, max_target_length=max_target_length)
    themselves = _scores(task, examples, [_itself(task, example) for example in examples])
    return {name: (reached[name], themselves[name]) for name in reached if reached[name] < themselves[name] - 0.05}


def _scores(task: Task, examples: Sequence[Example], answers: Sequence[Any]) -> dict[str, float]:
    from hyperpelt import metrics

    names, groups = metrics.available(task.metrics)[0], [example.group for example in examples]
    return metrics.compute(names, answers, [example.label for example in examples], groups=groups)


def _itself(task: Task, example: Example) -> Any:
    """The target as a metric takes an answer."""
    if task.kind == "classification":
        return example.label
    return _number(example.target) if task.kind == "regression" else _best(example)


def _number(text: str) -> float:
    number = read_number(text)
    return NOT_A_NUMBER if number is None else number


def written_answers(
    task: Task, examples: Sequence[Example], tokenizer: Any, max_target_length: int | None = None
) -> list[Any]:
    """What metrics take as the answer of a model that writes exactly the target's tokens of each row."""
    spelling = Spelling(tokenizer, examples if is_open(task, examples) else ())
    targets = [_best(example) for example in examples]
    texts = list(dict.fromkeys([*targets, *(choice for example in examples for choice in example.choices or ())]))
    tokens: dict[str, tuple[int, ...]] = {}
    for start in range(0, len(texts), CHUNK):
        some = texts[start : start + CHUNK]
        made = encode_targets(tokenizer, some, max_length=max_target_length)
        tokens |= {text: tuple(ids) for text, ids in zip(some, made, strict=True)}
    said = dict(zip(tokens, decode(tokenizer, [list(ids) for ids in tokens.values()]), strict=True))
    return [
        _answer(task, example, said[target], tokens, spelling)
        for example, target in zip(examples, targets, strict=True)
    ]


def _answer(task: Task, example: Example, said: str, tokens: dict[str, tuple[int, ...]], spelling: Spelling) -> Any:
    if example.choices is not None:
        ids = [tokens[choice] for choice in example.choices]
        place = ids.index(tokens[example.target])  # the first of those that nothing tells apart
        chosen = example.choices[place]
        return {"classification": place, "regression": read_number(chosen)}.get(task.kind, chosen)
    if task.kind == "regression":
        return _number(said)
    return spelling.respelt(said, example)


def _best(example: Example) -> str:
    return max(example.targets, key=lambda pair: pair[1])[0] if example.targets else example.target


def _golds(example: Example) -> tuple[str, ...]:
    """The accepted answers of a row, and what it trains to write."""
    label = example.label
    accepted = (label,) if isinstance(label, str) else label if isinstance(label, tuple) else ()
    return tuple(dict.fromkeys([*accepted, *(text for text, _ in example.targets), example.target]))


def _words(text: str) -> list[str]:
    """The words of a text, with the marks around each and without them."""
    words = [*text.split(), *(part for word in text.split() if "," in word for part in word.split(","))]
    return [*words, *(bare for word in words if (bare := word.strip(string.punctuation)) and bare != word)]
