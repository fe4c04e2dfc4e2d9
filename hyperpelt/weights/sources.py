"""The weight sources of a model, by the name that its method's parts use."""

from __future__ import annotations

from collections.abc import ItemsView, Mapping, ValuesView
from typing import TYPE_CHECKING

from torch import nn

from hyperpelt.weights.base import WeightSource
from hyperpelt.weights.instance import InstanceHyperNetwork
from hyperpelt.weights.side import SideNetwork
from hyperpelt.weights.visual import VisualSource

AnySource = WeightSource | VisualSource | InstanceHyperNetwork | SideNetwork


class Sources(nn.ModuleDict):
    """Weight sources by name, those of tasks and those of images in their order."""

    if TYPE_CHECKING:

        def __init__(self, modules: Mapping[str, AnySource] | None = None) -> None: ...
        def __getitem__(self, key: str) -> AnySource: ...
        def values(self) -> ValuesView[AnySource]: ...
        def items(self) -> ItemsView[str, AnySource]: ...

    def of_tasks(self) -> list[WeightSource]:
        """The sources that make tensors of tasks."""
        return [source for source in self.values() if isinstance(source, WeightSource)]

    def of_images(self) -> list[VisualSource]:
        """The sources that make tensors of images."""
        return [source for source in self.values() if isinstance(source, VisualSource)]

    def of_rows(self) -> list[InstanceHyperNetwork]:
        """The sources that make tensors of what the encoder wrote for a row."""
        return [source for source in self._of_instances() if not source.reads_input]

    def of_inputs(self) -> list[InstanceHyperNetwork]:
        """The sources that make each operation's tensors of what it reads."""
        return [source for source in self._of_instances() if source.reads_input]

    def _of_instances(self) -> list[InstanceHyperNetwork]:
        return [source for source in self.values() if isinstance(source, InstanceHyperNetwork)]

    @property
    def side_network(self) -> SideNetwork | None:
        """The side network, if the method has one."""
        return next((source for source in self.values() if isinstance(source, SideNetwork)), None)
