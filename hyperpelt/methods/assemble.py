"""From a method and a backbone's operations to a plan and its weight sources; and what a method trains, counted.

Works on the meta device: counting needs a configuration, no weights.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Any

import torch
from torch import nn
from transformers import PreTrainedModel

from hyperpelt.attachment.passes import Placed, Plan
from hyperpelt.errors import UserError
from hyperpelt.methods.base import Method, Source
from hyperpelt.operations import Operation, select
from hyperpelt.tuners.base import TensorSpec, Tuner
from hyperpelt.weights import (
    AnySource,
    Frozen,
    Group,
    HyperNetwork,
    InstanceConfig,
    InstanceHyperNetwork,
    PerTask,
    ProjectorConfig,
    Reparametrised,
    Shared,
    SideNetwork,
    Sources,
    State,
    VisualHyperConfig,
    VisualHyperNetwork,
    VisualProjector,
)
from hyperpelt.weights.base import Samples
from hyperpelt.weights.side import SIDE


@dataclass(frozen=True)
class Assembly:
    """What a method comes to on one backbone: the plan for passes, and the groups each source must serve."""

    plan: Plan
    groups: Mapping[str, Sequence[Group]]
    operations: tuple[Operation, ...]
    width: int  # of the encoder's states

    def sampled(self) -> set[tuple[str, str]]:
        """(operation name, init kind) whose tensors start from the backbone's own activations."""
        kinds = ("keys", "values", "embeddings")
        groups = [group for source in self.groups.values() for group in source if group.spec.init.kind in kinds]
        quiet = {
            (op.name, "loudness")
            for g in groups
            if g.spec.init.kind == "keys" and g.spec.init.value
            for op in g.operations
        }
        return {(op.name, g.spec.init.kind) for g in groups for op in g.operations} | quiet


def assemble(method: Method, operations: Sequence[Operation]) -> Assembly:
    """Place the method's tuners.

    Raises:
        UserError: a pattern or a whole part matches no operation, or a tuner makes no sense at one.
    """
    placed: dict[str, list[Placed]] = defaultdict(list)
    groups: dict[str, list[Group]] = defaultdict(list)
    for part in method.parts:
        wanted: dict[tuple[str, TensorSpec], list[Operation]] = defaultdict(list)
        needs: dict[str, dict[str, TensorSpec]] = {}
        chosen = select(operations, part.at)
        if not chosen:
            raise UserError(f"Part {part.name!r} of method {method.name!r} touches no operation: at={list(part.at)}.")
        for operation in chosen:
            if specs := part.tuner.tensors(operation):
                needs[operation.name] = specs
                for name, spec in specs.items():
                    wanted[name, spec].append(operation)
        part.check_tensors({name for name, _ in wanted})
        keys = _keys(part.name, list(wanted))
        index: dict[tuple[str, str], int] = {}
        for (name, spec), members in wanted.items():
            group = Group(keys[name, spec], part.name, name, tuple(members), spec)
            groups[part.source_of(name) if spec.role == "trained" else spec.role].append(group)
            index |= {(group.key, op.name): i for i, place in enumerate(group.places) for op in place}
        seeing = any(method.source(name).visual is not None for name in part.sources)
        reading = any(method.source(name).reads_input for name in part.sources)
        if seeing and reading:
            raise UserError(
                f"Part {part.name!r} draws tensors from images and from what its operations read: choose one of them."
            )
        for op_name, specs in needs.items():
            tensors = {n: (keys[n, spec], index[keys[n, spec], op_name]) for n, spec in specs.items()}
            there = placed[op_name]
            there.append(Placed(part.tuner, tensors, visual=seeing, reading=reading, place=len(there)))
    touched = tuple(op for op in operations if op.name in placed)
    return Assembly(plan=dict(placed), groups=dict(groups), operations=touched, width=operations[0].d_out)


def _keys(part: str, wanted: Sequence[tuple[str, TensorSpec]]) -> dict[tuple[str, TensorSpec], str]:
    """`part.tensor` for each tensor, with its shape where one name has several."""
    names = [name for name, _ in wanted]
    keys = {}
    for name, spec in wanted:
        shape = "x".join(map(str, spec.shape))
        keys[name, spec] = f"{part}.{name}" if names.count(name) == 1 else f"{part}.{name}.{shape}"
    # LoRA on wo and q may share a shape but not an initial distribution: number what is still equal.
    seen: dict[str, int] = {}
    for item, key in keys.items():
        seen[key] = seen.get(key, 0) + 1
        if seen[key] > 1:
            keys[item] = f"{key}.{seen[key]}"
    return keys


def build_source(
    source: Source,
    groups: Sequence[Group],
    num_tasks: int,
    samples: Samples | None,
    generator: torch.Generator | None,
    *,
    width: int | None = None,
) -> AnySource:
    """The weight source that a method's `Source` describes. **width**: of the encoder's states."""
    options: dict[str, Any] = {"samples": samples, "generator": generator}
    if source.type == "hypernetwork":
        return HyperNetwork(groups, num_tasks, config=source.hypernetwork, width=width, **options)
    if source.type == "instance_hypernetwork":
        assert width is not None, "the width of hidden states decides the size of the first map"
        return InstanceHyperNetwork(groups, config=InstanceConfig.of(source.hypernetwork), width=width, **options)
    if isinstance(source.visual, VisualHyperConfig):
        return VisualHyperNetwork(groups, config=source.visual, **options)
    if isinstance(source.visual, ProjectorConfig):
        return VisualProjector(groups, config=source.visual, **options)
    if source.type == "shared":
        return Shared(groups, num_tasks, **options)
    if source.hidden:
        return Reparametrised(groups, num_tasks, hidden=source.hidden, **options)
    return PerTask(groups, num_tasks, **options)


def build_sources(
    method: Method,
    assembly: Assembly,
    num_tasks: int,
    *,
    samples: Samples | None = None,
    generator: torch.Generator | None = None,
    seed: int = 0,
    backbone: PreTrainedModel | None = None,
) -> Sources:
    """All weight sources of a method, by the name its parts use, those of what is not trained, and its side network.

    - **seed**: of what is frozen, and of a side network; **backbone**: whose architecture that takes
    """
    made = Sources()
    for name, groups in assembly.groups.items():
        if name == "frozen":
            made[name] = Frozen(groups, num_tasks, seed=seed)
        elif name == "state":
            shared = {part.name for part in method.parts if {method.source(n).type for n in part.sources} == {"shared"}}
            alike = frozenset(group.key for group in groups if group.part in shared)
            made[name] = State(groups, num_tasks, shared=alike)
        else:
            made[name] = build_source(method.source(name), groups, num_tasks, samples, generator, width=assembly.width)
    if method.side is not None:
        assert backbone is not None, "a side network is made like a backbone"
        made[SIDE] = SideNetwork(backbone, method.side, seed=seed)
    return made


def unfrozen(method: Method, backbone: nn.Module) -> list[str]:
    """Names of the backbone's parameters that the method trains in a copy of their own.

    Raises:
        UserError: a pattern matches none.
    """
    names = [name for name, _ in backbone.named_parameters()]
    for pattern in method.unfreeze:
        if not any(fnmatchcase(name, pattern) for name in names):
            raise UserError(
                f"Method {method.name!r} unfreezes {pattern!r}, which matches no parameter of "
                f"{type(backbone).__name__}. Patterns are globs over names such as {names[-1]!r}."
            )
    return [name for name in names if any(fnmatchcase(name, pattern) for pattern in method.unfreeze)]


def replaced(method: Method, operations: Sequence[Operation]) -> dict[str, Tuner]:
    """Path of each module of the backbone that gives place to another -> the tuner that says to which.

    Raises:
        UserError: two tuners want another one each.
    """
    found: dict[str, Tuner] = {}
    for part in method.parts:
        for operation in select(operations, part.at) if part.tuner.replaces else ():
            if found.setdefault(operation.path, part.tuner) != part.tuner:
                raise UserError(
                    f"Two parts of method {method.name!r} both replace {operation.name!r}: take it out of the `at` of "
                    "one."
                )
    return found


def count_trainable(method: Method, backbone: PreTrainedModel, operations: Sequence[Operation], num_tasks: int) -> int:
    """Number of trained values, without making them."""
    with torch.device("meta"):
        sources = build_sources(method, assemble(method, operations), num_tasks, backbone=backbone)
    sizes = dict(backbone.named_parameters())
    return sum(p.numel() for p in sources.parameters()) + sum(sizes[n].numel() for n in unfrozen(method, backbone))
