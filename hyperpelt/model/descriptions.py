"""What the frozen encoder reads of a task: one vector of its instruction, and one of each of a few rendered inputs.

    vectors = read_tasks(model.backbone, model.tokenizer, tasks, max_source_length=128)
    vectors["glue/rte"]                    # [1 + NUM_INPUTS, d]: mean-pooled states of the encoder's last layer
    tell_tasks(model, tasks)               # read and given to the model's hypernetworks

Labels are not read. The inputs are a fixed random sample of the task's training split, so that a task has the same
vectors wherever they are made.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import Float
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from hyperpelt.data import encode_inputs, pad
from hyperpelt.errors import UserError
from hyperpelt.tasks import Task
from hyperpelt.weights.description import NUM_INPUTS

if TYPE_CHECKING:
    from hyperpelt.model.growth import Growth


def read_tasks(
    backbone: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    tasks: Iterable[Task],
    *,
    max_source_length: int = 128,
    data_root: str | Path | None = None,
    inputs: bool = True,
) -> dict[str, Float[Tensor, "K d"]]:
    """Task name -> its vectors, float32 on the CPU: the instruction first, then NUM_INPUTS inputs.

    A task with fewer rows has them repeated. inputs: False: zeros in their place, no row is read. Raises UserError for
    a task without a description or training rows.
    """
    found = {}
    for task in tasks:
        if not task.description:
            raise UserError(
                f"Task {task.name} has no description, from which its weights would be computed: give it one sentence."
            )
        if not inputs:
            (instruction,) = read_texts(backbone, tokenizer, [task.description], max_source_length)
            found[task.name] = torch.cat([instruction[None], instruction.new_zeros(NUM_INPUTS, len(instruction))])
            continue
        texts = [example.input for example in task.examples("train", data_root=data_root, limit=NUM_INPUTS)]
        if not texts:
            raise UserError(f"{task.name}: its split 'train' has no rows to read.")
        repeated = [texts[index % len(texts)] for index in range(NUM_INPUTS)]
        found[task.name] = read_texts(backbone, tokenizer, [task.description, *repeated], max_source_length)
    return found


def tell_tasks(model: Growth, tasks: Iterable[Task], **reading: Any) -> None:
    """Read what a model's hypernetworks want to know of tasks, and give it to them. reading: as `read_tasks` takes it.

    Raises UserError as `read_tasks`, and for a model without a tokenizer.
    """
    networks = model.described()
    if networks and model.tokenizer is None:
        raise UserError("This model has no tokenizer, with which descriptions of tasks are read: give one to `build`.")
    if networks and model.tokenizer is not None:
        inputs = not all(network.words.alone for network in networks)
        model.tell(read_tasks(model.backbone, model.tokenizer, tasks, inputs=inputs, **reading))


@torch.no_grad()
def read_texts(
    backbone: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, texts: Sequence[str], max_source_length: int
) -> Float[Tensor, "K d"]:
    """The bare encoder's mean state of each text, over its real positions."""
    ids, _ = encode_inputs(tokenizer, texts, max_source_length)
    batch = pad(ids, tokenizer.pad_token_id).to(backbone.device)
    lengths = torch.tensor([len(row) for row in ids], device=backbone.device)
    mask = torch.arange(batch.shape[1], device=backbone.device) < lengths[:, None]
    mode = backbone.training
    backbone.eval()
    states = backbone.get_encoder()(input_ids=batch, attention_mask=mask.long()).last_hidden_state.float()
    backbone.train(mode)
    return ((states * mask.unsqueeze(-1)).sum(dim=1) / lengths.unsqueeze(-1)).cpu()
