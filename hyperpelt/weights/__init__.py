"""Weight sources: who owns the tensors that tuners use."""

from __future__ import annotations

from hyperpelt.weights.base import Group, WeightSource, draw
from hyperpelt.weights.hyper_config import Head, HyperNetworkConfig, InstanceConfig
from hyperpelt.weights.hypernetwork import HyperNetwork
from hyperpelt.weights.instance import InstanceHyperNetwork
from hyperpelt.weights.per_task import PerTask, Reparametrised, Shared
from hyperpelt.weights.side import SideConfig, SideNetwork
from hyperpelt.weights.sources import AnySource, Sources
from hyperpelt.weights.untrained import Frozen, State
from hyperpelt.weights.visual import VisualHyperNetwork, VisualProjector, VisualSource
from hyperpelt.weights.visual_config import ProjectorConfig, VisualConfig, VisualHyperConfig

__all__ = [
    "AnySource",
    "Frozen",
    "Group",
    "Head",
    "HyperNetwork",
    "HyperNetworkConfig",
    "InstanceConfig",
    "InstanceHyperNetwork",
    "PerTask",
    "ProjectorConfig",
    "Reparametrised",
    "Shared",
    "SideConfig",
    "SideNetwork",
    "Sources",
    "State",
    "VisualConfig",
    "VisualHyperConfig",
    "VisualHyperNetwork",
    "VisualProjector",
    "VisualSource",
    "WeightSource",
    "draw",
]
