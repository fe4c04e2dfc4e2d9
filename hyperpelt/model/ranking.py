"""Training by the rule that a model is judged by: cross-entropy over the scores of a row's choices.

    s(y) = log p(y | x) under the run's length rule (`hyperpelt.model.scoring`)
    L    = -log softmax(s)[right]                  a row with choices
    L    = -log p(y | x) / number of y's tokens    a row with an open answer

The likelihood of the right choice alone (`lm`) also pays for knowing which words are answers at all, which a short run
on a frozen backbone spends most of its steps on; here only what parts the choices counts.

The encoder runs once a row, and the decoder once for all candidates of a row that begin alike
(`hyperpelt.data.candidates`).

Legend: B rows, S source length, C candidates, Q sequences that the decoder reads, p places, V vocabulary.
"""

from __future__ import annotations

import torch
from jaxtyping import Float, Int
from torch import Tensor
from transformers.modeling_outputs import BaseModelOutput

from hyperpelt.attachment.penalties import Penalties
from hyperpelt.attachment.row_images import RowImages
from hyperpelt.data.candidates import Candidates
from hyperpelt.data.host import unwrapped
from hyperpelt.model.outputs import TunedOutput, read_only_at
from hyperpelt.model.running import Running


def ranked(
    model: Running,
    input_ids: Int[Tensor, "B S"],
    attention_mask: Int[Tensor, "B S"],
    task_ids: Int[Tensor, " B"],
    candidates: Candidates,
    images: RowImages | None,
    row_weights: Float[Tensor, " B"] | None,
) -> TunedOutput:
    """How each row ranks its candidates: `row_loss`, and `loss`, its mean over rows."""
    noted = model.noting_penalties(len(input_ids))
    scores = _candidate_scores(model, input_ids, attention_mask, task_ids, candidates, images, noted)
    row_loss = model.sight.tied(ranking_loss(scores, candidates), images)
    if row_weights is not None:
        row_loss = row_loss * row_weights
    ones = torch.ones_like(row_loss, dtype=torch.long)
    loss, added = row_loss.mean(), None
    if noted is not None:
        added = noted.rows()
        loss = loss + sum(each.mean() for each in added.values())
    return TunedOutput(logits=None, loss=loss, row_loss=row_loss, row_tokens=ones, row_penalties=added)


def _candidate_scores(
    model: Running,
    input_ids: Int[Tensor, "B S"],
    attention_mask: Int[Tensor, "B S"],
    task_ids: Int[Tensor, " B"],
    candidates: Candidates,
    images: RowImages | None,
    noted: Penalties | None = None,
) -> Float[Tensor, " C"]:
    """The score of every candidate, in nats, float32. **noted**: where the penalties of both passes go."""
    with model.running(task_ids, input_ids, attention_mask, images, penalties=noted) as running:
        inputs, mask = model.embedded(running, input_ids, attention_mask)
        states = model.backbone.get_encoder()(**inputs, attention_mask=mask).last_hidden_state
    # Every row has a sequence, so both passes are over the same distinct tasks: their tensors are made once.
    compiling = torch.compiler.is_compiling()  # then shapes are fixed, and no hook comes or goes
    made = None if compiling else running.made
    asked = unwrapped(candidates.sequence_rows)
    images = None if images is None else images[asked]
    which, task_ids = asked.to(states.device, non_blocking=True), task_ids[asked.to(task_ids.device)]
    states, mask = states.index_select(0, which), mask.index_select(0, which)
    head, places = model._head(), candidates.places
    only = None if compiling else model._asked_at(places)
    if noted is not None:
        read = torch.zeros_like(candidates.decoder_input_ids, dtype=torch.bool).flatten()
        noted = noted.over(read.index_fill(0, places, True).view_as(candidates.decoder_input_ids), which)
    run = model.running(task_ids, None, mask, images, made=made, penalties=noted)
    with run as running, read_only_at(head, only, running):
        logits = model.backbone(
            encoder_outputs=BaseModelOutput(last_hidden_state=states),
            attention_mask=mask,
            decoder_input_ids=candidates.decoder_input_ids,
            use_cache=False,
        ).logits.float()
    logits = logits.flatten(0, 1).index_select(0, places) if only is None else logits
    at = candidates.at
    log_probs = logits[at, candidates.tokens] - logits.logsumexp(-1).index_select(0, at)
    totals = torch.zeros_like(candidates.lengths).index_add(0, candidates.owners, log_probs)
    return totals / candidates.lengths


def ranking_loss(scores: Float[Tensor, " C"], candidates: Candidates) -> Float[Tensor, " B"]:
    """L of every row from its candidates' scores."""
    own = scores.index_select(0, candidates.right)
    total = log_partition(scores, candidates.rows, len(own))
    return torch.where(candidates.open, -own, total - own)


def log_partition(scores: Float[Tensor, " C"], rows: Int[Tensor, " C"], num_rows: int) -> Float[Tensor, " B"]:
    """log of the sum of exp(score) over each row's candidates."""
    # A constant a row keeps exp() in range; it cancels.
    highest = scores.new_full((num_rows,), -torch.inf).scatter_reduce(0, rows, scores.detach(), "amax")
    total = scores.new_zeros(num_rows).index_add(0, rows, (scores - highest[rows]).exp())
    return highest + total.log()
