"""One pass over the backbone: the tensors that it takes, made once, and the input that it reads.

Legend: B rows, S source length, U distinct tasks.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from hyperpelt.attachment.encoder_input import joined_input
from hyperpelt.attachment.passes import Pass
from hyperpelt.attachment.row_images import RowImages
from hyperpelt.errors import UserError

MADE_KEPT = 64


class Running:
    """Mixin of `TunedModel`: `weights_of`, `evaluating`, `running`, `embedded`."""

    @contextmanager
    def evaluating(self) -> Iterator[None]:
        """Context in which nothing is drawn (dropout, embeddings made of words); the mode comes back afterwards."""
        mode = self.training
        self.eval()
        try:
            yield
        finally:
            self.train(mode)

    def weights_of(self, tasks: Int[Tensor, " U"]) -> dict[str, Float[Tensor, "u n *shape"]]:
        """The tensors of all operations for distinct tasks, by group key, in float32."""
        made: dict[str, Tensor] = {}
        for source in self._sources_of(visual=False):
            made |= source(tasks)
        return made

    def _weights(self, tasks: Int[Tensor, " U"], on_host: Int[Tensor, " U"]) -> dict[str, Sequence[Tensor]]:
        """The same, cast to the backbone's dtype, one tensor an operation; kept while nothing changes and no gradient
        is wanted.

        Version counters alone do not tell: a fused optimiser changes parameters behind their back. What was kept
        therefore also ends with every pass that wants gradients, and with `train()`.

        - **on_host**: the same tasks, where they can be looked at
        """
        keep = not torch.is_grad_enabled() and not torch.compiler.is_compiling()
        if torch.is_grad_enabled() and not torch.compiler.is_compiling():
            self._made = {}
        if keep:
            versions = sum(p._version for p in self.sources.parameters())
            key = (versions, self.dtype, tasks.device, tuple(on_host.tolist()))
            if key in self._made:
                return self._made[key]
        made = {name: values.to(self.dtype).unbind(1) for name, values in self.weights_of(tasks).items()}
        if keep:
            self._made = {k: v for k, v in list(self._made.items())[-MADE_KEPT:] if k[0] == versions}
            self._made[key] = made
        return made

    def running(
        self,
        task_ids: Int[Tensor, " B"],
        input_ids: Tensor | None,
        attention_mask: Tensor | None,
        images: RowImages | None = None,
        *,
        made: Mapping[str, Sequence[Tensor]] | None = None,
    ) -> Any:
        """Context manager of one pass over the backbone, in this model's mode, for rows of the given tasks and images.

        - **task_ids**: on the host, or an accelerator is asked for its distinct ones, and waited for
        - **made**: the tensors of another pass over the same distinct tasks, which are then not made again

        Raises:
            UserError: the model is detached, so that the backbone would answer alone.
        """
        if not self.attached:
            raise UserError("This model was detached, so its backbone would answer without it: call `attach()` first.")
        if self.backbone.training != self.training:  # another model on the same backbone left it in its own mode
            self.backbone.train(self.training)
        if torch.compiler.is_compiling():
            # Shapes may not depend on data: make all tasks if they are few, else one set a row.
            task_ids = task_ids.to(self.device, non_blocking=True)
            few = len(self.tasks) <= task_ids.shape[0]
            distinct = torch.arange(len(self.tasks), device=task_ids.device) if few else task_ids
            rows = task_ids if few else torch.arange(task_ids.shape[0], device=task_ids.device)
            known = distinct
        else:
            known, rows = torch.unique(task_ids, return_inverse=True)  # on the host nothing is waited for
            distinct, rows = (values.to(self.device, non_blocking=True) for values in (known, rows))
        made = Pass(
            plan=self.assembly.plan,
            made=self._weights(distinct, known) if made is None else made,
            rows=None if distinct.shape[0] == 1 else rows,
            mask=None if attention_mask is None else attention_mask.bool(),
            special=self._special(input_ids, attention_mask),
            images=images,
        )
        return self.switch.run(made)

    def _special(self, input_ids: Tensor | None, mask: Tensor | None) -> dict[str, Tensor]:
        points = {placed.tuner.point for there in self.assembly.plan.values() for placed in there}
        if "input" not in points or input_ids is None:
            return {}
        ids = torch.tensor(self.special_ids, device=input_ids.device)
        found = torch.isin(input_ids, ids)
        found = found if mask is None else found & mask.bool()
        return {"encoder": found.cumsum(1) * found}

    @property
    def special_ids(self) -> list[int]:
        """Ids of the special tokens, padding excepted: the tokenizer's, or those the backbone's configuration names."""
        config = self.backbone.config
        named = [getattr(config, f"{kind}_token_id", None) for kind in ("bos", "eos", "decoder_start")]
        ids = self.tokenizer.all_special_ids if self.tokenizer is not None else [i for i in named if i is not None]
        return sorted({i for i in ids if i != config.pad_token_id})

    def embedded(
        self, running: Pass, input_ids: Int[Tensor, "B S"], attention_mask: Int[Tensor, "B S"]
    ) -> tuple[dict[str, Tensor], Int[Tensor, "B S"]]:
        """The encoder's input and its mask: the ids themselves, or embeddings with prompt rows before them and the
        tokens of images after them."""
        operation = self.operations[0]
        if not running.has(operation):
            return {"input_ids": input_ids}, attention_mask
        embedded = self.backbone.get_submodule(operation.path)(input_ids)
        if operation.scale != 1.0:  # the stack itself does so for ids alone
            embedded = embedded * operation.scale
        joined = joined_input(running, operation, embedded, attention_mask)
        if joined is None:
            return {"input_ids": input_ids}, attention_mask
        inputs, mask = joined
        limit = getattr(self.backbone.config, "max_position_embeddings", None)
        if limit is not None and mask.shape[1] > limit:
            raise UserError(
                f"{input_ids.shape[1]} tokens with the {mask.shape[1] - input_ids.shape[1]} rows of prompts and images "
                f"beside them exceed this backbone's {limit} positions: use a shorter prompt or a coarser image grid, "
                "or lower max_source_length."
            )
        return {"inputs_embeds": inputs}, mask
