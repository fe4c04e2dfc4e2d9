"""A method is nothing but parts: a tuner, the operations it sits at, and the weight source it draws from.

    hyperpelt = {prefix @ every attention, parallel adapter @ every feed-forward} x hypernetwork, norms x shared

Named methods are functions with the paper's defaults as keyword parameters, registered by `@method`. Wherever a
method is wanted, one may give

- a name: `"lora"`; with the prefix `hyper-` or `shared-` its per-task tensors come from a hypernetwork, or are one
  set for all tasks: `"hyper-lora"`, `"shared-houlsby"`
- a name with overrides: `{"name": "hyperpelt", "prefix_length": 16}`
- a composition: `{"parts": [{"tuner": {"type": "lora", "rank": 4}, "at": ["q", "v"], "source": "per_task"}]}`
- a `Method`
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from hyperpelt.errors import UserError, unknown
from hyperpelt.methods.checks import check_all_used, check_source_name, is_idle
from hyperpelt.setting_types import check_at_least, check_settings
from hyperpelt.tuners.base import Tuner, tuner_from_dict
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
            check_source_name(name)
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


@dataclass(frozen=True)
class _Registered:
    make: Callable[..., Method]
    paper: str


_METHODS: dict[str, _Registered] = {}


def method(name: str, *, paper: str) -> Callable[[Callable[..., Method]], Callable[..., Method]]:
    """Decorator: registers a function that makes a method under `name`. Its keywords are the method's settings."""

    def register(make: Callable[..., Method]) -> Callable[..., Method]:
        if name in _METHODS:
            raise UserError(f"Method {name!r} is defined twice: {_METHODS[name].make!r} and {make!r}.")
        _METHODS[name] = _Registered(make, paper)
        return make

    return register


def names() -> list[str]:
    """All method names; each with per-task tensors also exists as `hyper-NAME` and `shared-NAME`."""
    return sorted(_METHODS)


def settings(name: str) -> dict[str, Any]:
    """The settings of a named method with their defaults, of `hyper-NAME` also `hypernetwork`; none of others."""
    try:
        base, source = _known(name)
    except UserError:
        return {}
    found = {key: parameter.default for key, parameter in inspect.signature(_METHODS[base].make).parameters.items()}
    return found | ({"hypernetwork": HyperNetworkConfig().to_dict()} if source == "hypernetwork" else {})


def _known(name: str) -> tuple[str, str]:
    """(registered name, source type that replaces per_task or "")."""
    if name in _METHODS:
        return name, ""
    for prefix, source in (("hyper-", "hypernetwork"), ("shared-", "shared")):
        if name.startswith(prefix) and name.removeprefix(prefix) in _METHODS:
            return name.removeprefix(prefix), source
    raise unknown("method", name, [*_METHODS, *(f"hyper-{n}" for n in _METHODS), *(f"shared-{n}" for n in _METHODS)])


def _named(name: str, overrides: Mapping[str, Any]) -> Method:
    base, source = _known(name)
    registered, values = _METHODS[base], dict(overrides)
    made_by_network = source == "hypernetwork"
    config = HyperNetworkConfig.from_dict(values.pop("hypernetwork", {})) if made_by_network else None
    values = check_settings(f"method {name!r}", values, registered.make, *(["hypernetwork"] if made_by_network else []))
    made = replace(registered.make(**values), name=name, paper=registered.paper)
    if not source:
        return made
    drawn = Source(type=source, hypernetwork=config or HyperNetworkConfig())
    changed = made.with_source(drawn, name)
    if changed.parts == made.parts:
        raise UserError(f"Method {base!r} has no per-task tensors, so there is no {name!r}. Use {base!r}.")
    for key in values:
        if is_idle(key, values, registered.make, lambda plain: plain.with_source(drawn, name)):
            raise UserError(
                f"Setting {key!r} of method {base!r} says how per-task tensors are made, and {name!r} has none: leave "
                f"it out, or use {base!r}."
            )
    return check_all_used(changed)


def _part(index: int, entry: Any) -> Part:
    what = f"part {index} of a method"
    if not isinstance(entry, Mapping) or "tuner" not in entry or "at" not in entry:
        got = sorted(entry) if isinstance(entry, Mapping) else repr(entry)
        raise UserError(f"P{what[1:]} needs `tuner` and `at`, got {got}.")
    tuner = entry["tuner"] if isinstance(entry["tuner"], Tuner) else tuner_from_dict(entry["tuner"])
    return Part(**check_settings(what, {**entry, "tuner": tuner}, Part))


def method_from_dict(data: Mapping[str, Any]) -> Method:
    """A composition from plain data (see the module's text).

    Raises:
        UserError: a misspelt key, tuner, source or part.
    """
    parts, sources = data["parts"], data.get("sources", {})
    if not isinstance(parts, Sequence) or isinstance(parts, str):
        raise UserError(f"`parts` of a method is a list of parts, each with `tuner` and `at`, got {parts!r}.")
    if not isinstance(sources, Mapping):
        raise UserError(f"`sources` of a method maps names to weight sources, got {sources!r}.")
    rest = {key: value for key, value in data.items() if key not in ("parts", "sources")}
    return Method(
        **{"name": "composition", **check_settings("a method's composition", rest, Method)},
        parts=tuple(_part(index, entry) for index, entry in enumerate(parts)),
        sources={name: Source.from_dict(value) for name, value in sources.items()},
    )


def get(spec: str | Mapping[str, Any] | Method) -> Method:
    """The method that `spec` means; see the module's text for the forms.

    Raises:
        UserError: an unknown name or setting, naming the nearest.
    """
    if isinstance(spec, Method):
        return spec
    if isinstance(spec, str):
        return _named(spec, {})
    if not isinstance(spec, Mapping):
        raise UserError(f"A method is a name, a mapping with `name` or `parts`, or a Method, got {spec!r}.")
    if "parts" in spec:
        return check_all_used(method_from_dict(spec))
    if "name" not in spec:
        raise UserError(f"A method needs a `name` or `parts`, got the keys {sorted(spec)}.")
    return _named(str(spec["name"]), {key: value for key, value in spec.items() if key != "name"})


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
