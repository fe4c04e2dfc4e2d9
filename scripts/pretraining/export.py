"""A checkpoint becomes the shipped asset: bf16 safetensors, config.json, and a card made from the run's own record."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file

from hyperpelt.backbones import embedded
from hyperpelt.backbones.mini_bart import mini_bart_config
from hyperpelt.backbones.mini_t5 import mini_t5_config
from hyperpelt.errors import UserError
from hyperpelt.files import checksums, folders
from hyperpelt.files.atomic import write_json
from hyperpelt.files.tensors import write_tensors
from pretraining.loop import checkpoints

# Beside the weights; kept when they are replaced. A first export takes what cards/ has for the model.
_CARD = "README.md"
CARDS = Path(__file__).parent / "cards"


def export(run: Path, target: Path, *, step: int | None = None) -> Path:
    """Write `target` (an asset folder) from a run's checkpoint: the newest, or that of `step`.

    Weights go first into a temporary folder that takes the target's place at the end.
    """
    checkpoint = choose(run, step)
    plan = json.loads((run / "plan.json").read_text(encoding="utf8"))
    state = {name: tensor.to(torch.bfloat16) for name, tensor in load_file(checkpoint / "model.safetensors").items()}
    card = target / _CARD if (target / _CARD).is_file() else CARDS / f"{plan['model']}.md"
    folders.recover(target.parent, re.escape(target.name))
    with folders.building(target) as new:
        write_tensors(new / "model.safetensors", state, {"format": "pt"})
        _write_config(plan, new)
        checksum = {embedded.CHECKSUM: checksums.of_file(new / "model.safetensors")}
        write_json(new / "training.json", training_record(run, checkpoint) | checksum)
        if card.is_file():
            shutil.copy(card, new / _CARD)
    return target


def choose(run: Path, step: int | None) -> Path:
    found = {int(path.name[5:]): path for path in checkpoints(run)}
    if not found:
        raise UserError(f"Expected a run of scripts/pretrain with a checkpoint, found none in {run}.")
    if step is None:
        return found[max(found)]
    if step not in found:
        raise UserError(f"{run} has no checkpoint of step {step}; it has {', '.join(map(str, sorted(found)))}.")
    return found[step]


def _write_config(plan: Mapping[str, Any], folder: Path) -> None:
    config = mini_bart_config() if plan["model"] == "mini-bart" else mini_t5_config()
    config.save_pretrained(folder)


def record_of(source: Path) -> dict[str, Any]:
    """The record of weights that a run started from: a checkpoint's, or what lies beside an exported asset."""
    exported = source / "training.json"
    if exported.is_file():
        return json.loads(exported.read_text(encoding="utf8"))
    if not (source / "state.json").is_file():
        raise UserError(
            f"The run started from {source}, whose record belongs into the card, and found no checkpoint there "
            f"(relative paths are read from {Path.cwd()}): export from the folder where it was trained, with that run "
            "in its place."
        )
    return training_record(source.parent.parent, source)


def training_record(run: Path, checkpoint: Path) -> dict[str, Any]:
    """What the card tells: plan, steps, tokens, and the loss curve thinned to some forty points."""
    plan = json.loads((run / "plan.json").read_text(encoding="utf8"))
    state = json.loads((checkpoint / "state.json").read_text(encoding="utf8"))
    plan["text"] = [Path(path).name for path in plan["text"]]
    plan["validation"] = Path(plan["validation"]).name
    lines = [json.loads(line) for line in (run / "log.jsonl").read_text(encoding="utf8").splitlines()]
    # A resumed run repeats the steps after its checkpoint; the later record of a step is the one that counts.
    curve = {line["step"]: line["loss"] for line in lines if "loss" in line and line["step"] <= state["step"]}
    held_out = {
        line["step"]: {name: round(value, 4) for name, value in line.items() if name.startswith("held_out_")}
        for line in lines
        if any(name.startswith("held_out_") for name in line) and line["step"] <= state["step"]
    }
    points = sorted(curve)[:: max(len(curve) // 40, 1)]
    before: dict[str, Any] = {}
    for key, name in (("init", "earlier"), ("encoder", "encoder")):
        source = Path(plan[key]) if plan.get(key) else None
        plan[key] = source.name if source else None
        if source:
            before[name] = record_of(source)
    return {
        **before,
        "plan": plan,
        "schedule": state["settings"]["schedule"],
        "precision": state["settings"]["precision"],
        "step": state["step"],
        "target_tokens": state["target_tokens"],
        "loss_curve": {str(step): round(curve[step], 4) for step in points},
        "held_out": {str(step): held_out[step] for step in sorted(held_out)},
    }
