"""One pass over the backbone: the tensors that it takes, made once, and the input that it reads.

Legend: B rows, S source length, S2 with what is put beside it, U distinct tasks.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from itertools import chain

import torch
from jaxtyping import Float, Int, Num
from torch import Tensor, nn

from hyperpelt.attachment.beside import Beside
from hyperpelt.attachment.encoder_input import joined_input
from hyperpelt.attachment.instances import Instances
from hyperpelt.attachment.kept import Kept
from hyperpelt.attachment.passes import Pass, each_row
from hyperpelt.attachment.penalties import Penalties
from hyperpelt.attachment.row_images import RowImages
from hyperpelt.data.host import OnHost, sent
from hyperpelt.errors import UserError, cut
from hyperpelt.model.attached import Attached
from hyperpelt.model.made import Made


class Running(Attached):
    """One pass over the backbone."""

    def check_reached(self) -> None:
        """Run a two-token row and assert that every tuner was reached exactly once.

        Raises:
            UserError: the backbone's attention ignores the registered function (some families do).
        """
        if any(p.is_meta for p in self.backbone.parameters()) or not self.assembly.plan:
            return
        ids, row = torch.ones(1, 2, dtype=torch.long, device=self.device), torch.zeros(1, dtype=torch.long)
        blank = None if self.visual is None else torch.zeros(1, self.visual.cells, self.visual.dim)
        with (
            torch.no_grad(),
            self.evaluating(),
            self.running(row, ids, ids, self._images(blank, None, 1)) as running,
        ):
            running.reached = Counter()
            inputs, mask = self.embedded(running, ids, ids)
            self.backbone(**inputs, attention_mask=mask, decoder_input_ids=ids[:, :1], use_cache=False)
        wanted = {(name, placed.tuner.point) for name, there in self.assembly.plan.items() for placed in there}
        wrong = sorted(name for name, point in wanted if running.reached[name, point] != 1)
        if wrong:
            raise UserError(
                f"{type(self.backbone).__name__} did not reach {len(wrong)} of {len(wanted)} tuned operations exactly "
                f"once, among them {wrong[0]!r}: this model family does not use the attention interface as expected."
            )

    def _task_ids(self, task_ids: Tensor | Sequence[int] | None, num_rows: int, *, also: str = "") -> Tensor:
        """The caller's ids of a batch's tasks, checked; 0 for every row where there is one task and none was given.

        also: what the caller may give instead, for the message.
        """
        if task_ids is not None:
            task_ids = task_ids if isinstance(task_ids, Tensor) else torch.as_tensor(task_ids)
            if task_ids.shape != (num_rows,):
                raise UserError(f"Expected one task id for each of {num_rows} rows, got {list(task_ids.shape)}.")
            # Reading ids back from an accelerator would make it wait in every step.
            if task_ids.device.type == "cpu" and num_rows and not torch.compiler.is_compiling():
                low, high = (int(bound) for bound in task_ids.aminmax())
                if low < 0 or high >= len(self.tasks):
                    raise UserError(f"Expected task ids from 0 to {len(self.tasks) - 1}, got {task_ids.tolist()}.")
            return task_ids
        if len(self.tasks) > 1:
            raise UserError(
                f"Give `task_ids`, `model.task_id(name)` of each row{also}: this model knows {len(self.tasks)} tasks, "
                f"{cut(', '.join(self.tasks))}."
            )
        return torch.zeros(num_rows, dtype=torch.long)

    def _images(
        self, visual: Float[Tensor, "N G Dv"] | None, visual_rows: Int[Tensor, " N"] | OnHost | None, num_rows: int
    ) -> RowImages | None:
        """The images of a batch with the tensors made of them; see `Sight.row_images`."""
        return self.sight.row_images(visual, visual_rows, num_rows, device=self.device, dtype=self.dtype)

    def _head(self) -> nn.Module:
        """The map from the decoder's states to logits."""
        head = self.backbone.get_output_embeddings()
        assert isinstance(head, nn.Module), "every family promised has one"
        return head

    def _asked_at(self, where: Int[Tensor, " n"] | None) -> Int[Tensor, " n"] | None:
        """The positions at which alone the head need be asked; None, all, where a tuner there is made of rows."""
        there = self.assembly.plan.get(self.operations[-1].name, ())
        of_tasks = {key for source in self.sources.of_tasks() for key in source.groups} if there else set()
        return where if all(key in of_tasks for placed in there for key, _ in placed.tensors.values()) else None

    def shift_right(self, labels: Int[Tensor, "B T"]) -> Int[Tensor, "B T"]:
        """Decoder input for teacher forcing: the start token, then the labels without their last."""
        config = self.backbone.config
        start = labels.new_full((labels.shape[0], 1), config.decoder_start_token_id)
        return torch.cat([start, labels[:, :-1].masked_fill(labels[:, :-1] == -100, config.pad_token_id)], dim=1)

    @contextmanager
    def evaluating(self) -> Iterator[None]:
        """Context in which nothing is drawn (dropout, embeddings made of words); the mode comes back afterwards."""
        with self.switch.lock:
            if not any(module.training for module in self.modules()):
                yield
                return
            mode = self.training
            self.eval()
            try:
                yield
            finally:
                self.train(mode)

    def weights_of(self, tasks: Int[Tensor, " U"]) -> dict[str, Num[Tensor, "u n *shape"]]:
        """The tensors of all operations for distinct tasks, by group key, in float32."""
        made: dict[str, Tensor] = {}
        for source in self.sources.of_tasks():
            made |= source(tasks)
        return made

    def _weights(self, tasks: Int[Tensor, " U"], on_host: Int[Tensor, " U"]) -> dict[str, Num[Tensor, "u n *shape"]]:
        """The same, cast to the backbone's dtype; kept while nothing changes, is drawn, or wants a gradient.

        What tells of changes (`Made`) does not tell of all: a fused optimiser changes parameters behind its back. What
        was kept therefore also ends with every pass that wants gradients, and with `train()` and `eval()`.

        - **on_host**: the same tasks, where they can be looked at
        """
        if torch.compiler.is_compiling():
            return self._cast(tasks)
        if torch.is_grad_enabled() or self.training:
            self._made = Made()
            return self._cast(tasks)
        kept = self._made.of(chain(self.sources.parameters(), self.sources.buffers()))
        if kept is None:
            return self._cast(tasks)
        key = (self.dtype, tasks.device, tuple(on_host.tolist()))
        if key not in kept:
            kept[key] = self._cast(tasks)
        return kept[key]

    def _cast(self, tasks: Int[Tensor, " U"]) -> dict[str, Tensor]:
        made: dict[str, Tensor] = {}
        for name, values in self.weights_of(tasks).items():
            # Products may be computed otherwise for what could get a gradient (torch.matmul folds its dimensions then).
            values = values if torch.is_grad_enabled() else values.detach()
            made[name] = values.to(self.dtype) if values.is_floating_point() else values
        return made

    def running(
        self,
        task_ids: Int[Tensor, " B"],
        input_ids: Tensor | None,
        attention_mask: Tensor | None,
        images: RowImages | None = None,
        *,
        made: Mapping[str, Tensor] | None = None,
        penalties: Penalties | None = None,
    ) -> AbstractContextManager[Pass]:
        """Context manager of one pass over the backbone, in this model's mode, for rows of the given tasks and images.

        - **task_ids**: on the host, or an accelerator is asked for its distinct ones, and waited for
        - **made**: the tensors of another pass over the same distinct tasks, which are then not made again
        - **penalties**: where what the tuners add to the loss is noted

        Raises:
            UserError: the model is detached, so that the backbone would answer alone.
        """
        if not self.attached:
            raise UserError("This model was detached, so its backbone would answer without it: call `attach()` first.")
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
        made = self._weights(distinct, known) if made is None else made
        single = distinct.shape[0] == 1
        running = Pass(
            plan=self.assembly.plan,
            made=made,
            each={name: values.unbind(1) for name, values in made.items()},
            by_row={} if single else each_row(made, rows),
            rows=None if single else rows,
            kept=Kept(),
            mask=None if attention_mask is None else attention_mask.bool(),
            special=self._special(input_ids, attention_mask),
            images=images,
            training=self.training,
            penalties=penalties,
            instances=self._instances(),
            beside=None if self.sources.side_network is None else Beside(self.sources.side_network),
        )
        return self.switch.run(running)

    def _instances(self) -> Instances | None:
        """What makes tensors of single rows in a pass; None if nothing does."""
        of_states = self._made_of_rows if self.sources.of_rows() else None
        of_input = self._made_of_input if self.sources.of_inputs() else None
        return Instances(of_states, of_input) if of_states or of_input else None

    def _made_of_rows(self, states: Tensor, mask: Tensor | None) -> dict[str, Sequence[Tensor]]:
        """The tensors that are made of what the encoder wrote for each row, one tensor an operation."""
        made: dict[str, Tensor] = {}
        for source in self.sources.of_rows():
            made |= source(states, None if mask is None else mask.bool())
        return {name: values.to(self.dtype).unbind(1) for name, values in made.items()}

    def _made_of_input(self, operation: str, mean: Float[Tensor, "B 1 d"]) -> dict[str, Tensor]:
        """The tensors of one operation that are made of what it reads of each row."""
        made: dict[str, Tensor] = {}
        for source in self.sources.of_inputs():
            if any(op.name == operation for group in source.groups.values() for op in group.operations):
                made |= source.at(operation, mean)
        return {name: values.to(self.dtype) for name, values in made.items()}

    def noting_penalties(self, num_rows: int) -> Penalties | None:
        """Where the penalties of a batch are noted: in training, where the method has any."""
        return Penalties(num_rows) if self.training and self.penalties else None

    @property
    def looks_back(self) -> bool:
        """Whether a tuner in the decoder, or a side network, looks at earlier positions."""
        if self.sources.side_network is not None:
            return True
        there = (self.assembly.plan[op.name] for op in self.assembly.operations if op.stack == "decoder")
        return any(placed.tuner.looks_back for each in there for placed in each)

    @property
    def penalties(self) -> tuple[str, ...]:
        """Names of what the method's tuners add to the loss."""
        placed = (placed for there in self.assembly.plan.values() for placed in there)
        return tuple(sorted({name for each in placed for name in each.tuner.penalties}))

    def _special(self, input_ids: Tensor | None, mask: Tensor | None) -> dict[str, Tensor]:
        points = {placed.tuner.point for there in self.assembly.plan.values() for placed in there}
        if "input" not in points or input_ids is None:
            return {}
        ids = sent(self.special_ids, input_ids.device)
        found = (input_ids.unsqueeze(-1) == ids).any(-1)  # `isin` sorts, and waits for what it finds
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
    ) -> tuple[dict[str, Tensor], Int[Tensor, "B S2"]]:
        """The encoder's input and its mask: the ids themselves, or embeddings with prompt rows before them and the
        tokens of images after them."""
        operation = self.operations[0]
        if all(placed.tuner.point != "rows" for placed in running.plan.get(operation.name, ())):
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
