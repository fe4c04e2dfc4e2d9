"""Merge one task into a copy of the backbone: what fits into its weights costs nothing any more.

For a projection y = x W^T + b (weights as PyTorch keeps them, [e, d]):

    W + M^T                                               a tuner whose delta is x M: LoRA, AdaLoRA, VeRA, KronA
    diag(1 + s) W, (1 + s) b                              (IA)^3; at the hidden layer W_o diag(1 + s)
    b + c                                                 a bias
    w + delta, b + beta                                   a norm
    w + D                                                 a change of weights, whole or at chosen positions
    [W_i ; D^T], [b_i ; b_D], [W_o , s U^T], b_o + s b_U  a parallel adapter of a feed-forward network that has one
                                                          inner projection and the adapter's own activation

The last is He et al. (2021, arXiv 2110.04366) read backwards: such an adapter is a few more units of the network.
Prefixes, sequential and gated tuners and whatever images bring stay tuners, baked. Sums are made in float32, and the
result agrees with the baked model to rounding (tests/export/test_merging.py), not bit for bit.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from hyperpelt.attachment.passes import Placed
from hyperpelt.backbones.coded import CodedLinear
from hyperpelt.backbones.mini_bart import MiniBart
from hyperpelt.backbones.quantised import require_weights
from hyperpelt.config.paths import place
from hyperpelt.errors import UserError
from hyperpelt.export.baking import static
from hyperpelt.export.placing import writing_export
from hyperpelt.export.plain_bart import plain_bart
from hyperpelt.methods import Method
from hyperpelt.methods.assemble import Assembly, assemble
from hyperpelt.model.copies import copy_of, decoded
from hyperpelt.model.tuned import TunedModel
from hyperpelt.operations import PROJECTIONS, Operation, list_operations
from hyperpelt.tuners import Adapter, Bias, CodeScale, Delta, Entries, Norm, Scale, Site, Tuner
from hyperpelt.tuners.delta import dense

Tensors = Mapping[str, Tensor]


class MergedModel(TunedModel):
    """One task over a backbone of its own: for answering, in memory. Its file form is the baked model."""

    def save_pretrained(self, folder: str | Path) -> None:
        """Raises UserError: see the class."""
        raise UserError(
            "A merged model is made in memory: save `bake(model, task)` and merge it after loading, or write plain "
            "transformers weights with `export_merged` (`hyperpelt export --to merged`)."
        )


@torch.no_grad()
def merge(model: TunedModel, task: str, *, plain: bool = False) -> MergedModel:
    """A model of one task whose tuners are merged into a copy of the backbone where they fit.

    - **plain**: merge only what leaves the backbone a model that transformers can load: its own shapes, no new biases

    Raises:
        UserError: the model does not know the task; its backbone is quantized.
    """
    require_weights(model.backbone, "Merging")
    index = torch.tensor([model.task_id(task)], device=model.device)
    merged, backbone = mergeable(model.method, model.assembly, plain=plain), copy_of(model.backbone)
    with model.evaluating():
        made = model.weights_of(index)
    for operation, placed in _in_order(model.assembly):
        if part_of(placed) in merged:
            tensors = {name: made[key][0, number] for name, (key, number) in placed.tensors.items()}
            tensors = {name: t.float() if t.is_floating_point() else t for name, t in tensors.items()}
            write = _MERGES.get(type(placed.tuner), _merge_linear)
            write(backbone, operation, placed.tuner, tensors)
    backbone = decoded(backbone) if plain else backbone
    parts = tuple(part for part in model.method.parts if part.name not in merged)
    return static(model, task, backbone, parts, prefix="merged", kind=MergedModel)


def export_merged(model: TunedModel, task: str, folder: str | Path) -> Path:
    """Write one task as plain transformers weights (`from_pretrained` of transformers loads them); returns the folder.

    Raises:
        UserError: the method has a part that such weights cannot hold; the folder holds something else than an export.
    """
    merged = merge(model, task, plain=True)
    if merged.method.side is not None:
        raise UserError(
            f"Plain weights cannot hold the side network of method {model.method.name!r}: use `--to baked`, which "
            "keeps every method."
        )
    if merged.method.parts:
        left = ", ".join(f"{part.name!r} ({part.tuner.type_name})" for part in merged.method.parts)
        raise UserError(
            f"Plain weights cannot hold {left} of method {model.method.name!r}: linear deltas of projections (LoRA, "
            "AdaLoRA, VeRA, KronA), changes of weights, (IA)^3, norms, biases that the backbone has, and trained "
            "backbones can be merged. Use `--to baked`, which keeps every method."
        )
    folder = place(folder)
    merged.detach()
    # transformers' class does not know mini-bart's epsilon.
    backbone = plain_bart(merged.backbone) if isinstance(merged.backbone, MiniBart) else merged.backbone
    with writing_export(folder, form="merged", task=task) as new:
        backbone.save_pretrained(new)
        if merged.tokenizer is not None:
            merged.tokenizer.save_pretrained(new)
    return folder


def mergeable(method: Method, assembly: Assembly, *, plain: bool = False) -> set[str]:
    """Names of the parts that can be merged, each wholly or not at all.

    Where several tuners meet, each sees what those before it left. So one that stays keeps those after it; in a network
    that an adapter widens, nothing else may stay; and where frozen keys and values are asked for, they must stay so.
    """
    plan = assembly.plan
    stays = {part.name for part in method.parts if not all(method.source(name).of_tasks for name in part.sources)}
    stays |= {part_of(p) for op, p in _in_order(assembly) if not _fits(p.tuner, op, plain)}
    while True:
        found = set(stays)
        for there in plan.values():
            names = [part_of(placed) for placed in there]
            first = next((number for number, name in enumerate(names) if name in stays), len(names))
            found |= set(names[first:])
        for operation, placed in _in_order(assembly):
            if placed.tuner.projects:
                found |= {part_of(p) for kind in ("k", "v") for p in plan.get(f"{operation.name}.{kind}", ())}
            if isinstance(placed.tuner, Adapter):
                inside = (p for kind in ("wi", "hidden", "wo") for p in plan.get(f"{operation.name}.{kind}", ()))
                found |= {part_of(placed)} if any(part_of(p) in stays for p in inside) else set()
        if found == stays:
            return {part.name for part in method.parts} - stays
        stays = found


def how_mergeable(method: Method, operations: Sequence[Operation]) -> str:
    """`yes`: plain weights of the backbone's shapes hold a task; `in memory`: `merge` leaves no tuner over; `in part`;
    `no`."""
    assembly, every = assemble(method, operations), {part.name for part in method.parts}
    if method.side is not None:
        return "no"
    if mergeable(method, assembly, plain=True) == every:
        return "yes"
    found = mergeable(method, assembly)
    return "in memory" if found == every else "in part" if found else "no"


def part_of(placed: Placed) -> str:
    """The name of the method's part that a placed tuner belongs to."""
    key, _ = next(iter(placed.tensors.values()))
    return key.split(".")[0]


def _in_order(assembly: Assembly) -> Iterator[tuple[Operation, Placed]]:
    """Every placed tuner. Codes come before what decodes them; what enters wo scales all that was merged into wo; new
    units come last, unscaled."""

    def when(pair: tuple[Operation, Placed]) -> int:
        if isinstance(pair[1].tuner, CodeScale):
            return -1
        return 2 if isinstance(pair[1].tuner, Adapter) else int(pair[0].kind == "hidden")

    each = [(op, placed) for op in assembly.operations for placed in assembly.plan[op.name]]
    yield from sorted(each, key=when)


def _fits(tuner: Tuner, operation: Operation, plain: bool) -> bool:
    if isinstance(tuner, Bias):
        return operation.has_bias or not plain
    if isinstance(tuner, Adapter):
        parallel = operation.kind == "feed_forward" and tuner.reads == "input" and not tuner.norm
        theirs = {"swish": "silu"}.get(operation.activation, operation.activation)
        return parallel and theirs == tuner.activation and not plain
    return isinstance(tuner, Scale | Norm | CodeScale | Delta | Entries) or (
        tuner.linear and operation.kind in PROJECTIONS
    )


def _set(parameter: nn.Parameter, values: Tensor) -> None:
    parameter.copy_(values.to(parameter.dtype))


def _module(backbone: nn.Module, path: str) -> Any:
    """What computes an operation: a linear map with a weight, or a norm of the family's own class."""
    module = backbone.get_submodule(path)
    if isinstance(module, CodedLinear):
        module = module.plain(torch.float32 if module.bias is None else module.bias.dtype)
        backbone.set_submodule(path, module)
    return module


def _merge_codes(backbone: nn.Module, operation: Operation, tuner: CodeScale, tensors: Tensors) -> None:
    module = backbone.get_submodule(operation.path)
    assert isinstance(module, CodedLinear), "what the tuner put there"
    module.scales[0].add_(tensors["shift"])


def _add_bias(module: Any, bias: Tensor) -> None:
    if module.bias is None:
        module.bias = nn.Parameter(torch.zeros_like(module.weight[:, 0]))
    _set(module.bias, module.bias.float() + bias)


def _merge_linear(backbone: nn.Module, operation: Operation, tuner: Tuner, tensors: Tensors) -> None:
    """x M for the rows x of an identity matrix is M."""
    weight = _module(backbone, operation.path).weight
    rows = torch.eye(operation.d_in, device=weight.device).unsqueeze(0)
    matrix = tuner(Site(operation, input=rows), {name: values.unsqueeze(0) for name, values in tensors.items()})
    _set(weight, weight.float() + matrix[0].T)


def _merge_scale(backbone: nn.Module, operation: Operation, tuner: Scale, tensors: Tensors) -> None:
    module, factor = _module(backbone, operation.path), 1 + tensors["shift"]
    if operation.kind == "hidden":
        _set(module.weight, module.weight.float() * factor)
        return
    _set(module.weight, module.weight.float() * factor[:, None])
    if module.bias is not None:
        _set(module.bias, module.bias.float() * factor)


def _merge_bias(backbone: nn.Module, operation: Operation, tuner: Bias, tensors: Tensors) -> None:
    _add_bias(backbone.get_submodule(operation.path), tensors["bias"])


def _merge_norm(backbone: nn.Module, operation: Operation, tuner: Norm, tensors: Tensors) -> None:
    _add_to_weights(backbone, operation, tensors)


def _merge_delta(backbone: nn.Module, operation: Operation, tuner: Delta, tensors: Tensors) -> None:
    counts = tuner.threshold is None or bool(tensors["score"] >= tuner.threshold)
    if counts:
        _add_to_weights(backbone, operation, {name: tensors[name] for name in ("weight", "bias") if name in tensors})


def _merge_entries(backbone: nn.Module, operation: Operation, tuner: Entries, tensors: Tensors) -> None:
    _add_to_weights(backbone, operation, {name: t[0] for name, t in dense(tensors, operation).items()})


def _add_to_weights(backbone: nn.Module, operation: Operation, change: Tensors) -> None:
    module = _module(backbone, operation.path)
    for name, values in change.items():
        parameter = getattr(module, name)
        _set(parameter, parameter.float() + (values.T if values.ndim == 2 else values))


def _merge_adapter(backbone: nn.Module, operation: Operation, tuner: Adapter, tensors: Tensors) -> None:
    paths = {op.name: op.path for op in list_operations(backbone)}
    inner, outer = (_module(backbone, paths[f"{operation.name}.{kind}"]) for kind in ("wi", "wo"))
    scale = tensors["scale"] if tuner.learned_scale else tuner.scale
    if inner.bias is None:
        _add_bias(inner, torch.zeros_like(inner.weight[:, 0]))
    _set_wider(inner, "weight", tensors["down"].T, dim=0)
    _set_wider(inner, "bias", tensors["down_bias"], dim=0)
    _set_wider(outer, "weight", scale * tensors["up"].T, dim=1)
    _add_bias(outer, scale * tensors["up_bias"])
    inner.out_features = outer.in_features = inner.weight.shape[0]


def _set_wider(module: nn.Module, name: str, more: Tensor, dim: int) -> None:
    old = getattr(module, name)
    setattr(module, name, nn.Parameter(torch.cat([old, more.to(old.dtype)], dim), requires_grad=False))


_MERGES: dict[type[Tuner], Callable[..., None]] = {
    Scale: _merge_scale,
    Bias: _merge_bias,
    CodeScale: _merge_codes,
    Norm: _merge_norm,
    Delta: _merge_delta,
    Entries: _merge_entries,
    Adapter: _merge_adapter,
}
