"""Whether a backbone's words are read and written by the same weight."""

from __future__ import annotations

from typing import Any


def is_tied(backbone: Any) -> bool:
    """Whether the map to the vocabulary has the embedding's weight: transformers decides it by what a checkpoint holds,
    whatever the configuration says (T5 v1.1)."""
    head = backbone.get_output_embeddings()
    return head is not None and head.weight is backbone.get_input_embeddings().weight
