"""What decides the tokens of a split, as a hash: its rows, and the tokenizer."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from hashlib import blake2b
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


def digest(*values: Any) -> str:
    """24 hexadecimal digits for plain values."""
    return blake2b(json.dumps(values, sort_keys=True, default=str).encode(), digest_size=12).hexdigest()


def fingerprint_rows(rows: Sequence[Mapping[str, Any]]) -> str:
    """A hash of the rows' content, whatever file or machine they come from."""
    state = blake2b(digest_size=16)
    for part, *_ in getattr(rows, "parts", ((rows,),)):  # of rows from several files
        _add_rows(state, part)
    return state.hexdigest()


def _add_rows(state: blake2b, rows: Sequence[Mapping[str, Any]]) -> None:
    import pyarrow as pa

    if hasattr(rows, "with_format"):  # a datasets.Dataset: hash its columns, without making Python objects
        for table in rows.with_format("arrow").iter(batch_size=_batch_size(rows)):
            sink = pa.BufferOutputStream()
            with pa.ipc.new_stream(sink, table.schema.remove_metadata()) as writer:
                writer.write_table(table.replace_schema_metadata(None).combine_chunks())
            state.update(memoryview(sink.getvalue()))
    else:
        encode = json.JSONEncoder(sort_keys=True, default=_described).encode
        for row in rows:
            state.update(encode(dict(row)).encode() + b"\n")


def _batch_size(rows: Any) -> int:
    """Rows hashed at once: few where they hold images, which may be megabytes each."""
    import datasets

    return 256 if any(isinstance(feature, datasets.Image) for feature in rows.features.values()) else 8192


def _described(value: Any) -> str:
    """Of a PIL image its content: its own description says where in memory it is."""
    if hasattr(value, "tobytes") and hasattr(value, "getpalette"):
        from hyperpelt.vision.images import content_hash

        return content_hash(value)
    return str(value)


def fingerprint_tokenizer(tokenizer: PreTrainedTokenizerBase) -> str:
    """A hash of everything that decides which ids a text gets."""
    languages = (getattr(tokenizer, "src_lang", None), getattr(tokenizer, "target_prefix", None))
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if any(languages):
        content = tokenizer.get_vocab() if backend is None else backend.to_str()
        return digest(type(tokenizer).__name__, content, tokenizer.special_tokens_map, languages)
    if backend is None:
        return digest(type(tokenizer).__name__, tokenizer.get_vocab(), tokenizer.special_tokens_map)
    description = json.loads(backend.to_str())
    # What the last call left behind is no property of the tokenizer.
    kept = {key: value for key, value in description.items() if key not in ("truncation", "padding")}
    return digest(kept, tokenizer.special_tokens_map)
