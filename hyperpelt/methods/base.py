"""A method is nothing but parts: a tuner, the operations it sits at, and the weight source it draws from.

    hyperpelt = {prefix @ every attention, parallel adapter @ every feed-forward} x hypernetwork, norms x shared

What a person writes for a method (a name, a mapping) becomes a `Method` in `methods.registry`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from torch import nn

from hyperpelt.config.setting_types import check_at_least, check_settings
from hyperpelt.errors import UserError, unknown
from hyperpelt.tuners.base import Tuner
from hyperpelt.weights.hyper_config import HyperNetworkConfig
from hyperpelt.weights.visual_config import VISUAL_SOURCES, VisualConfig

SOURCE_TYPES = ("per_task", "shared", "hypernetwork", *VISUAL_SOURCES)


@dataclass(frozen=True, kw_only=True)
class Part:
    """A tuner at some operations with tensors from a source.

    - **at**: patterns of `hyperpelt.operations.select`
    - **source**: `per_task`, `shared`, `hypernetwork`, or a name that the method's `sources` defines
    - **name**: appears in the names of saved tensors; unique in a method
    """

    tuner: Tuner
    at: tuple[str, ...]
    source: str = "per_task"
    name: str = ""

    def __post_init__(self) -> None:
        if not self.name:
            object.__setattr__(self, "name", self.tuner.type_name)
        if "." in self.name or not self.name.replace("_", "").isalnum():
            raise UserError(f"A part's name is made of letters, digits and underscores, got {self.name!r}.")

    def to_dict(self) -> dict[str, Any]:
        return {"name": self.name, "tuner": self.tuner.to_dict(), "at": list(self.at), "source": self.source}


@dataclass(frozen=True, kw_only=True)
class Source:
    """How a weight source is made. **hidden** > 0 gives `per_task` its MLP reparametrisation of that width.

    **visual**: settings of the types that read images, None for the others.
    """

    type: str
    hidden: int = 0
    hypernetwork: HyperNetworkConfig = field(default_factory=HyperNetworkConfig)
    visual: VisualConfig | None = None

    def __post_init__(self) -> None:
        if self.type not in SOURCE_TYPES:
            raise unknown("weight source", self.type, SOURCE_TYPES)
        if self.type in VISUAL_SOURCES and self.visual is None:
            object.__setattr__(self, "visual", VISUAL_SOURCES[self.type]())
        check_at_least(0, f"weight source {self.type!r}", hidden=self.hidden)
        if self.hidden and self.type != "per_task":
            raise UserError(f"Only the weight source 'per_task' has an MLP (`hidden`), not {self.type!r}.")

    def to_dict(self) -> dict[str, Any]:
        if self.visual is not None:
            return {"type": self.type, **self.visual.to_dict()}
        extra = self.hypernetwork.to_dict() if self.type == "hypernetwork" else {"hidden": self.hidden}
        return {"type": self.type, **extra}

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Source:
        if not isinstance(data, Mapping) or "type" not in data:
            raise UserError(f"A weight source is a mapping with a `type` ({', '.join(SOURCE_TYPES)}), got {data!r}.")
        values = dict(data)
        kind = values.pop("type")
        if kind not in SOURCE_TYPES:
            raise unknown("weight source", str(kind), SOURCE_TYPES)
        if kind == "hypernetwork":
            return cls(type=kind, hypernetwork=HyperNetworkConfig.from_dict(values))
        if kind in VISUAL_SOURCES:
            return cls(type=kind, visual=VISUAL_SOURCES[kind].from_dict(values))
        if "hypernetwork" in values:
            raise unknown(f"setting of weight source {kind!r}", "hypernetwork", ["type", "hidden"])
        return cls(type=kind, **check_settings(f"weight source {kind!r}", values, cls))


@dataclass(frozen=True, kw_only=True)
class Method:
    """A named composition. **unfreeze**: glob patterns of backbone parameters trained in a copy of their own."""

    name: str
    parts: tuple[Part, ...]
    sources: Mapping[str, Source] = field(default_factory=dict)
    unfreeze: tuple[str, ...] = ()
    paper: str = ""

    def __post_init__(self) -> None:
        names = [part.name for part in self.parts]
        for name in names:
            if names.count(name) > 1:
                raise UserError(f"Method {self.name!r} has two parts named {name!r}; give one another `name`.")
        for name in self.sources:
            _check_source_name(name)
        for part in self.parts:
            self.source(part.source)

    def source(self, name: str) -> Source:
        """The definition of a source that a part names."""
        if name in self.sources:
            return self.sources[name]
        if name in SOURCE_TYPES:
            return Source(type=name)
        raise unknown(f"weight source of method {self.name!r}", name, [*SOURCE_TYPES, *self.sources])

    def to_dict(self) -> dict[str, Any]:
        """Plain data with every hyper-parameter, from which `method_from_dict` makes an equal method."""
        used = dict.fromkeys(part.source for part in self.parts)
        return {
            "name": self.name,
            "parts": [part.to_dict() for part in self.parts],
            "sources": {name: self.source(name).to_dict() for name in used},
            "unfreeze": list(self.unfreeze),
            "paper": self.paper,
        }

    def with_source(self, source: Source, name: str) -> Method:
        """The same parts, those of per-task tensors drawing from `source` instead."""
        moved = {part.source for part in self.parts if self.source(part.source).type == "per_task"}
        parts = tuple(replace(part, source=source.type) if part.source in moved else part for part in self.parts)
        kept = {key: value for key, value in self.sources.items() if key not in moved}
        return replace(self, name=name, parts=parts, sources={**kept, source.type: source})


def _check_source_name(name: Any) -> None:
    """A source is a module's child, and starts the names of its saved tensors."""
    if not isinstance(name, str) or not name or "." in name or hasattr(nn.ModuleDict(), name):
        raise UserError(
            f"A weight source's name is one word without dots that PyTorch does not use itself, got {name!r}: give it "
            "another name, such as 'my_source'."
        )


def describe_parts(chosen: Method) -> Sequence[dict[str, str]]:
    """One line per part for people: tuner, places, source."""
    return [
        {
            "part": part.name,
            "tuner": str(part.tuner),
            "at": " ".join(part.at),
            "source": chosen.source(part.source).type,
        }
        for part in chosen.parts
    ]
