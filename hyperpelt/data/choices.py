"""The choices of training rows, as tokens: what ranking and T-Few's losses compare."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from hyperpelt.data.streamed import StreamedSet
from hyperpelt.data.tokenized import TokenizedSet, cut_targets

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from hyperpelt.tasks import Examples, Task

KEPT = 10_000  # rows and texts that are remembered: few-shot sets whole, of large ones a part, at a few megabytes


@dataclass
class Choices:
    """Finds the choices of a row of a tokenised split.

    Where a task's choices are fixed, the row's own target tells which is right; where each row brings its own, the row
    is rendered again. The first `KEPT` rows are remembered, the rest are found anew each time.
    """

    tasks: Mapping[str, Task]
    tokenizer: PreTrainedTokenizerBase
    max_target_length: int
    data_root: str | Path | None = None
    _tokens: dict[str, list[int]] = field(default_factory=dict)
    _found: dict[tuple[str, int], list[tuple[str, list[int]]]] = field(default_factory=dict)
    _examples: dict[str, Examples] = field(default_factory=dict)

    def wrong(self, tokens: TokenizedSet, row: int) -> list[list[int]]:
        """Target ids of each wrong choice, with EOS; empty for an open answer."""
        right = tokens[row].labels.tolist()
        return [ids for _, ids in self.of(tokens, row) if ids != right]

    def of(self, tokens: TokenizedSet, row: int) -> list[tuple[str, list[int]]]:
        """Text and target ids (with EOS) of each choice; empty for an open answer."""
        number = tokens.number_of(row)
        key = (tokens.task, number)
        if key in self._found:
            return self._found[key]
        task = self.tasks[tokens.task]
        texts = (task.choices if task.choices is not None else self._own(task, tokens, row)) or ()
        found = list(zip(texts, self._encoded(texts), strict=True))
        if len(self._found) < KEPT:
            self._found[key] = found
        return found

    def _own(self, task: Task, tokens: TokenizedSet, row: int) -> Sequence[str] | None:
        if task.kind == "generation":
            return None
        if isinstance(tokens, StreamedSet):
            return tokens.choices_of(row)
        if task.name not in self._examples:
            self._examples[task.name] = task.examples(tokens.split, data_root=self.data_root)
        return self._examples[task.name][tokens.number_of(row)].choices

    def _encoded(self, texts: Iterable[str]) -> list[list[int]]:
        from hyperpelt.backbones import encode_targets

        texts = list(texts)
        if len(self._tokens) >= KEPT:  # choices of rows of their own: fixed ones are soon there again
            self._tokens.clear()
        new = [text for text in dict.fromkeys(texts) if text not in self._tokens]
        if new:
            made, _ = cut_targets(encode_targets(self.tokenizer, new), self.max_target_length)
            self._tokens |= dict(zip(new, made, strict=True))
        return [self._tokens[text] for text in texts]
