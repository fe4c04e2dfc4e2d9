"""What a tuned model is on disk: `config.json` and `model.safetensors`, written so that half a model never looks whole.

`config.json` names the backbone (id, hash of its configuration, fingerprint of its weights), the method with every
hyper-parameter, the ordered tasks, the versions, and the SHA-256 of `model.safetensors` and of itself. The tensors
file holds what the method trains or draws, nothing of the frozen backbone. Nothing here is a pickle.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from hyperpelt.backbones import shipped
from hyperpelt.errors import UserError

CONFIG, TENSORS = "config.json", "model.safetensors"
FORMAT = 1


def weights_fingerprint(backbone: nn.Module) -> str:
    """A short hash of a few of the backbone's weights, equal for float32 and bfloat16 copies of the same model.

    Tells a t5-base from another model of the same shape without reading hundreds of megabytes.
    """
    digest = hashlib.sha256()
    named = sorted((name, p) for name, p in backbone.named_parameters() if p.dim() >= 1)
    for _, parameter in named[:: max(1, len(named) // 8)]:
        head = parameter.detach().flatten()[:256].to("cpu", torch.bfloat16).view(torch.int16)
        digest.update(head.numpy().tobytes())
    return digest.hexdigest()[:16]


def _hash(data: Mapping[str, Any]) -> str:
    rest = {key: value for key, value in data.items() if key != "config_sha256"}
    return hashlib.sha256(json.dumps(rest, sort_keys=True).encode()).hexdigest()


def _file_hash(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _replace(path: Path, write: Any) -> None:
    """Write a file under another name and move it into place."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        temporary.touch()
        mode = temporary.stat().st_mode
        write(temporary)
        temporary.chmod(mode)  # safetensors writes for its owner alone
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def write(folder: str | Path, config: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> None:
    """Write both files. `config.json` comes last and holds the other's hash, so it vouches for the whole."""
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    plain = {name: tensor.detach().to("cpu").contiguous() for name, tensor in tensors.items()}
    metadata = {"format": "pt"}
    _replace(folder / TENSORS, lambda path: save_file(plain, str(path), metadata=metadata))
    full = {"format": FORMAT, **config, "tensors_sha256": _file_hash(folder / TENSORS)}
    full["config_sha256"] = _hash(full)
    text = json.dumps(full, indent=2) + "\n"
    _replace(folder / CONFIG, lambda path: path.write_text(text, encoding="utf8"))


def read_config(folder: str | Path) -> dict[str, Any]:
    """The `config.json` of a tuned model.

    Raises:
        UserError: no such folder or file, not JSON, edited, or of a newer format.
    """
    path = Path(folder) / CONFIG
    if not path.is_file():
        raise UserError(
            f"Expected a folder with a trained model ({CONFIG} and {TENSORS}), found no {path}. Runs that come with "
            f"hyperpelt: {', '.join(shipped.names())}."
        )
    try:
        config = json.loads(path.read_text(encoding="utf8"))
    except ValueError as error:
        raise UserError(
            f"{path} is not valid JSON ({error}): truncated or edited. Restore it or train again."
        ) from None
    if not isinstance(config, dict) or "method" not in config or "tasks" not in config:
        raise UserError(f"{path} is not the configuration of a hyperpelt model: it has no `method` and `tasks`.")
    if config.get("format", 0) > FORMAT:
        raise UserError(
            f"{path} has format {config['format']}, this hyperpelt reads up to {FORMAT}. Upgrade hyperpelt."
        )
    if config.get("config_sha256") != _hash(config):
        raise UserError(
            f"{path} was changed after it was saved (its own hash differs). Restore the file; to load the model over "
            "another copy of its backbone, give `backbone=` instead of editing."
        )
    return config


def read_tensors(folder: str | Path, config: Mapping[str, Any]) -> dict[str, Tensor]:
    """The tensors of a tuned model, verified against the hash in its `config.json`.

    Raises:
        UserError: the file is missing, truncated or changed.
    """
    path = Path(folder) / TENSORS
    if not path.is_file():
        raise UserError(f"{path} is missing: the folder holds a model's configuration without its tensors.")
    got, expected = _file_hash(path), config.get("tensors_sha256")
    if got != expected:
        raise UserError(
            f"{path} is truncated or was changed: SHA-256 is {got[:12]}..., config.json says {str(expected)[:12]}.... "
            "Copy the file again or go back to a checkpoint."
        )
    try:
        return load_file(str(path))
    except SafetensorError as error:
        raise UserError(f"{path} cannot be read as safetensors: {error}.") from None


def local_folder(folder: str | Path) -> Path:
    """The folder itself, that of a shipped run, or the local copy of a hub repository `namespace/name`.

    Raises:
        UserError: neither is there.
    """
    path = shipped.folder_of(folder) or Path(folder)
    if path.exists() or str(folder).count("/") != 1 or str(folder).startswith((".", "/", "~")):
        return path
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HFValidationError

    try:
        return Path(snapshot_download(str(folder), allow_patterns=[CONFIG, TENSORS, "run.yaml"]))
    except (OSError, HFValidationError) as error:
        raise UserError(
            f"{str(folder)!r} is neither a folder here nor a hub repository that can be reached ({error})."
        ) from None
