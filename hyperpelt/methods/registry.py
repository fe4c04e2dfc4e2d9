"""Methods by name, and what a person may write where one is wanted.

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
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Any, get_type_hints

from hyperpelt.config.setting_types import check_settings
from hyperpelt.errors import UserError, unknown
from hyperpelt.methods.base import Method, Part, Source
from hyperpelt.methods.checks import check_all_used, is_idle
from hyperpelt.methods.course import Course, course_from_dict
from hyperpelt.tuners.base import Tuner, tuner_from_dict
from hyperpelt.weights import SideConfig
from hyperpelt.weights.hyper_config import HyperNetworkConfig

FAMILIES = (  # in the order of lists
    "hypernetworks",
    "prefixes, prompts",
    "adapters",
    "weights",
    "combinations",
    "side networks",
    "images",
    "whole backbone",
    "others",
)


@dataclass(frozen=True)
class About:
    """What a method's file says of it beside its parts.

    - **equations**: where in the paper they stand; **reference**: what ours was compared with
    """

    paper: str
    family: str = "others"
    equations: str = ""
    reference: str = ""


@dataclass(frozen=True)
class _Registered:
    make: Callable[..., Method]
    about: About


_METHODS: dict[str, _Registered] = {}


def method(
    name: str,
    *,
    paper: str,
    family: str = "others",
    equations: str = "",
    reference: str = "",
    extends: Callable[..., Method] | None = None,
) -> Callable[[Callable[..., Method]], Callable[..., Method]]:
    """Decorator: registers a function that makes a method under `name`. Its keywords are the method's settings.

    - **family**: one of `FAMILIES`; **equations**, **reference**: as in `About`
    - **extends**: the function of another method, all of whose settings this one has too and takes as `**settings`
    """
    if family not in FAMILIES:
        raise unknown(f"family of method {name!r}", family, FAMILIES)

    def register(make: Callable[..., Method]) -> Callable[..., Method]:
        if name in _METHODS:
            raise UserError(f"Method {name!r} is defined twice: {_METHODS[name].make!r} and {make!r}.")
        if extends is not None:
            _take_settings(make, extends)
        _METHODS[name] = _Registered(make, About(paper, family, equations, reference))
        return make

    return register


def _take_settings(make: Callable[..., Method], extends: Callable[..., Method]) -> None:
    """Let `make` show the settings of the other method before its own, with their types; of both, its own default."""
    signature = inspect.signature(make)
    own = {name: one for name, one in signature.parameters.items() if one.kind is not one.VAR_KEYWORD}
    both = {**inspect.signature(extends).parameters, **own}
    vars(make)["__signature__"] = signature.replace(parameters=list(both.values()))
    make.__annotations__ |= {**get_type_hints(extends), **make.__annotations__}


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


def about(name: str) -> About:
    """What is said of a named method and of its `hyper-` and `shared-` forms; of a composition nothing."""
    try:
        return _METHODS[_known(name)[0]].about
    except UserError:
        return About("")


def files(chosen: Method) -> list[str]:
    """Modules whose text has a method's recipe and equations: its own, and those of its tuners."""
    own: list[str] = []
    with suppress(UserError):  # a composition has none
        own = [_METHODS[_known(chosen.name)[0]].make.__module__]
    return list(dict.fromkeys([*own, *(type(part.tuner).__module__ for part in chosen.parts)]))


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
    has_network = source == "hypernetwork" or (not source and bool(_networks(registered.make())))
    network = values.pop("hypernetwork", {}) if has_network else {}
    values = check_settings(f"method {name!r}", values, registered.make, *(["hypernetwork"] if has_network else []))
    made = replace(registered.make(**values), name=name, paper=registered.about.paper)
    if not source:
        return _with_network(made, network) if network else made
    drawn = Source(type=source, hypernetwork=HyperNetworkConfig.from_dict(network))
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


def _with_network(made: Method, settings: Any) -> Method:
    """The same with these settings of its hypernetworks, which read tasks."""
    changed = {
        name: replace(source, hypernetwork=source.hypernetwork.changed(settings))
        for name, source in _networks(made).items()
    }
    return replace(made, sources={**made.sources, **changed})


def _networks(made: Method) -> dict[str, Source]:
    """The hypernetworks that make tensors of tasks, by name."""
    own = {name: made.source(name) for part in made.parts for name in part.sources}
    return {name: source for name, source in own.items() if source.type == "hypernetwork"}


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
    courses = data.get("courses", ())
    if not isinstance(courses, Sequence) or isinstance(courses, str):
        raise UserError(f"`courses` of a method is a list of courses, each with a `type`, got {courses!r}.")
    rest = {key: value for key, value in data.items() if key not in ("parts", "sources", "courses", "side")}
    side = data.get("side")
    settings: dict[str, Any] = {"name": "composition", **check_settings("a method's composition", rest, Method)}
    return Method(
        **settings,
        side=side if side is None or isinstance(side, SideConfig) else SideConfig.from_dict(side),
        parts=tuple(_part(index, entry) for index, entry in enumerate(parts)),
        sources={name: Source.from_dict(value) for name, value in sources.items()},
        courses=tuple(course if isinstance(course, Course) else course_from_dict(course) for course in courses),
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
