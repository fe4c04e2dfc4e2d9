"""What users of transformers and PEFT expect a model to have, and `Trainer` asks of one.

    model.config;  model.print_trainable_parameters();  print(model)         # one screen
    model.state_dict()                                                       # trained tensors alone
    torch.optim.AdamW(model.parameter_groups(3e-4))                          # each matrix at its own rate

`Trainer` writes what `state_dict` gives. The frozen backbone in it would fill every checkpoint, and its tied tensors
cannot be written as safetensors; so it holds what `trainable_parameters` names, and what these are measured in.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any

from torch import nn
from transformers import GenerationConfig, PreTrainedConfig

from hyperpelt.errors import UserError
from hyperpelt.model.attached import BACKBONE
from hyperpelt.model.growth import Growth

MOST_TASKS = 8  # named in a model's description


class Habits(Growth):
    """The part of `TunedModel` that others expect: `config`, `generation_config`, `parameter_groups`, a description."""

    # `Trainer` then passes `num_items_in_batch`: the target tokens of the whole accumulated batch, all processes'.
    accepts_loss_kwargs = True
    _config: PreTrainedConfig | None = None

    @property
    def config(self) -> PreTrainedConfig:
        """A copy of the backbone's configuration: what others write into it (`Trainer` does) reaches no backbone."""
        if self._config is None:
            self._config = copy.deepcopy(self.backbone.config)
        return self._config

    @property
    def generation_config(self) -> GenerationConfig:
        """The backbone's: what `generate` does by default."""
        return self.backbone.generation_config

    @generation_config.setter
    def generation_config(self, config: GenerationConfig) -> None:
        self.backbone.generation_config = config

    def parameter_groups(self, learning_rate: float, *, weight_decay: float = 0.0) -> list[dict[str, Any]]:
        """Groups for a PyTorch optimiser: every trained tensor at `learning_rate` times its own factor.

        The factor divides the rate of a hypernetwork's matrices by the width that they read (muP); it is 1 elsewhere.
        Norms and biases are not decayed.
        """
        scales = self.learning_rate_scales()
        members: dict[tuple[float, bool], list[nn.Parameter]] = {}
        for name, parameter in self.trainable_parameters():
            members.setdefault((scales.get(name, 1.0), is_decayed(name, parameter)), []).append(parameter)
        return [
            {"params": found, "lr": learning_rate * scale, "weight_decay": weight_decay if decayed else 0.0}
            for (scale, decayed), found in sorted(members.items(), key=lambda item: item[0], reverse=True)
        ]

    def activation_checkpointing_enable(
        self,
        activation_checkpointing_kwargs: Mapping[str, Any] | None = None,
        every_n_layers: int = 1,
        offload: bool = False,
    ) -> None:
        """`gradient_checkpointing_enable` as transformers calls it now; its settings for recomputation play no part.

        Raises:
            UserError: fewer than all layers, or offloading.
        """
        if every_n_layers != 1 or offload:
            raise UserError("A tuned model recomputes every layer and offloads none: drop every_n_layers and offload.")
        self.gradient_checkpointing_enable()

    def print_trainable_parameters(self) -> None:
        """As PEFT's: trained values, all values, and the share of them in percent."""
        trained, every = self._num_values()
        print(f"trainable params: {trained:,} || all params: {every:,} || trainable%: {100 * trained / every:.4f}")

    def __repr__(self) -> str:
        trained, every = self._num_values()
        names = ", ".join(self.tasks[:MOST_TASKS])
        more = f" and {len(self.tasks) - MOST_TASKS} more" if len(self.tasks) > MOST_TASKS else ""
        name = self.backbone_name or "a model that was given"
        lines = [
            f"backbone: {name} ({type(self.backbone).__name__}, {self.backbone.dtype}, {self.backbone.device})",
            f"tasks ({len(self.tasks)}): {names}{more}",
            f"trained: {trained:,} of {every:,} values ({trained / every:.2%})",
            *(f"{part.name}: {part.tuner} @ {', '.join(part.at)} x {part.source}" for part in self.method.parts),
        ]
        return "\n".join([f"{type(self).__name__} {self.method.name}", *(f"  {line}" for line in lines)])

    def _num_values(self) -> tuple[int, int]:
        """(trained, all) values: those of the backbone, and those that the method owns beside it."""
        frozen = sum(parameter.numel() for parameter in self.backbone.parameters())
        own = sum(p.numel() for name, p in self._own_parameters() if not name.startswith(BACKBONE))
        return self.num_trainable(), frozen + own


def is_decayed(name: str, parameter: nn.Parameter) -> bool:
    """Whether weight decay reaches a trained tensor: norms and biases it does not."""
    return parameter.ndim > 1 and "bias" not in name and "norm" not in name
