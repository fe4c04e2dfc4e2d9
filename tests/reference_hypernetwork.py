"""The generation equations of HyperPELT (arXiv 2203.03878) and HyperFormer(++) (2106.04489), one tensor at a time.

For a task tau, a layer l and a kind of block j, and each of N rows r:

    I_r    = relu([z_tau,r ; l_l,r ; b_j,r] W1 + c1) W2 + c2        then optionally LN(I_r)
    P_r    = head(I_r)                                              rows of prefixes and prompts
    W      = head(mean_r I_r)                                       anything else
    head   = x V + d,  or  tanh(x V1 + d1) V + d

What starts from real activations is measured in their mean and deviation: m + s * P. Only values are read from the
library's source; loops over operations and rows take the place of its batched products.
"""

from __future__ import annotations

import torch
from torch import Tensor

from hyperpelt.model.tuned import TunedModel
from hyperpelt.operations import Operation


def _label(sharing: str, op: Operation) -> str:
    """Which of the heads (or trunks) serves an operation."""
    kind = f"{op.stack}_{op.site}"
    return {"all": "all", "stack": op.stack, "kind": kind, "operation": op.name.replace(".", "_")}[sharing]


def _block(op: Operation) -> str:
    """The operation's name without its layer."""
    return ".".join(part for part in op.name.split(".") if not part.isdigit())


def _norm(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    centred = x - x.mean()
    return centred / (centred.pow(2).mean() + 1e-6).sqrt() * weight + bias


@torch.no_grad()
def hyper_tensors(model: TunedModel, task: int, *, source: str = "hypernetwork") -> dict[tuple[str, str], Tensor]:
    """(operation name, group key) -> tensor, in float64."""
    network = model.sources[source]
    return tensors_made(network, {name: value.double() for name, value in network.state_dict().items()}, task)


def instance_tensors(model: TunedModel, mean: Tensor, *, source: str = "instance") -> dict[tuple[str, str], Tensor]:
    """The same of one row (Hyperdecoders, 2203.08304): z = relu(LN(mean) W1 + c1) W2 + c2 in place of a task's own."""
    module = model.sources[source]
    own = {name: value.double() for name, value in module.state_dict().items()}
    centred = mean - mean.mean()
    normed = centred / (centred.pow(2).mean() + 1e-5).sqrt()
    hidden = normed @ own["inner"] + own["inner_bias"]
    z = torch.where(hidden > 0, hidden, 0.0) @ own["outer"] + own["outer_bias"]
    values = {n.removeprefix("network."): value for n, value in own.items() if n.startswith("network.")}
    return tensors_made(module.network, values | {"task_embeddings": z.reshape(1, 1, -1)}, 0)


def tensors_made(network, values: dict[str, Tensor], task: int) -> dict[tuple[str, str], Tensor]:
    """(operation name, group key) -> tensor, of a network with these values."""
    everything = {op.name: op for group in network.groups.values() for op in group.operations}.values()
    made = {}
    for key, group in network.groups.items():
        for place, op in enumerate(group.operations):
            rows = [
                _hyper_embedding(network.config, values, list(everything), op, task, r) for r in range(network.num_rows)
            ]
            tensor = _head(network.config, values, group, op, rows)
            mean = values.get(f"{_safe(key)}__mean")
            if mean is not None:
                tensor = mean[place] + values[f"{_safe(key)}__std"][place] * tensor
            made[op.name, key] = tensor
    return made


def _safe(key: str) -> str:
    return key.replace(".", "__")


def _hyper_embedding(config, values, everything, op, task, row) -> Tensor:
    own = _label(config.trunk, op)
    trunk = f"trunks.{own}."
    mine = [other for other in everything if _label(config.trunk, other) == own]
    layers = sorted({other.layer for other in mine})
    kinds = sorted({_block(other) for other in mine})
    read = {
        "task": values["task_embeddings"][task, row],
        "layer": values.get(f"{trunk}embeddings.layer"),
        "block": values.get(f"{trunk}embeddings.block"),
    }
    if "layer" in config.reads:
        read["layer"] = read["layer"][layers.index(op.layer), row]
    if "block" in config.reads:
        read["block"] = read["block"][kinds.index(_block(op)), row]
    joined = torch.cat([read[name] for name in config.reads])
    inner = torch.cat([values[f"{trunk}inner.{name}"] for name in config.reads])
    hidden = joined @ inner + values[f"{trunk}inner_bias"]
    made = torch.where(hidden > 0, hidden, 0.0) @ values[f"{trunk}outer"] + values[f"{trunk}outer_bias"]
    return _norm(made, values[f"{trunk}norm.weight"], values[f"{trunk}norm.bias"]) if config.normalise else made


def _head(config, values, group, op, rows: list[Tensor]) -> Tensor:
    head = config.heads.get(group.part) or config.heads.get("default")
    sharing, hidden = (head.shared, head.hidden) if head else ("all", 0)
    which = sorted({_label(sharing, other) for other in group.operations}).index(_label(sharing, op))
    base = f"heads.{_safe(group.key)}."

    def apply(x: Tensor) -> Tensor:
        if hidden:
            x = torch.tanh(x @ values[f"{base}hidden"][which] + values[f"{base}hidden_bias"][which, 0])
        return x @ values[f"{base}weight"][which] + values[f"{base}bias"][which, 0]

    if group.spec.row_wise and config.expand_rows:
        return torch.stack([apply(row) for row in rows]).reshape(group.spec.shape)
    return apply(torch.stack(rows).mean(0)).reshape(group.spec.shape)


def by_operation(made: dict[tuple[str, str], Tensor], part: str) -> dict[str, dict[str, Tensor]]:
    """Of one part: operation name -> tensor name -> values."""
    found: dict[str, dict[str, Tensor]] = {}
    for (name, key), value in made.items():
        if key.split(".")[0] == part:
            found.setdefault(name, {})[key.split(".")[1]] = value
    return found
