"""Checkpoints for resuming: whole or absent, checked on the way in, and nothing in them is a pickle.

    checkpoints/step-200/
        model.safetensors       trained tensors
        optimizer.safetensors   what the optimiser remembers, by parameter name
        rng.json                random states of python, numpy, torch and the accelerator, one entry a process
        trainer.json            step, sampler, history of evaluations, settings
        manifest.json           size and SHA-256 of every file above; written last

A checkpoint is written into a hidden folder, flushed, and renamed: a killed process leaves none that looks whole.
"""

from __future__ import annotations

import base64
import json
import os
import random
import re
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from hashlib import sha256
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from hyperpelt.errors import UserError

FORMAT = 1
MANIFEST = "manifest.json"
_NAME = re.compile(r"step-(\d+)")


@dataclass(frozen=True)
class Checkpoint:
    """Everything needed to go on as if training had never stopped."""

    step: int
    model: Mapping[str, Tensor]
    optimizer: Mapping[str, Tensor]
    rng: list[dict[str, Any]]  # one a process
    trainer: dict[str, Any]


# ----------------------------------------------------------------------------------------------------------- writing


def save_checkpoint(folder: Path, checkpoint: Checkpoint) -> Path:
    """Write `folder`/step-N, atomically; an earlier one of this step is replaced."""
    from safetensors.torch import save_file

    target = folder / f"step-{checkpoint.step}"
    temporary = folder / f".tmp-step-{checkpoint.step}-{os.getpid()}"
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir(parents=True)
    for name, tensors in (("model", checkpoint.model), ("optimizer", checkpoint.optimizer)):
        save_file(_owned(tensors), temporary / f"{name}.safetensors")
    write_json(temporary / "rng.json", checkpoint.rng)
    write_json(temporary / "trainer.json", checkpoint.trainer)
    files = {path.name: {"bytes": path.stat().st_size, "sha256": _hash(path)} for path in sorted(temporary.iterdir())}
    write_json(temporary / MANIFEST, {"format": FORMAT, "step": checkpoint.step, "files": files})
    for path in temporary.iterdir():
        path.chmod((temporary / MANIFEST).stat().st_mode)  # safetensors writes for its owner alone
        _flush(path)
    _flush(temporary)
    if target.exists():
        remove_checkpoint(target)
    os.rename(temporary, target)
    _flush(folder)
    return target


def _owned(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}


def write_json(path: Path, content: Any) -> None:
    """Write JSON so that the file is either the old one or the new one, whatever happens meanwhile."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    temporary.write_text(json.dumps(content, indent=1) + "\n", encoding="utf8")
    os.replace(temporary, path)


def _flush(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _hash(path: Path) -> str:
    with path.open("rb") as file:
        state = sha256()
        while block := file.read(1 << 20):
            state.update(block)
    return state.hexdigest()


def remove_checkpoint(path: Path) -> None:
    """Delete a checkpoint; at no moment does a half-deleted one look whole."""
    doomed = path.with_name(f".old-{path.name}-{os.getpid()}")
    os.rename(path, doomed)
    shutil.rmtree(doomed, ignore_errors=True)


def adopt(source: Path, folder: Path) -> None:
    """Copy a checkpoint of another run into `folder`, atomically; nothing happens if it is there already."""
    target = folder / source.name
    if target.exists():
        return
    temporary = folder / f".tmp-{source.name}-{os.getpid()}"
    shutil.rmtree(temporary, ignore_errors=True)
    shutil.copytree(source, temporary)
    os.rename(temporary, target)


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
    return renamed


def prune(folder: Path, *, keep: int, best: int | None) -> None:
    """Keep the newest `keep` checkpoints and the best one; clear away what killed processes left."""
    steps = list_checkpoints(folder)
    for step in sorted(steps)[:-keep]:
        if step != best:
            remove_checkpoint(steps[step])
    for leftover in (*folder.glob(".tmp-*"), *folder.glob(".old-*")):
        shutil.rmtree(leftover, ignore_errors=True)


# ----------------------------------------------------------------------------------------------------------- reading


def list_checkpoints(folder: Path) -> dict[int, Path]:
    """Step -> folder of every checkpoint, oldest first."""
    if not folder.is_dir():
        return {}
    found = {int(match[1]): path for path in folder.iterdir() if (match := _NAME.fullmatch(path.name))}
    return dict(sorted(found.items()))


def load_checkpoint(path: Path) -> Checkpoint:
    """Read a checkpoint after checking every file against the manifest; UserError says which file is wrong."""
    from safetensors.torch import load_file

    manifest = _check(path)
    trainer, rng = (json.loads((path / name).read_text(encoding="utf8")) for name in ("trainer.json", "rng.json"))
    tensors = {name: load_file(path / f"{name}.safetensors") for name in ("model", "optimizer")}
    return Checkpoint(step=manifest["step"], rng=rng, trainer=trainer, **tensors)


def load_trained(path: Path) -> dict[str, Tensor]:
    """The trained tensors of a checkpoint alone, checked as in `load_checkpoint`."""
    from safetensors.torch import load_file

    _check(path)
    return load_file(path / "model.safetensors")


def _check(path: Path) -> dict[str, Any]:
    try:
        manifest = json.loads((path / MANIFEST).read_text(encoding="utf8"))
        files, form = manifest["files"], manifest["format"]
    except FileNotFoundError:
        raise UserError(f"{path} is no checkpoint: it has no {MANIFEST}.{_others(path)}") from None
    except (ValueError, KeyError, TypeError):
        raise _damaged(path, f"its {MANIFEST} is not readable") from None
    if form != FORMAT:
        raise UserError(f"Checkpoint {path} has format {form}, this version reads format {FORMAT}.")
    for name, expected in files.items():
        file = path / name
        if not file.is_file():
            raise _damaged(path, f"{name} is missing")
        if file.stat().st_size != expected["bytes"]:
            raise _damaged(path, f"{name} has {file.stat().st_size} bytes, {expected['bytes']} were written")
        if _hash(file) != expected["sha256"]:
            raise _damaged(path, f"{name} was changed after it was written (its SHA-256 differs)")
    return manifest


def _damaged(path: Path, reason: str) -> UserError:
    return UserError(f"Checkpoint {path} is damaged: {reason}.{_others(path)}")


def _others(path: Path) -> str:
    others = [str(other) for other in list_checkpoints(path.parent).values() if other.name != path.name]
    return f" Resume from another one: resume={others[-1]}" if others else " There is no other checkpoint beside it."


# ----------------------------------------------------------------------------------------------------- random states


def random_states(device: torch.device) -> dict[str, Any]:
    """The state of every generator that training may draw from, in JSON's terms."""
    name, keys, position, has_gauss, gauss = np.random.get_state()
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
