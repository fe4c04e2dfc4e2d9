"""The tokens of a task that is rendered in several ways: each time a row comes, one of its renderings is drawn."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any
from zlib import crc32

import numpy as np
from jaxtyping import Int

from hyperpelt.data.fingerprints import digest
from hyperpelt.data.tokenized import TokenizedSet, TokenRow

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from hyperpelt.tasks import Task


def tokens_of(task: Task, split: str, tokenizer: PreTrainedTokenizerBase, **options: Any) -> TokenizedSet:
    """The tokens of a split, of all its renderings where there are several. options: `TokenizedSet.load_or_build`'s."""
    made = [TokenizedSet.load_or_build(one, split, tokenizer, **options) for _, one in task.variants()]
    return made[0] if not task.templates else TemplatedSet(made)


class TemplatedSet(TokenizedSet):
    """Several renderings of the same rows. `drawn` chooses one: a function of seed, step, task and row, so that a run
    that is resumed sees what one that never stopped does."""

    def __init__(self, parts: Sequence[TokenizedSet]) -> None:
        self.parts, first = tuple(parts), parts[0]
        self.path, self.numbers, self.weights = first.path, first.numbers, first.weights
        self.task, self.split = first.task, first.split
        self.fingerprint = digest(*(part.fingerprint for part in parts))
        self.num_cut_sources = sum(part.num_cut_sources or 0 for part in parts)
        self.num_cut_targets = sum(part.num_cut_targets or 0 for part in parts)
        self.num_bad_images = first.num_bad_images
        assert all(np.array_equal(part.numbers, self.numbers) for part in parts), "renderings of other rows"

    def __getitem__(self, index: int) -> TokenRow:
        return self.parts[0][index]

    def __reduce__(self) -> tuple[Any, ...]:
        return TemplatedSet, (self.parts,)

    @property
    def has_images(self) -> bool:
        return self.parts[0].has_images

    @property
    def has_targets(self) -> bool:
        return True

    def drawn(self, index: int, *, seed: int, step: int) -> TokenRow:
        generator = np.random.default_rng([seed, 6, step, crc32(self.task.encode()), int(self.numbers[index])])
        part = self.parts[int(generator.integers(len(self.parts)))]
        return part.drawn(index, seed=seed, step=step)

    def image_keys(self) -> Iterator[str]:
        return self.parts[0].image_keys()

    @cached_property
    def source_lengths(self) -> Int[np.ndarray, " N"]:
        """Of the longest rendering: what batches of like length are made by."""
        return np.max([part.source_lengths for part in self.parts], axis=0)

    @cached_property
    def target_lengths(self) -> Int[np.ndarray, " N"]:
        return np.max([part.target_lengths for part in self.parts], axis=0)
