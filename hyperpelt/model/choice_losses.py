"""T-Few's two losses over a row's choices (Liu et al. 2022, arXiv 2205.05638, eqs. 1 and 2), beside the usual one.

    beta(y) = mean log p of y's tokens, EOS included
    L_LN    = -log softmax(beta)[right]           over the row's choices, a row
    L_UL    = -log(1 - p + 0.01)                  a token of a wrong choice

T-Few's loss is L_LM + L_UL + L_LN, each a mean: over target tokens, over tokens of wrong choices, over rows. 0.01 keeps
the logarithm finite, as in the authors' code. A row without choices, or with the right one alone, has neither.

Legend: B rows, W wrong choices (each belongs to a row), S source length, T target length, V vocabulary, d model width.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor
from transformers.modeling_outputs import BaseModelOutput

from hyperpelt.attachment.row_images import RowImages
from hyperpelt.data.host import OnHost, Targets, unwrapped
from hyperpelt.model.outputs import TunedOutput, read_only_at, target_positions, token_losses
from hyperpelt.model.ranking import log_partition
from hyperpelt.model.running import Running

EPSILON = 1e-2


class WrongChoices(NamedTuple):
    """The wrong choices of a batch: target ids (-100 where there is none), and the row that each belongs to.

    - **rows_on_host**, **targets**: the rows, and where the labels hold a target, for whoever knows them on the host
    """

    labels: Int[Tensor, "W T"]
    rows: Int[Tensor, " W"]
    rows_on_host: OnHost | None = None
    targets: Targets | None = None


def choice_losses(
    model: Running,
    right: Float[Tensor, "B T"],
    labels: Int[Tensor, "B T"],
    wrong: WrongChoices,
    states: Float[Tensor, "B S d"],
    mask: Int[Tensor, "B S"],
    task_ids: Int[Tensor, " B"],
    *,
    made: Mapping[str, Tensor] | None = None,
    images: RowImages | None = None,
) -> tuple[Float[Tensor, " B"], Float[Tensor, " B"]]:
    """(L_LN, sum of L_UL's tokens) of every row, float32.

    - **right**: log p of the labels' tokens; **states**, **mask**: the encoder's, which has run already; **made**: the
      tensors of that pass
    """
    if not len(wrong.rows):
        return torch.zeros_like(right[:, 0]), torch.zeros_like(right[:, 0])
    rows = wrong.rows
    asked = unwrapped(wrong.rows_on_host or rows)
    images = None if images is None else images[asked]
    states, mask = states.index_select(0, rows), mask.index_select(0, rows)
    where = model._asked_at(target_positions(wrong.labels, wrong.targets))
    head = model._head()
    own = task_ids[asked.to(task_ids.device)]
    run = model.running(own, None, mask, images, made=made and _of_tasks(made, task_ids, own))
    with run as running, read_only_at(head, where, running):
        output = model.backbone(
            encoder_outputs=BaseModelOutput(last_hidden_state=states),
            attention_mask=mask,
            decoder_input_ids=model.shift_right(wrong.labels),
            use_cache=False,
        )
    log_probs = -token_losses(output.logits, wrong.labels, where=where)
    return length_normalised(right, labels, log_probs, wrong), unlikelihood(log_probs, wrong, labels.shape[0])


def _of_tasks(
    made: Mapping[str, Tensor], every: Int[Tensor, " B"], own: Int[Tensor, " W"]
) -> Mapping[str, Tensor] | None:
    """Of the tensors made for the distinct tasks of `every` those of `own`: what is drawn in making them is drawn once,
    so that a row's choices are compared under the same weights."""
    if torch.compiler.is_compiling():  # then shapes are fixed, and the distinct tasks are not sought
        return None
    tasks, wanted = torch.unique(every), torch.unique(own)
    if len(tasks) == len(wanted):
        return made
    places = torch.searchsorted(tasks, wanted)
    return {
        name: values if len(values) == 1 else values.index_select(0, places.to(values.device, non_blocking=True))
        for name, values in made.items()
    }


def with_choices(
    output: TunedOutput,
    terms: tuple[Float[Tensor, " B"], Float[Tensor, " B"]],
    row_weights: Float[Tensor, " B"] | None,
    wrong: WrongChoices,
) -> TunedOutput:
    """The output with both terms, which then count in its loss."""
    normalised, unlikely = terms if row_weights is None else (term * row_weights for term in terms)
    output.row_length_normalised, output.row_unlikelihood = normalised, unlikely
    num_tokens = (wrong.labels != -100).sum().clamp(min=1)
    assert output.loss is not None, "choices are of a batch with labels"
    output.loss = output.loss + normalised.mean() + unlikely.sum() / num_tokens
    return output


def length_normalised(
    right: Float[Tensor, "B T"],
    labels: Int[Tensor, "B T"],
    log_probs: Float[Tensor, "W T2"],
    wrong: WrongChoices,
) -> Float[Tensor, " B"]:
    """L_LN of every row from the log-probabilities of its right choice's tokens and of its wrong ones'."""
    own = _mean(right, labels)
    beta = torch.cat([own, _mean(log_probs, wrong.labels)])
    rows = torch.cat([torch.arange(len(own), device=own.device), wrong.rows])
    return log_partition(beta, rows, len(own)) - own


def unlikelihood(log_probs: Float[Tensor, "W T"], wrong: WrongChoices, num_rows: int) -> Float[Tensor, " B"]:
    """The sum over each row's wrong tokens of L_UL."""
    tokens = -torch.log1p(EPSILON - log_probs.exp()).masked_fill(wrong.labels == -100, 0.0).sum(dim=1)
    return torch.zeros(num_rows, device=log_probs.device).index_add(0, wrong.rows, tokens)


def _mean(log_probs: Float[Tensor, "N T"], labels: Int[Tensor, "N T"]) -> Float[Tensor, " N"]:
    return log_probs.sum(dim=1) / (labels != -100).sum(dim=1).clamp(min=1)
