"""From tasks to batches: tokenised splits, drawn by rate, padded and ready for the model.

    sets = {"glue/rte": TokenizedSet.load_or_build(task, "train", tokenizer, ...)}
    rates = mixing_rates({name: len(tokens) for name, tokens in sets.items()}, "temperature", temperature=10)
    sampler = MixtureSampler(rates, lengths_of(sets), batch_size=32, seed=0)
    rows = MicroBatches(sampler, sets, task_ids={"glue/rte": 0}, pad_token_id=0)
    for micro_batches in batches(rows, start=0, stop=1000): ...

The walls of this room: mixing (rates), sampler (the order of rows), tokenized (tokens on disk) and its parts, streamed
(rows as they are read), making (how tokens come about), fingerprints (what they are made of), choices and candidates
(for losses that compare), batches, rows (the same for anybody's loop), progress (how far long work is).
"""

from __future__ import annotations

from hyperpelt.data.batches import IGNORED, MULTIPLE, Batch, MicroBatches, batches, collate, lengths_of, pad
from hyperpelt.data.candidates import Candidates, Ranking
from hyperpelt.data.choices import Choices
from hyperpelt.data.mixing import RateTree, mixing_rates, rate_trees, rates_table, task_names
from hyperpelt.data.rows import Collator, MixedRows
from hyperpelt.data.sampler import MixtureSampler, RowBatch, slice_batch
from hyperpelt.data.streamed import StreamedSet
from hyperpelt.data.templated import TemplatedSet, tokens_of
from hyperpelt.data.tokenized import TokenizedSet, TokenRow, encode_inputs

__all__ = [
    "IGNORED",
    "MULTIPLE",
    "Batch",
    "Candidates",
    "Choices",
    "Collator",
    "MicroBatches",
    "MixedRows",
    "MixtureSampler",
    "Ranking",
    "RateTree",
    "RowBatch",
    "StreamedSet",
    "TemplatedSet",
    "TokenRow",
    "TokenizedSet",
    "batches",
    "collate",
    "encode_inputs",
    "lengths_of",
    "mixing_rates",
    "pad",
    "rate_trees",
    "rates_table",
    "slice_batch",
    "task_names",
    "tokens_of",
]
