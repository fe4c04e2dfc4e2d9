"""Checkpoints for resuming: whole or absent, checked on the way in, and nothing in them is a pickle.

    checkpoints/step-200/
        model.safetensors       trained tensors
        optimizer.safetensors   what the optimiser remembers, by parameter name
        course.safetensors      what the method's courses remember
        rng.json                random states of python, numpy, torch and the accelerator, one entry a process
        trainer.json            step, sampler, history of evaluations, settings
        manifest.json           size and checksum of every file above, and its own; written last

A checkpoint is written into a hidden folder, flushed, and renamed: a killed process leaves none that looks whole, and
at no moment does one vanish because it is saved again. Who writes here holds the lock of the run folder.
"""

from __future__ import annotations

import base64
import json
import os
import random
import re
import shlex
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from hyperpelt.errors import UserError
from hyperpelt.files import folders, manifests
from hyperpelt.files.atomic import flush, write_text
from hyperpelt.files.manifests import MANIFEST
from hyperpelt.files.reading import Damaged, read_json, read_object
from hyperpelt.files.tensors import read_tensors, write_tensors

TENSORS = ("model.safetensors", "optimizer.safetensors")
REQUIRED = (*TENSORS, "rng.json", "trainer.json")
COURSE = "course.safetensors"  # there if the method has a course
_NAME = re.compile(r"step-(\d+)")


@dataclass(frozen=True)
class Checkpoint:
    """Everything needed to go on as if training had never stopped."""

    step: int
    model: Mapping[str, Tensor]
    optimizer: Mapping[str, Tensor]
    course: Mapping[str, Tensor]
    rng: list[dict[str, Any]]  # one a process
    trainer: dict[str, Any]


# ----------------------------------------------------------------------------------------------------------- writing


def save_checkpoint(folder: Path, checkpoint: Checkpoint) -> Path:
    """Write `folder`/step-N, atomically; an earlier one of this step is replaced."""
    target = folder / f"step-{checkpoint.step}"
    with folders.building(target) as new:
        for name, tensors in zip(TENSORS, (checkpoint.model, checkpoint.optimizer), strict=True):
            write_tensors(new / name, tensors)
        if checkpoint.course:
            write_tensors(new / COURSE, checkpoint.course)
        # Not as `write_json` does: a best value of -inf must come back as it was.
        write_text(new / "rng.json", json.dumps(checkpoint.rng))
        write_text(new / "trainer.json", json.dumps(checkpoint.trainer, indent=1))
        manifests.write(new, step=checkpoint.step)
    return target


def adopt(source: Path, folder: Path) -> None:
    """Copy a checkpoint of another run into `folder`, atomically; nothing happens if it is there already."""
    target = folder / source.name
    if not target.exists():
        with folders.building(target) as new:
            shutil.copytree(source, new, dirs_exist_ok=True)


def recover(folder: Path) -> None:
    """Put back a whole checkpoint that a killed process was about to replace, and clear away what else it left."""
    folders.recover(folder, _NAME.pattern, everyone=True, whole=_is_whole)


def _is_whole(path: Path) -> bool:
    try:
        manifests.check(path, REQUIRED)
        return True
    except (UserError, OSError):
        return False


def set_aside(folder: Path, *, after: int) -> list[str]:
    """Rename the checkpoints later than a step, from which a run now goes on: they belong to another course of it.

    Returns their new names. Left as they are, they would count as newer than what this run saves.
    """
    renamed = []
    for step, path in list_checkpoints(folder).items():
        if step > after:
            number = next(n for n in count(1) if not (folder / f"aside-{n}-{path.name}").exists())
            renamed.append(f"aside-{number}-{path.name}")
            os.rename(path, folder / renamed[-1])
    if renamed:
        flush(folder)
    return renamed


def prune(folder: Path, *, keep: int, best: int | None) -> None:
    """Keep the newest `keep` checkpoints and the best one; clear away what killed processes left."""
    steps = list_checkpoints(folder)
    for step in sorted(steps)[:-keep]:
        if step != best:
            folders.remove(steps[step])
    recover(folder)


# ----------------------------------------------------------------------------------------------------------- reading


def list_checkpoints(folder: Path) -> dict[int, Path]:
    """Step -> folder of every checkpoint, oldest first."""
    if not folder.is_dir():
        return {}
    found = {int(match[1]): path for path in folder.iterdir() if (match := _NAME.fullmatch(path.name))}
    return dict(sorted(found.items()))


def load_checkpoint(path: Path) -> Checkpoint:
    """Read a checkpoint after checking every file against the manifest; UserError says which file is wrong."""
    step = _check(path)
    try:
        rng, trainer = read_json(path / "rng.json"), read_object(path / "trainer.json")
        model, optimizer = (read_tensors(path / name) for name in TENSORS)
        course = read_tensors(path / COURSE) if (path / COURSE).exists() else {}
        if trainer["state"]["step"] != step:
            raise Damaged(f"trainer.json is of step {trainer['state']['step']}, {MANIFEST} of step {step}")
    except (Damaged, KeyError, TypeError) as problem:
        raise _damaged(path, str(problem)) from None
    return Checkpoint(step, model, optimizer, course, rng, trainer)


def settings_of(path: Path) -> dict[str, Any]:
    """The settings of the run that wrote a checkpoint."""
    try:
        return dict(read_object(path / "trainer.json")["config"])
    except (Damaged, FileNotFoundError, KeyError) as error:
        raise _damaged(path, str(error)) from None


def load_trained(path: Path) -> dict[str, Tensor]:
    """The trained tensors of a checkpoint alone, checked as in `load_checkpoint`."""
    _check(path)
    return read_tensors(path / "model.safetensors")


def _check(path: Path) -> int:
    """The step of a checkpoint whose files are as they were written."""
    try:
        step = manifests.check(path, REQUIRED).get("step")
        match = _NAME.fullmatch(path.name)
        if not isinstance(step, int) or (match is not None and int(match[1]) != step):
            raise Damaged(f"its {MANIFEST} is of step {step!r}, its name of another one")
        return step
    except FileNotFoundError:
        raise UserError(f"{path} is no checkpoint: it has no {MANIFEST}.{_others(path)}") from None
    except Damaged as problem:
        raise _damaged(path, str(problem)) from None


def _damaged(path: Path, reason: str) -> UserError:
    return UserError(f"Checkpoint {path} is damaged: {reason}.{_others(path)}")


def _others(path: Path) -> str:
    others = [str(other) for other in list_checkpoints(path.parent).values() if other.name != path.name]
    if not others:
        return " There is no other checkpoint beside it."
    return f" Resume from another one: {shlex.quote(f'resume={others[-1]}')}"


# ----------------------------------------------------------------------------------------------------- random states


def random_states(device: torch.device) -> dict[str, Any]:
    """The state of every generator that training may draw from, in JSON's terms."""
    numpy_state: Any = np.random.get_state()
    name, keys, position, has_gauss, gauss = numpy_state
    version, internal, gauss_next = random.getstate()
    states = {
        "python": [version, list(internal), gauss_next],
        "numpy": [name, _encode(keys.tobytes()), int(position), int(has_gauss), float(gauss)],
        "torch": _encode(torch.get_rng_state().numpy().tobytes()),
    }
    if device.type == "cuda":
        states["cuda"] = _encode(torch.cuda.get_rng_state(device).numpy().tobytes())
    return states


def restore_random_states(states: Mapping[str, Any], device: torch.device) -> None:
    """The reverse of `random_states`; an accelerator's state is taken where there is the same kind of it."""
    version, internal, gauss_next = states["python"]
    random.setstate((version, tuple(internal), gauss_next))
    name, keys, position, has_gauss, gauss = states["numpy"]
    np.random.set_state((name, np.frombuffer(base64.b64decode(keys), np.uint32), position, has_gauss, gauss))
    torch.set_rng_state(_decode(states["torch"]))
    if device.type == "cuda" and "cuda" in states:
        torch.cuda.set_rng_state(_decode(states["cuda"]), device)


def _encode(raw: bytes) -> str:
    return base64.b64encode(raw).decode("ascii")


def _decode(text: str) -> Tensor:
    return torch.frombuffer(bytearray(base64.b64decode(text)), dtype=torch.uint8)
