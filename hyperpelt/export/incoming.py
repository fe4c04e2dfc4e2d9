"""An adapter in PEFT's format becomes a task's tensors: LoRA, (IA)^3 or a prompt, from a folder or the hub.

    model = from_peft("someone/t5-base-lora-rte", task="glue/rte")          # a model of one task over its backbone
    model = from_peft("another/adapter", task="glue/mrpc", into=model)      # a further task; batches may mix both

What a tuner of ours holds is what PEFT's does: A^T and B of LoRA, l - 1 of (IA)^3, the rows of a prompt. PEFT allocates
rows of a prompt for encoder and decoder and reads the first N. Its prefixes are no prefixes of ours: they stand in the
decoder's cache, move its positions and never reach an encoder.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from hyperpelt.attachment.passes import Placed
from hyperpelt.errors import UserError, unknown
from hyperpelt.methods.base import Method, Part
from hyperpelt.model.tuned import TunedModel
from hyperpelt.operations import PROJECTIONS, Operation, list_operations
from hyperpelt.tuners import LoRA, Prompt, Scale, Tuner
from hyperpelt.weights import PerTask
from hyperpelt.weights.base import safe

if TYPE_CHECKING:
    from transformers import PreTrainedModel

CONFIG, WEIGHTS, PICKLE = "adapter_config.json", "adapter_model.safetensors", "adapter_model.bin"
# Settings of LoRA under which its delta is another function than (alpha / r) x A B, with what they are where it is not.
PLAIN = {
    "use_dora": False, "bias": "none", "lora_bias": False, "fan_in_fan_out": False,
    "alora_invocation_tokens": None, "arrow_config": None, "kasa_config": None,
}  # fmt: skip
# Starts that PEFT takes away from the backbone's weights, here and whenever it loads the adapter.
TAKEN_AWAY = ("pissa", "olora", "corda", "loftq", "lora_ga")


@dataclass(frozen=True)
class Adapter:
    """An adapter's tensors by operation; `tuner` is one that holds all of them."""

    tuner: Tuner
    tensors: Mapping[str, Mapping[str, Tensor]]


def from_peft(
    adapter: str | Path,
    *,
    task: str,
    backbone: str | Path | PreTrainedModel | None = None,
    into: TunedModel | None = None,
) -> TunedModel:
    """A tuned model whose `task` has the adapter's tensors, in evaluation mode.

    - **adapter**: a folder with `adapter_config.json` and `adapter_model.safetensors`, or a hub id
    - **backbone**: name, folder, hub id or model; None: the one that the adapter names
    - **into**: a model to which the task is added, instead of a new one: its method must have the adapter's kind of
      tuner, with tensors of each task, wherever the adapter has tensors

    Raises:
        UserError: no such adapter, a kind that no tuner holds, another backbone, or no room in `into`.
    """
    folder = _local(adapter)
    config = _read_config(folder)
    if into is not None:
        _same_backbone(config, into.backbone_name, folder)
        found = _read(folder, config, into.backbone)
        _check_room(into, found, folder)
        into.add_task(task)
        _write(into, task, found.tensors)
        return into.eval()
    given = backbone if backbone is not None else str(config.get("base_model_name_or_path") or "")
    if isinstance(given, str) and not given:
        raise UserError(f"{folder / CONFIG} names no backbone: give `backbone=`.")
    _same_backbone(config, str(getattr(given, "name_or_path", given)), folder)
    kind = str(config["peft_type"])
    bare = TunedModel.build(given, method="frozen", tasks=[task])  # loads what is named
    found = _read(folder, config, bare.backbone)
    bare.detach()
    part = Part(tuner=found.tuner, at=tuple(found.tensors), source="per_task")
    method = Method(name=f"peft-{kind.lower().replace('_', '-')}", parts=(part,))
    model = TunedModel(bare.backbone, method, [task], tokenizer=bare.tokenizer, backbone_name=bare.backbone_name)
    _write(model, task, found.tensors)
    return model.eval()


# ----------------------------------------------------------------------------------------------------------- the files


def _local(adapter: str | Path) -> Path:
    path = Path(adapter)
    if path.exists() or str(adapter).count("/") != 1 or str(adapter).startswith((".", "/", "~")):
        return path
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HFValidationError

    try:
        return Path(snapshot_download(str(adapter), allow_patterns=[CONFIG, WEIGHTS]))
    except (OSError, HFValidationError) as error:
        raise UserError(
            f"{str(adapter)!r} is neither a folder here nor a hub repository that can be reached ({error})."
        ) from None


def _read_config(folder: Path) -> dict[str, Any]:
    path = folder / CONFIG
    try:
        config = json.loads(path.read_text(encoding="utf8"))
    except OSError:
        raise UserError(f"Expected an adapter in PEFT's format, found no {path}.") from None
    except ValueError as error:
        raise UserError(f"{path} is not valid JSON ({error}).") from None
    if not isinstance(config, dict) or config.get("peft_type") not in _READERS:
        kind = config.get("peft_type") if isinstance(config, dict) else None
        raise UserError(
            f"{path}: expected an adapter of type {', '.join(_READERS)}, got {kind!r}, which no tuner can hold as PEFT "
            "computes it."
        )
    if config.get("modules_to_save"):
        raise UserError(f"{path}: it also saves whole modules ({config['modules_to_save']}), which no tuner holds.")
    return config


def _same_backbone(config: Mapping[str, Any], name: str, folder: Path) -> None:
    """Shapes tell t5-base from t5-small, but not from flan-t5-base; names do, where both are of the hub."""
    base = str(config.get("base_model_name_or_path") or "")
    hub = all(text.count("/") == 1 and not Path(text).exists() for text in (base, name))
    embedded = "/" not in base and "/" not in name and base and name
    if (hub or embedded) and base != name:
        raise UserError(f"The adapter in {folder} was trained on backbone {base!r}, not on {name!r}.")


def _read(folder: Path, config: Mapping[str, Any], backbone: PreTrainedModel) -> Adapter:
    path = folder / WEIGHTS
    if not path.is_file():
        pickle = f" ({PICKLE} is a pickle, which is not read: save it as safetensors)"
        raise UserError(f"Found no {path}{pickle if (folder / PICKLE).exists() else ''}.")
    try:
        state = load_file(path)
    except (SafetensorError, OSError, ValueError) as error:
        raise UserError(f"{path} cannot be read as safetensors: {error}.") from None
    found = _READERS[str(config["peft_type"])](config, state, list_operations(backbone))
    _check_shapes(found, list_operations(backbone), folder, config)
    return found


def _check_shapes(adapter: Adapter, operations: tuple[Operation, ...], folder: Path, config: Mapping[str, Any]) -> None:
    by_name = {operation.name: operation for operation in operations}
    for name, tensors in adapter.tensors.items():
        for key, spec in adapter.tuner.tensors(by_name[name]).items():
            if tuple(tensors[key].shape) != spec.shape:
                raise UserError(
                    f"The adapter in {folder} belongs to another backbone ({config.get('base_model_name_or_path')!r}): "
                    f"its tensor at {by_name[name].path} has shape {tuple(tensors[key].shape)}, expected {spec.shape}."
                )


# ------------------------------------------------------------------------------------------------------------ by type


def _read_lora(config: Mapping[str, Any], state: Mapping[str, Tensor], operations: tuple[Operation, ...]) -> Adapter:
    for setting, plain in PLAIN.items():
        if config.get(setting, plain) not in (plain, None):
            raise UserError(f"A LoRA with {setting}={config[setting]!r} computes something else than LoRA does here.")
    start = config.get("init_lora_weights")
    if str(start).lower().startswith(TAKEN_AWAY):
        raise UserError(
            f"A LoRA with init_lora_weights={start!r} applies to base weights that were changed at its start: save it "
            "with PEFT's `path_initial_model_for_weight_conversion`, which converts it to an ordinary LoRA."
        )
    at = {operation.path: operation for operation in operations if operation.kind in PROJECTIONS}
    found: dict[str, dict[str, Tensor]] = {}
    for key, value in state.items():
        path, letter = _split(key, ("lora_A.weight", "lora_B.weight"))
        name = "down" if letter == "lora_A.weight" else "up"
        found.setdefault(_at(at, path).name, {})[name] = value.float().T.contiguous()
    paths = {operation.name: operation.path for operation in operations}
    ranks = {name: tensors["down"].shape[1] for name, tensors in found.items() if len(tensors) == 2}
    if len(ranks) != len(found) or not found:
        raise UserError("A LoRA needs lora_A and lora_B of each of its modules.")
    rank, alpha = max(ranks.values()), float(config.get("lora_alpha") or 8)
    for name, tensors in found.items():
        own = _of_module(config.get("alpha_pattern"), paths[name], alpha)
        scale = own / (ranks[name] ** 0.5 if config.get("use_rslora") else ranks[name])
        tensors["up"] = tensors["up"] * (scale / (alpha / rank))
        if ranks[name] < rank:  # of lower rank than others: the further directions are zero
            tensors["down"] = torch.nn.functional.pad(tensors["down"], (0, rank - ranks[name]))
            tensors["up"] = torch.nn.functional.pad(tensors["up"], (0, 0, 0, rank - ranks[name]))
    return Adapter(LoRA(rank=rank, alpha=alpha), found)


def _of_module(pattern: Mapping[str, float] | None, path: str, default: float) -> float:
    """What PEFT's `alpha_pattern` says of a module: keys are ends of its path, or regular expressions of them."""
    for key, value in (pattern or {}).items():
        if re.match(rf"(.*\.)?({key})$", path):
            return float(value)
    return default


def _read_ia3(config: Mapping[str, Any], state: Mapping[str, Tensor], operations: tuple[Operation, ...]) -> Adapter:
    written = {operation.path: operation for operation in operations if operation.kind in PROJECTIONS}
    entering = {operation.path: operation for operation in operations if operation.kind == "hidden"}
    found: dict[str, dict[str, Tensor]] = {}
    for key, value in state.items():
        path, _ = _split(key, ("ia3_l",))
        # A row scales what enters a module of the feed-forward network, a column what another one writes.
        operation = _at(entering if value.shape[0] == 1 else written, path)
        found[operation.name] = {"shift": value.float().flatten() - 1}
    return Adapter(Scale(), found)


def _read_prompt(config: Mapping[str, Any], state: Mapping[str, Tensor], operations: tuple[Operation, ...]) -> Adapter:
    length = int(config["num_virtual_tokens"])
    if "prompt_embeddings" not in state:
        raise UserError(f"A prompt needs the tensor 'prompt_embeddings', got {', '.join(state)}.")
    return Adapter(Prompt(length=length), {operations[0].name: {"rows": state["prompt_embeddings"].float()[:length]}})


_READERS: dict[str, Callable[[Mapping[str, Any], Mapping[str, Tensor], tuple[Operation, ...]], Adapter]] = {
    "LORA": _read_lora,
    "IA3": _read_ia3,
    "PROMPT_TUNING": _read_prompt,
}


def _split(key: str, endings: tuple[str, ...]) -> tuple[str, str]:
    """The module's path and what it is of it."""
    path = key.removeprefix("base_model.model.")
    for ending in endings:
        if path.endswith(f".{ending}"):
            return path.removesuffix(f".{ending}"), ending
    raise UserError(f"The adapter's tensor {key!r} is none of {', '.join(endings)}, which no tuner of this kind holds.")


def _at(operations: Mapping[str, Operation], path: str) -> Operation:
    if path not in operations:
        hint = unknown("module to adapt", path, operations)
        raise UserError(f"The adapter has tensors where this backbone has no such projection. {hint}")
    return operations[path]


# ----------------------------------------------------------------------------------------------------------- the model


def _placed(model: TunedModel, adapter: Tuner) -> dict[str, Placed]:
    """Where the model has the adapter's kind of tuner with tensors of each task: operation -> tuner."""
    own = _held(model)
    return {
        name: placed
        for name, there in model.assembly.plan.items()
        for placed in there
        if type(placed.tuner) is type(adapter) and all(key in own for key, _ in placed.tensors.values())
    }


def _held(model: TunedModel) -> dict[str, Tensor]:
    """By group, the tensors that each task has for itself: [T, n, *shape]."""
    return {
        group.key: source.tensors[safe(group.key)]
        for name, source in model.sources.items()
        if type(source) is PerTask
        for group in model.assembly.groups[name]
    }


def _check_room(model: TunedModel, adapter: Adapter, folder: Path) -> None:
    placed = _placed(model, adapter.tuner)
    for part in model.method.parts:
        if type(part.tuner) is not type(adapter.tuner):
            raise UserError(
                f"Method {model.method.name!r} also has {part.tuner} ({part.name}), for which the adapter in {folder} "
                "has no tensors: load it as a model of its own (leave `into` out)."
            )
    for name in adapter.tensors:
        own = placed[name].tuner if name in placed else None
        if own != adapter.tuner:
            raise UserError(
                f"The adapter in {folder} is {adapter.tuner} at {name}, where method {model.method.name!r} has "
                f"{own or 'none with per-task tensors'}: load it as a model of its own (leave `into` out)."
            )


@torch.no_grad()
def _write(model: TunedModel, task: str, tensors: Mapping[str, Mapping[str, Tensor]]) -> None:
    """Make the adapter's tensors the task's; at operations that it does not touch, the task's tuner does nothing."""
    index, held = model.task_id(task), _held(model)
    for values in held.values():
        values[index] = 0
    for name, there in model.assembly.plan.items():
        for placed in there:
            for kind, (key, number) in placed.tensors.items() if name in tensors else ():
                held[key][index, number] = tensors[name][kind].to(held[key])
