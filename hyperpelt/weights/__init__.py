"""Weight sources: who owns the tensors that tuners use."""

from __future__ import annotations

from hyperpelt.weights.base import Group, WeightSource, draw
from hyperpelt.weights.hyper_config import Head, HyperNetworkConfig
from hyperpelt.weights.hypernetwork import HyperNetwork
from hyperpelt.weights.per_task import PerTask, Reparametrised, Shared

__all__ = [
    "Group",
    "Head",
    "HyperNetwork",
    "HyperNetworkConfig",
    "PerTask",
    "Reparametrised",
    "Shared",
    "WeightSource",
    "draw",
]
