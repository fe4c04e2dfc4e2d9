"""Out of the hypernetwork: bake one task into static tensors, or write it as a PEFT adapter where PEFT has the type.

A baked model has the same tuners at the same operations; its tensors are those that were made for the task, kept
flat. It is bit-equal to the model it came from on that task, needs no hypernetwork, and is saved and loaded as every
tuned model is.

PEFT has LoRA, (IA)^3 and prompts for T5 and BART, but no bottleneck adapter, and its prefixes never reach an encoder:
what it cannot hold is refused by name, never dropped.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import torch
from torch import Tensor

from hyperpelt.attachment.passes import Placed
from hyperpelt.config.paths import place
from hyperpelt.errors import UserError
from hyperpelt.export.placing import writing_export
from hyperpelt.files.atomic import write_json
from hyperpelt.files.tensors import write_tensors
from hyperpelt.methods.base import Part, Source
from hyperpelt.model.tuned import TunedModel
from hyperpelt.operations import Operation
from hyperpelt.tuners import LoRA, Prompt, Scale
from hyperpelt.weights.side import SIDE

if TYPE_CHECKING:
    from transformers import PreTrainedModel

Model = TypeVar("Model", bound=TunedModel)


@torch.no_grad()
def bake(model: TunedModel, task: str) -> TunedModel:
    """A model of one task with static tensors, bit-equal to `model` on it. Shares the backbone object.

    Raises:
        UserError: the model does not know the task, or trains the backbone itself.
    """
    if model.unfrozen:
        raise UserError(
            f"A baked task needs the frozen backbone, but method {model.method.name!r} trains "
            f"{len(model.unfrozen)} of its parameters: save the model whole, or write the task as plain weights "
            "(`--to merged`)."
        )
    mode = model.training
    try:
        return static(model, task, model.backbone, model.method.parts)
    finally:
        model.train(mode)  # the baked model, in evaluation mode, shares the backbone


def static(
    model: TunedModel,
    task: str,
    backbone: PreTrainedModel,
    parts: Sequence[Part],
    *,
    prefix: str = "baked",
    kind: type[Model] = TunedModel,
) -> Model:
    """Some of a model's parts over a backbone, for one task: their tensors made once and kept flat.

    - **prefix**: goes before the method's name
    - **kind**: of the model that is made
    """
    index = torch.tensor([model.task_id(task)], device=model.device)
    used = {name: model.method.source(name) for part in parts for name in part.sources}
    seeing = {name: source for name, source in used.items() if not source.of_tasks}
    parts = tuple(part.drawing(lambda name: name if name in seeing else "baked") for part in parts)
    sources = {"baked": Source(type="per_task"), **seeing}
    method = replace(
        model.method, name=f"{prefix}-{model.method.name}", parts=parts, sources=sources, unfreeze=(), courses=()
    )
    made = kind(
        backbone,
        method,
        [task],
        tokenizer=model.tokenizer,
        backbone_name=model.backbone_name,
        seed=model.seed,
        calibrate=False,
        visual=model.visual,
    )
    made.task_fingerprints = {task: model.task_fingerprints.get(task)}
    made.languages = dict(model.languages)
    for name in seeing.keys() & model.sources.keys():  # what differs from row to row stays made
        made.sources[name] = copy.deepcopy(model.sources[name])
    if model.sources.side_network is not None:
        made.sources[SIDE] = copy.deepcopy(model.sources.side_network)
    with model.evaluating():  # nothing of a baked task is drawn
        values = model.weights_of(index)
    for source in made.sources.of_tasks():
        source.keep(values)
    return made.eval()


def export_baked(
    model: TunedModel, task: str, folder: str | Path, *, beside: Callable[[Path], None] | None = None
) -> Path:
    """Write one task as a hyperpelt model of static tensors, see `bake`; returns the folder.

    - **beside**: writes further files into a folder that is given to it, which go along

    Raises:
        UserError: as `bake`; the folder holds something else than an export.
    """
    folder = place(folder)
    with writing_export(folder, form="baked", task=task) as new:
        bake(model, task).save_pretrained(new)
        if beside is not None:
            beside(new)
    return folder


# PEFT adapters


def _lora(placed: Placed, operation: Operation, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    path = f"base_model.model.{operation.path}"
    return {f"{path}.lora_A.weight": tensors["down"].T, f"{path}.lora_B.weight": tensors["up"].T}


def _ia3(placed: Placed, operation: Operation, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    # PEFT scales the input of a "feedforward" module (kept as a row) and the output of others (kept as a column).
    shape = (1, -1) if operation.kind == "hidden" else (-1, 1)
    return {f"base_model.model.{operation.path}.ia3_l": (1 + tensors["shift"]).reshape(shape)}


def _lora_config(model: TunedModel) -> dict[str, Any]:
    tuners = {placed.tuner for there in model.assembly.plan.values() for placed in there}
    if len(tuners) != 1:
        raise UserError("PEFT's LoRA export needs one rank and alpha for the whole model.")
    (tuner,) = tuners
    assert isinstance(tuner, LoRA)
    alpha = tuner.rank if tuner.alpha is None else tuner.alpha
    paths = sorted(op.path for op in model.assembly.operations)
    return {"peft_type": "LORA", "r": tuner.rank, "lora_alpha": alpha, "lora_dropout": 0.0, "target_modules": paths}


def _ia3_config(model: TunedModel) -> dict[str, Any]:
    operations = model.assembly.operations
    return {
        "peft_type": "IA3",
        "target_modules": sorted(op.path for op in operations),
        "feedforward_modules": sorted(op.path for op in operations if op.kind == "hidden"),
    }


_PEFT: dict[type, tuple[Callable[..., dict[str, Tensor]], Callable[[TunedModel], dict[str, Any]]]] = {
    LoRA: (_lora, _lora_config),
    Scale: (_ia3, _ia3_config),
}


def _no_room(model: TunedModel, what: str, where: str) -> UserError:
    return UserError(
        f"PEFT keeps one adapter a module, but two {what} of method {model.method.name!r} meet at {where!r}. Use "
        "`--to baked`, which keeps every method."
    )


def export_peft(model: TunedModel, task: str, folder: str | Path) -> Path:
    """Write one task as a PEFT adapter (`adapter_config.json`, `adapter_model.safetensors`); returns the folder.

    Raises:
        UserError: the method is not of one type that PEFT has, or has two tuners where PEFT has room for one; or the
            folder holds something else than an export.
    """
    if model.visual is not None:
        raise UserError(f"PEFT cannot hold the visual part of method {model.method.name!r}. Use `--to baked`.")
    of_rows = [p.name for p in model.method.parts if not all(model.method.source(n).of_tasks for n in p.sources)]
    if of_rows:
        raise UserError(
            f"PEFT keeps one set of tensors, and part {of_rows[0]!r} of method {model.method.name!r} makes its own for "
            "every row. Use `--to baked`."
        )
    if model.unfrozen:
        raise UserError(
            f"PEFT cannot hold the {len(model.unfrozen)} parameters of the backbone that method {model.method.name!r} "
            "trains. Use `--to merged`."
        )
    baked = bake(model, task)
    kinds = {type(placed.tuner) for there in baked.assembly.plan.values() for placed in there}
    if len(kinds) != 1 or not kinds <= {*_PEFT, Prompt}:
        names = ", ".join(sorted(kind.type_name for kind in kinds)) or "no tuner"
        raise UserError(
            f"PEFT cannot hold method {model.method.name!r} ({names}): it has types for LoRA, (IA)^3 and prompts, one "
            "at a time. Use `--to baked`, which keeps every method."
        )
    (kind,) = kinds
    weights = {
        name: values[0].detach().float() for name, values in baked.weights_of(torch.zeros(1, dtype=torch.long)).items()
    }
    if kind is Prompt:
        if len(weights) > 1:
            raise _no_room(model, "prompts", "encoder.embedding")
        (rows,) = weights.values()
        state = {"prompt_embeddings": rows[0]}
        config: dict[str, Any] = {
            "peft_type": "PROMPT_TUNING",
            "num_virtual_tokens": rows.shape[1],
            "token_dim": rows.shape[2],
            "num_transformer_submodules": 1,
        }
    else:
        write, configure = _PEFT[kind]
        state: dict[str, Tensor] = {}
        for operation in baked.assembly.operations:
            for placed in baked.assembly.plan[operation.name]:
                tensors = {name: weights[key][index] for name, (key, index) in placed.tensors.items()}
                written = write(placed, operation, tensors)
                if written.keys() & state.keys():  # (IA)^3 of the hidden layer and of wo, too, are kept in one place
                    raise _no_room(model, "tuners", operation.path)
                state |= written
        config = configure(baked)
    folder = place(folder)
    config |= {"task_type": "SEQ_2_SEQ_LM", "base_model_name_or_path": model.backbone_name, "inference_mode": True}
    with writing_export(folder, form="peft", task=task) as new:
        write_tensors(new / "adapter_model.safetensors", state)
        write_json(new / "adapter_config.json", config, indent=2)
    return folder
