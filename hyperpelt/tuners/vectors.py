"""Tuners made of vectors: soft prompts before the embedded input, and vectors at special tokens.

- **Prompt tuning** (Lester et al. 2021, arXiv 2104.08691, section 2): N trained rows before the encoder's embedded
  input; the attention mask grows by N ones. They start as rows of the embedding table, the paper's by default as those
  of the task's choices. T5-base, N=100: 76,800 parameters. Reference: peft.
- **PASTA** (Yang et al. 2022, 2210.04382): h_t <- h_t + e[l, i] before layer l, where t is the i-th special token of
  its row. T5-base encoder, m=2: 18,432 parameters. Starts at zero here, so that it starts as the backbone (the
  authors' start at random, with dropout). Reference: float64 transcription.
- **Token rows** (Yang et al. 2022, "Unfreeze with care", 2203.02652): rows of the embedding table for named tokens, as
  shifts of the table's own, where they are read and where they are written: with tied embeddings the same rows serve
  both stacks and the map to the vocabulary; with untied ones that map has rows of its own. They start at zero.
  m d values (tied). Reference: peft's TrainableTokens.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import ClassVar

import torch
from jaxtyping import Float
from torch import Tensor

from hyperpelt.data.host import sent
from hyperpelt.errors import UserError
from hyperpelt.operations import Operation
from hyperpelt.tuners.base import ZEROS, Init, Site, Tensors, TensorSpec, Tuner, row_linear, tuner_type


@tuner_type
@dataclass(frozen=True, kw_only=True)
class Prompt(Tuner):
    """Rows before the encoder's embedded input. **length** N; they start as rows of the embedding table."""

    type_name: ClassVar[str] = "prompt"
    point: ClassVar[str] = "rows"
    length: int = 100

    def __post_init__(self) -> None:
        if self.length < 0:
            raise UserError(f"A prompt's length must not be negative, got {self.length}.")

    def tensors(self, operation: Operation) -> dict[str, TensorSpec]:
        if operation.name != "encoder.embedding":
            raise self.refuse(operation, "the encoder's embedded input ('encoder.embedding')")
        if self.length == 0:
            return {}
        return {"rows": TensorSpec((self.length, operation.d_out), Init("embeddings"), row_wise=True)}

    def __call__(self, site: Site, tensors: Tensors) -> Float[Tensor, "b N d"]:
        return tensors["rows"]


@tuner_type
@dataclass(frozen=True, kw_only=True)
class SpecialTokens(Tuner):
    """PASTA: a vector for each of the first **num_tokens** special tokens of a row, added to a block's input."""

    type_name: ClassVar[str] = "special_tokens"
    point: ClassVar[str] = "input"
    num_tokens: int = 2

    def __post_init__(self) -> None:
        if self.num_tokens < 1:
            raise UserError(f"PASTA needs at least one special token, got num_tokens={self.num_tokens}.")

    def tensors(self, operation: Operation) -> dict[str, TensorSpec]:
        # In a decoder a token's ordinal would depend on tokens that cached decoding no longer shows.
        if operation.kind != "block" or operation.stack != "encoder":
            raise self.refuse(operation, "an encoder block")
        return {"vectors": TensorSpec((self.num_tokens, operation.d_in), ZEROS)}

    def __call__(self, site: Site, tensors: Tensors) -> Float[Tensor, "B S d"]:
        assert site.special is not None, "the pass must say where special tokens stand"
        vectors = tensors["vectors"]
        ordinary = vectors.new_zeros(vectors.shape[0], 1, vectors.shape[2])
        table = torch.cat([ordinary, vectors], dim=1)
        # A row with more special tokens than vectors leaves the surplus untouched.
        ordinal = torch.where(site.special <= self.num_tokens, site.special, 0)
        table = table.expand(ordinal.shape[0], -1, -1)
        return table.gather(1, ordinal.unsqueeze(-1).expand(-1, -1, table.shape[-1]))


@tuner_type
@dataclass(frozen=True, kw_only=True)
class TokenRows(Tuner):
    """Rows of the embedding table. **tokens**: their names; one that the tokenizer lacks is added to it, and to the
    table. **ids**: instead of names; else the names' own, found when a model is built.
    """

    type_name: ClassVar[str] = "token_rows"
    tokens: tuple[str, ...] = ()
    ids: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        for what, given in (("token", self.tokens), ("id", self.ids)):
            if len(set(given)) != len(given):
                raise UserError(f"Rows of the embedding table are named once each, got one {what} twice: {given}.")
        if self.tokens and self.ids and len(self.tokens) != len(self.ids):
            raise UserError(f"Got {len(self.tokens)} tokens with {len(self.ids)} ids: leave the ids out.")

    @property
    def named_tokens(self) -> tuple[str, ...]:
        return self.tokens

    def with_token_ids(self, ids: Sequence[int]) -> TokenRows:
        return replace(self, ids=tuple(ids))

    def tensors(self, operation: Operation) -> dict[str, TensorSpec]:
        if operation.kind not in ("embedding", "head"):
            raise self.refuse(operation, "embeddings and the head ('embedding', 'head')")
        own = operation.kind == "head" and not operation.tied
        shape = (len(self.ids or self.tokens), operation.d_in)
        return {"head_rows" if own else "rows": TensorSpec(shape, ZEROS, owner="part")} if shape[0] else {}

    def __call__(self, site: Site, tensors: Tensors) -> Float[Tensor, "B S d"]:
        """What is added to the vectors of these tokens; at the head, to their logits."""
        if site.operation.kind == "head":
            assert site.output is not None
            return self._onto(torch.zeros_like(site.output), site, tensors)
        rows, ids = tensors["rows"], site.frozen["ids"]
        chosen = ids.unsqueeze(-1) == sent(self.ids, ids.device)
        return row_linear(chosen.to(rows.dtype), rows) * site.operation.inner_scale

    def whole(self, site: Site, tensors: Tensors) -> Float[Tensor, "B S e"] | None:
        """At the head: logits with what is added to those of these tokens."""
        if site.operation.kind != "head":
            return None
        assert site.output is not None
        return self._onto(site.output, site, tensors)

    def _onto(self, logits: Float[Tensor, "B S e"], site: Site, tensors: Tensors) -> Float[Tensor, "B S e"]:
        rows = tensors["rows" if site.operation.tied else "head_rows"]
        shifts = row_linear(site.input, rows.transpose(1, 2)).to(logits.dtype)
        return logits.index_add(-1, sent(self.ids, shifts.device), shifts)
