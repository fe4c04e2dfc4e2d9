"""A method is nothing but parts: a tuner, the operations it sits at, and the weight source it draws from.

    hyperpelt = {prefix @ every attention, parallel adapter @ every feed-forward} x hypernetwork, norms x shared

What a person writes for a method (a name, a mapping) becomes a `Method` in `methods.registry`.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from torch import nn

from hyperpelt.config.setting_types import check_at_least, check_settings
from hyperpelt.errors import UserError, unknown
from hyperpelt.methods.course import Course
from hyperpelt.tuners.base import Tuner
from hyperpelt.weights.hyper_config import HyperNetworkConfig, InstanceConfig
from hyperpelt.weights.side import SIDE, SideConfig
from hyperpelt.weights.visual_config import VISUAL_SOURCES, VisualConfig

NETWORKS = ("hypernetwork", "instance_hypernetwork")  # whose settings are a hypernetwork's
SOURCE_TYPES = ("per_task", "shared", *NETWORKS, *VISUAL_SOURCES)
UNTRAINED = ("frozen", "state")  # where tensors of these roles come from, whatever a part's source is


@dataclass(frozen=True, kw_only=True)
class Part:
    """A tuner at some operations with tensors from a source.

    - **at**: patterns of `hyperpelt.operations.select`
    - **source**: `per_task`, `shared`, `hypernetwork`, or a name that the method's `sources` defines; or for each
      tensor one: `{down: shared, up: per_task}`, where `down` also means `down_bias`, and `default` the tensors that
      are not named (per_task if it is not there)
    - **name**: appears in the names of saved tensors; unique in a method
    """

    tuner: Tuner
    at: tuple[str, ...]
    source: str | Mapping[str, str] = "per_task"
    name: str = ""

    def __post_init__(self) -> None:
        if not self.name:
            object.__setattr__(self, "name", self.tuner.type_name)
        if "." in self.name or not self.name.replace("_", "").isalnum():
            raise UserError(f"A part's name is made of letters, digits and underscores, got {self.name!r}.")

    @property
    def sources(self) -> tuple[str, ...]:
        """Names of the sources that its tensors come from."""
        if isinstance(self.source, str):
            return (self.source,)
        named = {"default": "per_task", **self.source} if "default" not in self.source else self.source
        return tuple(dict.fromkeys(named.values()))

    def source_of(self, tensor: str) -> str:
        """The name of the source of one tensor; the longest of the names that fit decides."""
        if isinstance(self.source, str):
            return self.source
        fitting = [name for name in self.source if tensor == name or tensor.startswith(f"{name}_")]
        return self.source[max(fitting, key=len)] if fitting else self.source.get("default", "per_task")

    def check_tensors(self, tensors: Collection[str]) -> None:
        """Raises:
        UserError: `source` names a tensor that the tuner does not have.
        """
        for name in () if isinstance(self.source, str) else self.source:
            if name != "default" and not any(t == name or t.startswith(f"{name}_") for t in tensors):
                raise unknown(f"tensor in the source of part {self.name!r}", name, [*tensors, "default"])

    def drawing(self, move: Callable[[str], str]) -> Part:
        """The same part with each source name replaced by `move(name)`."""
        if isinstance(self.source, str):
            return replace(self, source=move(self.source))
        every = {**self.source, "default": self.source.get("default", "per_task")}
        return replace(self, source={tensor: move(name) for tensor, name in every.items()})

    def to_dict(self) -> dict[str, Any]:
        source = self.source if isinstance(self.source, str) else dict(self.source)
        return {"name": self.name, "tuner": self.tuner.to_dict(), "at": list(self.at), "source": source}


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
        if self.type == "instance_hypernetwork":
            object.__setattr__(self, "hypernetwork", InstanceConfig.of(self.hypernetwork))
        check_at_least(0, f"weight source {self.type!r}", hidden=self.hidden)
        if self.hidden and self.type != "per_task":
            raise UserError(f"Only the weight source 'per_task' has an MLP (`hidden`), not {self.type!r}.")

    @property
    def of_tasks(self) -> bool:
        """Whether it makes tensors of tasks, and not of what single rows hold."""
        return self.visual is None and self.type != "instance_hypernetwork"

    @property
    def reads_input(self) -> bool:
        """Whether each operation's tensors are made of what that operation reads."""
        return isinstance(self.hypernetwork, InstanceConfig) and self.hypernetwork.made_of == "input"

    def to_dict(self) -> dict[str, Any]:
        """Plain data, all settings said."""
        if self.visual is not None:
            return {"type": self.type, **self.visual.to_dict()}
        extra = self.hypernetwork.to_dict() if self.type in NETWORKS else {"hidden": self.hidden}
        return {"type": self.type, **extra}

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Source:
        """The reverse of `to_dict`.

        Raises:
            UserError: an unknown type or setting (names the nearest), or a value of another type.
        """
        if not isinstance(data, Mapping) or "type" not in data:
            raise UserError(f"A weight source is a mapping with a `type` ({', '.join(SOURCE_TYPES)}), got {data!r}.")
        values = dict(data)
        kind = values.pop("type")
        if kind not in SOURCE_TYPES:
            raise unknown("weight source", str(kind), SOURCE_TYPES)
        if kind in NETWORKS:
            config = InstanceConfig if kind == "instance_hypernetwork" else HyperNetworkConfig
            return cls(type=kind, hypernetwork=config.from_dict(values))
        if kind in VISUAL_SOURCES:
            return cls(type=kind, visual=VISUAL_SOURCES[kind].from_dict(values))
        if "hypernetwork" in values:
            raise unknown(f"setting of weight source {kind!r}", "hypernetwork", ["type", "hidden"])
        return cls(type=kind, **check_settings(f"weight source {kind!r}", values, cls))


@dataclass(frozen=True, kw_only=True)
class Method:
    """A named composition.

    - **unfreeze**: glob patterns of backbone parameters trained in a copy of their own
    - **courses**: what happens beside gradient steps; see `hyperpelt.methods.course`
    - **side**: of a side network that runs beside the backbone, instead of parts; see `hyperpelt.weights.side`
    """

    name: str
    parts: tuple[Part, ...]
    sources: Mapping[str, Source] = field(default_factory=dict)
    unfreeze: tuple[str, ...] = ()
    courses: tuple[Course, ...] = ()
    side: SideConfig | None = None
    paper: str = ""

    def __post_init__(self) -> None:
        if self.side is not None and (self.parts or self.unfreeze):
            raise UserError(
                f"Method {self.name!r} has a side network, which needs no gradient through the backbone, but also "
                "parts or trained parameters in the backbone, which need one: leave one out."
            )
        names = [part.name for part in self.parts]
        for name in names:
            if names.count(name) > 1:
                raise UserError(f"Method {self.name!r} has two parts named {name!r}; give one another `name`.")
        for name in self.sources:
            _check_source_name(name)
        for part in self.parts:
            for name in part.sources:
                self.source(name)
        for course in self.courses:
            course.check(self)

    def source(self, name: str) -> Source:
        """The definition of a source that a part names."""
        if name in self.sources:
            return self.sources[name]
        if name in SOURCE_TYPES:
            return Source(type=name)
        raise unknown(f"weight source of method {self.name!r}", name, [*SOURCE_TYPES, *self.sources])

    @property
    def uncompilable(self) -> str:
        """Why a step of it does not make one graph, in a sentence; empty where it does."""
        return next((part.tuner.uncompilable for part in self.parts if part.tuner.uncompilable), "")

    def to_dict(self) -> dict[str, Any]:
        """Plain data with every hyper-parameter, from which `method_from_dict` makes an equal method."""
        used = dict.fromkeys(name for part in self.parts for name in part.sources)
        return {
            "name": self.name,
            "parts": [part.to_dict() for part in self.parts],
            "sources": {name: self.source(name).to_dict() for name in used},
            "unfreeze": list(self.unfreeze),
            "courses": [course.to_dict() for course in self.courses],
            **({} if self.side is None else {"side": self.side.to_dict()}),
            "paper": self.paper,
        }

    def with_source(self, source: Source, name: str) -> Method:
        """The same parts, those of per-task tensors drawing from `source` instead."""
        used = {name for part in self.parts for name in part.sources}
        moved = {name for name in used if self.source(name).type == "per_task"}
        parts = tuple(part.drawing(lambda old: source.type if old in moved else old) for part in self.parts)
        kept = {key: value for key, value in self.sources.items() if key not in moved}
        return replace(self, name=name, parts=parts, sources={**kept, source.type: source})


def _check_source_name(name: Any) -> None:
    """A source is a module's child, and starts the names of its saved tensors."""
    taken = name in (*UNTRAINED, SIDE) or hasattr(nn.ModuleDict(), str(name))
    if not isinstance(name, str) or not name or "." in name or taken:
        raise UserError(
            "A weight source's name must be one word without dots that neither PyTorch nor this library uses, got "
            f"{name!r}: give it another name, such as 'my_source'."
        )


def describe_parts(chosen: Method) -> Sequence[dict[str, str]]:
    """One line per part for people: tuner, places, source."""
    return [
        {
            "part": part.name,
            "tuner": str(part.tuner),
            "at": " ".join(part.at),
            "source": ", ".join(dict.fromkeys(chosen.source(name).type for name in part.sources)),
        }
        for part in chosen.parts
    ]
