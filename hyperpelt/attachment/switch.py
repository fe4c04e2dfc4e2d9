"""How tuners are attached to a frozen backbone: its attention interface and hooks, no forked model code.

One `Switch` per backbone holds the pass that is running, if any. Hooks and the attention function stay on the modules
as long as some tuned model is attached, ask the switch, and do nothing when no pass is running: several tuned models
may share a backbone in turn, and the bare backbone computes what it always did. Passes of several threads wait for each
other.

- Prefixes join keys and values inside the registered attention function, *after* the cache update: they reach encoder
  self-, decoder self- and cross-attention, leave positions and caches alone, and survive beams.
- Everything else goes through hooks (`hyperpelt.attachment.hooks`).
- Activation checkpointing recomputes a layer during backward, when the pass is over. `checkpointing` therefore wraps
  the checkpoint function so that the recomputation runs under the pass of its own forward.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Sequence
from threading import RLock
from typing import Any
from weakref import WeakKeyDictionary, ref

import torch
from torch import nn
from torch.utils.checkpoint import checkpoint
from transformers import PreTrainedModel

from hyperpelt.attachment.beside import install_beside
from hyperpelt.attachment.hooks import install, see_states
from hyperpelt.attachment.joined_attention import ATTENTION_NAME
from hyperpelt.attachment.passes import Pass
from hyperpelt.attachment.recomputation import Marks, start_recomputing, stop_recomputing
from hyperpelt.operations import ATTENTIONS, Operation

SDPA = "sdpa"


class Switch:
    """What is attached to one backbone, and the pass that is running on it."""

    def __init__(self, backbone: PreTrainedModel) -> None:
        # Held weakly: the table of switches must not keep alive a backbone that nobody uses any more.
        self._backbone = ref(backbone)
        self.running: Pass | None = None
        self.users: Counter[str] = Counter()
        self.handles: dict[str, list[Any]] = {}
        self.previous_attention: str | None = None
        self.models = 0
        self.lookers = 0
        self.looker: Any = None
        self.besides = 0
        self.beside_handles: list[Any] = []
        self.recomputing: Marks | None = None
        self.required_grad: dict[str, bool] = {}
        self.lock = RLock()

    def __deepcopy__(self, _memo: dict[int, Any]) -> Switch:
        """Itself: a copy of a backbone's modules has no pass of its own."""
        return self

    @property
    def backbone(self) -> PreTrainedModel:
        """What it is the switch of."""
        backbone = self._backbone()
        assert backbone is not None, "a switch never outlives its backbone"
        return backbone

    def run(self, running: Pass) -> _Running:
        """Context in which `running` is the pass of this backbone."""
        return _Running(self, running)

    def attach(
        self,
        operations: Sequence[Operation],
        trained: Collection[str] = (),
        *,
        looking: bool = False,
        beside: Sequence[Operation] = (),
    ) -> None:
        """Freeze the backbone but for `trained`, and install what these operations need, once for all tuned models.

        - **looking**: the pass shall see the encoder's states before the decoder reads them
        - **beside**: the blocks of the backbone, where a side network shall run beside them
        """
        self.models += 1
        self.besides += bool(beside)
        if beside and not self.beside_handles:
            self.beside_handles = install_beside(self, beside)
        self.lookers += looking
        if looking and self.looker is None:
            decoder = self.backbone.get_decoder()
            self.looker = decoder.register_forward_pre_hook(see_states(self), with_kwargs=True)
        if self.models == 1:
            self.required_grad = {name: p.requires_grad for name, p in self.backbone.named_parameters()}
            for name, parameter in self.backbone.named_parameters():
                parameter.requires_grad_(name in trained)
        for operation in operations:
            self.users[operation.name] += 1
            if self.users[operation.name] == 1:
                self.handles[operation.name] = list(install(self, operation))
        current = self.backbone.config._attn_implementation
        # Ours is SDPA where nothing joins, with a mask that is made without a look at the data.
        if self.previous_attention is None and (current == SDPA or any(op.kind in ATTENTIONS for op in operations)):
            self.previous_attention = current
            self.backbone.set_attn_implementation(ATTENTION_NAME)

    def detach(self, operations: Sequence[Operation], *, looking: bool = False, beside: bool = False) -> None:
        """Undo `attach`; after the last user the backbone is exactly what it was."""
        if self._backbone() is None:  # both went in one collection
            return
        self.besides -= beside
        while self.beside_handles and not self.besides:
            self.beside_handles.pop().remove()
        self.lookers -= looking
        if self.looker is not None and not self.lookers:
            self.looker.remove()
            self.looker = None
        for operation in operations:
            self.users[operation.name] -= 1
            if self.users[operation.name] == 0:
                del self.users[operation.name]
                for handle in self.handles.pop(operation.name):
                    handle.remove()
        self.models -= 1
        wanted = self.previous_attention == SDPA or any(_is_attention(name) for name in self.users)
        if self.previous_attention is not None and not (wanted and self.models):
            self.backbone.set_attn_implementation(self.previous_attention)
            self.previous_attention = None
        if self.models == 0:
            for name, parameter in self.backbone.named_parameters():
                # What was untied since is new; what was made in inference mode can want no gradient.
                if name in self.required_grad and not parameter.is_inference():
                    parameter.requires_grad_(self.required_grad[name])
            self.recompute(False)

    def recompute(self, enable: bool) -> None:
        """Activation checkpointing on or off; a detached backbone is never left with it."""
        if enable and self.recomputing is None:
            self.recomputing = start_recomputing(self.backbone, self.checkpointing)
        elif not enable and self.recomputing is not None:
            stop_recomputing(self.backbone, self.recomputing)
            self.recomputing = None

    def checkpointing(self, function: Callable[..., Any], *args: Any) -> Any:
        """`torch.utils.checkpoint` for a layer, whose recomputation runs under the pass of this forward."""
        running = self.running
        if torch.compiler.is_compiling():  # the graph itself says what is computed again; nothing here runs twice
            return checkpoint(function, *args, use_reentrant=False)

        def under_its_pass(*inner: Any) -> Any:
            if running is None:
                return function(*inner)
            with self.run(running):
                return function(*inner)

        return checkpoint(under_its_pass, *args, use_reentrant=False)


def _is_attention(name: str) -> bool:
    return name.rsplit(".", 1)[-1] in ATTENTIONS


class _Running:
    """A pass runs alone, and in the mode that it was made for: the backbone's is that of whoever used it last."""

    def __init__(self, switch: Switch, running: Pass) -> None:
        self.switch, self.running = switch, running
        self.outer: Pass | None = None

    def __enter__(self) -> Pass:
        if not torch.compiler.is_compiling():
            self.switch.lock.acquire()
        self.outer, self.switch.running = self.switch.running, self.running
        backbone = self.switch.backbone
        if backbone.training != self.running.training:
            backbone.train(self.running.training)
        return self.running

    def __exit__(self, *_: object) -> None:
        self.switch.running = self.outer
        if not torch.compiler.is_compiling():
            self.switch.lock.release()


_SWITCHES: WeakKeyDictionary[nn.Module, Switch] = WeakKeyDictionary()


def switch_of(backbone: PreTrainedModel) -> Switch:
    """The one switch of this backbone object."""
    if backbone not in _SWITCHES:
        _SWITCHES[backbone] = Switch(backbone)
    return _SWITCHES[backbone]
