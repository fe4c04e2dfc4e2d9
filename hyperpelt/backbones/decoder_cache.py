"""What transformers calls a decoder's kept keys and values: `cache` from 5.24 on, before that `past_key_values`."""

from __future__ import annotations

from dataclasses import fields
from typing import Any

from transformers.modeling_outputs import Seq2SeqModelOutput

CACHE = "cache" if "cache" in {field.name for field in fields(Seq2SeqModelOutput)} else "past_key_values"


def cache_of(output: Any) -> Any:
    """What a model's output holds of it; None without one."""
    return getattr(output, CACHE)
