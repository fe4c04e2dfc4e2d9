"""The optimiser and its schedule: AdamW or Adafactor over the trained tensors, linear, cosine or constant decay.

The learning rate is a function of the step alone, so a resumed run needs no scheduler state.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from math import ceil, cos, pi
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from hyperpelt.errors import UserError
from hyperpelt.model.habits import is_decayed

if TYPE_CHECKING:
    from hyperpelt.config import RunConfig

NamedParameters = Iterable[tuple[str, nn.Parameter]]

DECAYS: dict[str, Callable[[float], float]] = {
    "linear": lambda done: 1.0 - done,
    "cosine": lambda done: 0.5 * (1.0 + cos(pi * done)),
    "constant": lambda done: 1.0,
}


def num_warmup_steps(warmup_steps: float, total: int) -> int:
    """Warm-up in steps; below 1 it is a share of all steps, as in transformers."""
    return ceil(warmup_steps * total) if warmup_steps < 1 else int(warmup_steps)


def learning_rate(config: RunConfig, step: int, total: int) -> float:
    """The rate of optimiser step `step`, counted from 0, of `total`: warm-up from 0 to the peak, then decay to 0."""
    warmup = num_warmup_steps(config.warmup_steps, total)
    if step < warmup:
        return config.peak_rate * step / warmup
    done = (step - warmup) / max(1, total - warmup)
    return config.peak_rate * DECAYS[config.lr_scheduler_type](min(done, 1.0))


def set_learning_rate(optimizer: torch.optim.Optimizer, rate: float) -> None:
    """Give each group the run's learning rate times its own factor."""
    for group in optimizer.param_groups:
        group["lr"] = rate * group["scale"]


def make_optimizer(
    config: RunConfig, parameters: NamedParameters, scales: Mapping[str, float] = MappingProxyType({})
) -> torch.optim.Optimizer:
    """The optimiser of a run. Norms and biases are not decayed.

    scales: factors of the learning rate by parameter name (`TunedModel.learning_rate_scales`), 1 where not named; they
    play no part under `scale_learning_rate: false`.
    """
    named = list(parameters)
    if not named:
        raise UserError(f"method {config.method!r} trains nothing; choose one that does (`hyperpelt methods list`).")
    members: dict[tuple[float, float], list[nn.Parameter]] = {}
    for name, parameter in named:
        scale = scales.get(name, 1.0) if config.scale_learning_rate else 1.0
        decay = config.weight_decay if is_decayed(name, parameter) else 0.0
        members.setdefault((scale, decay), []).append(parameter)
    groups = [
        {"params": found, "weight_decay": d, "scale": s} for (s, d), found in sorted(members.items(), reverse=True)
    ]
    if config.optimizer == "adafactor":
        from transformers.optimization import Adafactor

        # Without parameter scaling: tensors that start at zero (up-projections) would otherwise hardly move.
        fixed = {"scale_parameter": False, "relative_step": False, "warmup_init": False}
        return Adafactor(groups, lr=config.peak_rate, **fixed)
    betas = (config.adam_beta1, config.adam_beta2)
    return torch.optim.AdamW(groups, lr=config.peak_rate, betas=betas, eps=config.adam_epsilon, fused=True)


# ------------------------------------------------------------------------------------------------------------- state


def optimizer_state(
    optimizer: torch.optim.Optimizer, parameters: NamedParameters
) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """What the optimiser remembers, by parameter name: tensors ('name|exp_avg') and plain numbers."""
    tensors: dict[str, Tensor] = {}
    numbers: dict[str, Any] = {}
    for name, parameter in parameters:
        for key, value in optimizer.state.get(parameter, {}).items():
            place = tensors if isinstance(value, Tensor) else numbers
            place[f"{name}|{key}"] = value.detach().cpu().contiguous() if isinstance(value, Tensor) else value
    return tensors, numbers


def load_optimizer_state(
    optimizer: torch.optim.Optimizer,
    parameters: NamedParameters,
    tensors: Mapping[str, Tensor],
    numbers: Mapping[str, Any],
) -> None:
    """The reverse of `optimizer_state`; the groups' settings stay those of this run."""
    state: dict[str, dict[str, Any]] = {}
    for label, value in {**tensors, **numbers}.items():
        name, _, key = label.rpartition("|")
        state.setdefault(name, {})[key] = value
    names = {id(parameter): name for name, parameter in parameters}
    order = [names[id(parameter)] for group in optimizer.param_groups for parameter in group["params"]]
    current = optimizer.state_dict()
    found = {index: state[name] for index, name in enumerate(order) if name in state}
    optimizer.load_state_dict({"state": found, "param_groups": current["param_groups"]})
