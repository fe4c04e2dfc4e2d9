"""Rendered examples as tokens, and in which batches they are answered: alike for any number of processes."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from hyperpelt.backbones import encode_targets
from hyperpelt.data.making import encode_cut
from hyperpelt.errors import UserError
from hyperpelt.evaluation.settings import Settings
from hyperpelt.model import scoring

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from hyperpelt.model.tuned import TunedModel
    from hyperpelt.tasks import Example, Task


@dataclass(frozen=True, slots=True)
class Input:
    """One example as tokens; `candidates` are the choices for the decoder, None where it shall generate."""

    ids: list[int]
    choices: tuple[str, ...] | None
    candidates: list[list[int]] | None
    images: tuple[str, ...] = ()  # keys
    is_cut: bool = False  # at max_source_length

    @property
    def width(self) -> int:
        """Rows it takes in the decoder."""
        return len(self.candidates or (1,))


def encode(model: TunedModel, task: Task, examples: Sequence[Example], settings: Settings) -> tuple[list[Input], int]:
    """Every example as tokens, each distinct candidate tokenised once; and how many inputs had to be cut.

    Raises UserError for a candidate with more tokens than the backbone has positions.
    """
    examples, tokenizer = list(examples), tokenizer_of(model)
    inputs, endings = [example.input for example in examples], [example.ending for example in examples]
    ids, long = encode_cut(tokenizer, inputs, settings.max_source_length, endings)
    texts = list(dict.fromkeys(choice for example in examples for choice in example.choices or ()))
    end = tokenizer.eos_token_id
    candidates = [scoring.scored(row, end, settings.normalisation) for row in encode_targets(tokenizer, texts)]
    _check_candidates(model, texts, candidates)
    tokens = dict(zip(texts, candidates, strict=True))
    ranked = [None if row.choices is None else [tokens[text] for text in row.choices] for row in examples]
    parts, too_long = zip(ids, examples, ranked, strict=True), set(long)
    found = [
        Input(row, example.choices, rank, example.images, is_cut=number in too_long)
        for number, (row, example, rank) in enumerate(parts)
    ]
    return found, len(long)


def _check_candidates(model: TunedModel, texts: Sequence[str], candidates: Sequence[Sequence[int]]) -> None:
    limit = getattr(model.backbone.config, "max_position_embeddings", None)
    for text, tokens in zip(texts, candidates, strict=True):
        if limit is not None and len(tokens) > limit:
            raise UserError(
                f"the choice {text[:40] + '...'!r} has {len(tokens)} tokens, and "
                f"{model.backbone_name or 'this backbone'} has {limit} positions: shorten it"
            )


def tokenizer_of(model: TunedModel) -> PreTrainedTokenizerBase:
    """The model's tokenizer; UserError if it was built without one."""
    if model.tokenizer is None:
        raise UserError(
            "This model has no tokenizer, which evaluation needs: give one to TunedModel.build(tokenizer=...)."
        )
    return model.tokenizer


def cut(inputs: Sequence[Input], batch_size: int, decoder_rows: int) -> list[list[int]]:
    """Indices of `inputs`, longest first, in batches of at most `batch_size` rows and `decoder_rows` candidates.

    Ranked and generated examples never share a batch. A row with more candidates than that has a batch to itself.
    """
    batches: list[list[int]] = []
    width, ranked = 0, None
    for index in sorted(range(len(inputs)), key=lambda index: -len(inputs[index].ids)):
        row = inputs[index]
        full = not batches or len(batches[-1]) >= batch_size or width + row.width > decoder_rows
        if full or ranked != (row.candidates is not None):
            batches.append([])
            width, ranked = 0, row.candidates is not None
        batches[-1].append(index)
        width += row.width
    return batches


def deal(batches: Sequence[list[int]], rank: int, world: int) -> Iterator[tuple[list[int], bool]]:
    """This process's batches, each with whether its answers count.

    Every process gets equally many, since sharded models wait for each other in every forward pass: one that runs out
    repeats the first batch, and its answers do not count.
    """
    for start in range(0, len(batches), world):
        counts = start + rank < len(batches)
        yield batches[start + rank if counts else 0], counts
