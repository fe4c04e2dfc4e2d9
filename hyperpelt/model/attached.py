"""A frozen backbone with a method's tuners attached: what a tuned model holds, and what of it is trained."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar
from weakref import finalize

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from hyperpelt.attachment.calibration import collect_samples
from hyperpelt.attachment.switch import switch_of
from hyperpelt.backbones import check_tokenizer
from hyperpelt.backbones.quantised import packing_of, require_weights
from hyperpelt.config.paths import in_full
from hyperpelt.errors import UserError, unknown
from hyperpelt.methods.assemble import assemble, build_sources, replaced, unfrozen
from hyperpelt.methods.base import Method
from hyperpelt.model.copies import copy_of, with_replacements
from hyperpelt.model.made import Made
from hyperpelt.model.sight import Sight, for_features
from hyperpelt.model.vocabulary import with_tokens
from hyperpelt.operations import list_operations
from hyperpelt.vision.spec import VisualSpec

BACKBONE = "backbone."  # how names of the backbone's tensors begin
Model = TypeVar("Model", bound="Attached")


class Attached(nn.Module):
    """What a tuned model holds; the classes above it add one pass over the backbone, and what people call.

    - **sources**: the weight sources by name; **assembly**: which of their tensors serves which operation
    - **unfrozen**: names of the backbone's parameters that the method trains in a copy of its own; **replaced**: of the
      buffers that stand in the place of others (see `Tuner.replacement`)
    - **task_fingerprints**: of the tasks' definitions, where they are known
    - **folder**: that it was loaded from
    - **languages**: `source_language` and `target_language` of a multilingual backbone, where they were set
    """

    def __init__(
        self,
        backbone: PreTrainedModel,
        method: Method,
        tasks: Sequence[str],
        *,
        tokenizer: PreTrainedTokenizerBase | None = None,
        backbone_name: str = "",
        seed: int = 0,
        calibrate: bool = True,
        visual: VisualSpec | None = None,
        fitted: bool = True,
    ) -> None:
        super().__init__()
        if len(set(tasks)) != len(tasks) or not tasks:
            raise UserError(f"A tuned model needs at least one task and each task once, got {list(tasks)}.")
        given = backbone
        method, backbone, tokenizer = with_tokens(method, backbone, tokenizer)
        self.widened = backbone is not given
        self.operations = list_operations(backbone)
        method = for_features(method, visual, self.operations)
        self.method, self.tasks, self.tokenizer = method, tuple(tasks), tokenizer
        if tokenizer is not None:
            check_tokenizer(tokenizer, backbone, backbone_name)
        self.task_fingerprints: dict[str, str | None] = {}
        self.folder: Path | None = None
        self.languages: dict[str, str | None] = {}
        self.backbone_name = in_full(backbone_name or backbone.name_or_path or "")
        self.assembly = assemble(method, self.operations)
        trained, elsewhere = unfrozen(method, backbone), replaced(method, self.operations)
        if trained or elsewhere:
            require_weights(backbone, f"Method {method.name!r}, which changes the backbone itself,")
        # What is trained or replaced of the backbone lives in a copy: the object that was given stays as it is.
        self.backbone = copy_of(backbone) if trained and not self.widened else backbone
        self.backbone = with_replacements(self.backbone, elsewhere, fitted=fitted, copied=bool(trained) or self.widened)
        self.replaced = frozenset(
            f"{path}.{name}" for path in elsewhere for name, _ in self.backbone.get_submodule(path).named_buffers()
        )
        generator = torch.Generator().manual_seed(seed)
        samples = collect_samples(self.backbone, self.assembly.sampled(), generator) if calibrate else None
        self.seed = seed  # of what was drawn; it gives frozen tensors back
        self.sources = build_sources(
            method, self.assembly, len(tasks),
            samples=samples or None, generator=generator, seed=seed, backbone=self.backbone,
        )  # fmt: skip
        self.sources.to(self.backbone.device)
        self.sight = Sight(method.name, self.sources, visual)
        self.unfrozen = frozenset(trained)
        self.switch = switch_of(self.backbone)
        self._made = Made()
        self.attached = False
        self._leave: Callable[[], object] | None = None
        # `state_dict` leaves out what is frozen, and `load_state_dict` does not miss it.
        self.register_state_dict_post_hook(_without_frozen)
        self.register_load_state_dict_post_hook(_frozen_not_missed)
        self.attach()
        if calibrate:
            self.check_reached()

    @property
    def visual(self) -> VisualSpec | None:
        """The features the model was made for; None if its method reads no images."""
        return self.sight.spec

    @visual.setter
    def visual(self, spec: VisualSpec | None) -> None:
        self.sight.spec = spec

    def check_reached(self) -> None:
        """Assert that every tuner is reached exactly once; see `Running.check_reached`."""
        raise NotImplementedError

    def attach(self) -> None:
        """Put this model's hooks on the backbone. `build` does it; needed only after `detach`."""
        if not self.attached:
            side, looking = self.sources.side_network, bool(self.sources.of_rows())
            operations = self.assembly.operations
            blocks = [operation for operation in self.operations if operation.kind == "block"] if side else []
            self.switch.attach(operations, trained=self.unfrozen, looking=looking, beside=blocks)
            # A model that nobody holds any more leaves its backbone, too.
            leave = finalize(self, self.switch.detach, operations, looking=looking, beside=side is not None)
            leave.atexit = False  # pyrefly: ignore[missing-attribute]  (a property that its stub gives no slot)
            self._leave = leave
            if side is not None:
                side.attend_as(self.backbone.config._attn_implementation)
            self.attached = True

    def detach(self) -> None:
        """Take this model off its backbone, which is then exactly what it was (if no other model is attached)."""
        if self._leave is not None:
            self._leave()
        self._leave, self.attached = None, False

    def gradient_checkpointing_enable(self, gradient_checkpointing_kwargs: Mapping[str, Any] | None = None) -> None:
        """Recompute each layer's activations in backward instead of keeping them. The settings that transformers
        passes play no part: recomputation is the same for every layer."""
        self.switch.recompute(True)

    def gradient_checkpointing_disable(self) -> None:
        self.switch.recompute(False)

    def train(self: Model, mode: bool = True) -> Model:
        """Training or evaluation mode. Tensors that were kept for inference are made anew."""
        self._made = Made()
        super().train(mode)
        return self

    @property
    def own_backbone(self) -> bool:
        """Whether the backbone is a copy in which something is trained or replaced."""
        return bool(self.unfrozen or self.replaced)

    def _replaced_buffers(self) -> Iterator[tuple[str, Tensor]]:
        """Names and tensors of what stands in the place of the backbone's own."""
        yield from ((f"{BACKBONE}{name}", self.backbone.get_buffer(name)) for name in sorted(self.replaced))

    @property
    def device(self) -> torch.device:
        return self.backbone.device

    @property
    def dtype(self) -> torch.dtype:
        return self.backbone.dtype

    @property
    def quantization(self) -> str | None:
        """How the backbone's weights are packed; None if they are not."""
        return packing_of(self.backbone)

    def task_id(self, name: str) -> int:
        """The index of a task.

        Raises:
            UserError: the model was not trained on it.
        """
        if name not in self.tasks:
            raise unknown("task of this model", name, self.tasks)
        return self.tasks.index(name)

    def trainable_parameters(self) -> Iterator[tuple[str, nn.Parameter]]:
        """Names and parameters of all that is trained (now: `train_only` leaves some of the method's out)."""
        yield from ((name, p) for name, p in self._own_parameters() if p.requires_grad)

    def _own_parameters(self) -> Iterator[tuple[str, nn.Parameter]]:
        """Names and parameters of the method, trained now or not."""
        yield from self.sources.named_parameters()
        for name, parameter in self.backbone.named_parameters():
            if name in self.unfrozen:
                yield f"backbone.{name}", parameter

    def learning_rate_scales(self) -> dict[str, float]:
        """Factors of the learning rate, by parameter name, for what `trainable_parameters` yields; 1 if not named."""
        scales: dict[str, float] = {}
        for source, module in self.sources.items():
            scales |= {f"{source}.{name}": scale for name, scale in module.learning_rate_scales().items()}
        return scales


def _without_frozen(model: nn.Module, state: dict[str, Any], prefix: str, _metadata: Mapping[str, Any]) -> None:
    assert isinstance(model, Attached)
    start = prefix + BACKBONE
    kept = model.unfrozen | model.replaced
    for name in [name for name in state if name.startswith(start) and name[len(start) :] not in kept]:
        del state[name]


def _frozen_not_missed(model: nn.Module, found: Any) -> None:
    assert isinstance(model, Attached)
    kept = [name for name in found.missing_keys if not _is_frozen(model, name)]
    found.missing_keys[:] = kept


def _is_frozen(model: Attached, name: str) -> bool:
    _, inside, within = name.rpartition(BACKBONE)
    return bool(inside) and within not in model.unfrozen | model.replaced
