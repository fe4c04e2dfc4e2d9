"""What a tuned model is on disk: `config.json` and `model.safetensors`, written so that half a model never looks whole.

`config.json` names the backbone (id, hash of its configuration, fingerprint of its weights), the method with every
hyper-parameter, the ordered tasks, the versions, and the SHA-256 of `model.safetensors` and of itself. The tensors
file holds what the method trains or draws, nothing of the frozen backbone. Nothing here is a pickle.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shlex
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import Tensor

from hyperpelt.backbones import embedded, shipped
from hyperpelt.config.paths import place
from hyperpelt.errors import UserError
from hyperpelt.files import folders, locks
from hyperpelt.files import tensors as tensor_files
from hyperpelt.files.atomic import replacing
from hyperpelt.files.folders import building
from hyperpelt.files.names import hidden, leftovers
from hyperpelt.files.reading import Damaged, read_object
from hyperpelt.files.tensors import write_packed

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

CONFIG, TENSORS, TOKENIZER = "config.json", "model.safetensors", "tokenizer"
FORMAT, PLAIN = 2, 1  # what this version reads; what says that no tensor is packed


def _hash(data: Mapping[str, Any]) -> str:
    rest = {key: value for key, value in data.items() if key != "config_sha256"}
    return hashlib.sha256(json.dumps(rest, sort_keys=True).encode()).hexdigest()


def _file_hash(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@contextmanager
def only_writer(folder: str | Path) -> Iterator[None]:
    """The folder, made if need be, while no other process writes there; UserError if one does."""
    folder = place(folder)
    folder.mkdir(parents=True, exist_ok=True)
    with locks.writing(folder, advice="Save into another folder."):
        yield


def write(folder: str | Path, config: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> None:
    """Write both files. `config.json` comes last and holds the other's hash, so it vouches for the whole.

    A model that is replaced stays readable until then: its tensors are kept under another name for as long.

    Raises:
        UserError: the folder holds another library's model.
    """
    folder = place(folder)
    folder.mkdir(parents=True, exist_ok=True)
    _refuse_foreign(folder)
    _clean(folder)
    kept = _keep(folder / TENSORS)
    try:
        with replacing(folder / CONFIG) as new_config, replacing(folder / TENSORS) as new_tensors:
            packed = write_packed(new_tensors, tensors, {"format": "pt"})
            full = {"format": FORMAT if packed else PLAIN, **config, "tensors_sha256": _file_hash(new_tensors)}
            full["config_sha256"] = _hash(full)
            new_config.write_text(json.dumps(full, indent=2) + "\n", encoding="utf8")
    except BaseException:
        recover(folder, everyone=True)
        raise
    if kept is not None:
        kept.unlink(missing_ok=True)


def _refuse_foreign(folder: Path) -> None:
    try:
        config = read_object(folder / CONFIG)
    except (FileNotFoundError, Damaged):
        return
    if not {"method", "tasks"} <= config.keys():
        raise UserError(f"{folder / CONFIG} belongs to a model of another kind: save into another folder.")


def _keep(path: Path) -> Path | None:
    """A second name for a file that is about to be replaced; None if there is no file."""
    if not path.is_file():
        return None
    kept = hidden(path, "old")
    try:
        os.link(path, kept)
    except OSError:  # not every file system has links
        shutil.copy2(path, kept)
    return kept


def recover(folder: Path, *, everyone: bool = False) -> None:
    """After a write that was killed between the two files: the former tensors beside their `config.json` again.

    everyone: what living processes keep, too.
    """
    kept = [one.path for one in leftovers(folder, re.escape(TENSORS), everyone=everyone) if one.kind == "old"]
    if not kept:
        return
    expected = _expected(folder)
    if expected is not None and not _is(folder / TENSORS, expected):
        former = next((path for path in kept if _is(path, expected)), None)
        if former is not None:
            os.replace(former, folder / TENSORS)
    for path in kept:
        path.unlink(missing_ok=True)


def _clean(folder: Path) -> None:
    recover(folder)
    folders.recover(folder, "|".join(map(re.escape, (CONFIG, TENSORS, TOKENIZER))))


def _expected(folder: Path) -> str | None:
    try:
        return read_config(folder).get("tensors_sha256")
    except UserError:
        return None


def _is(path: Path, expected: str) -> bool:
    return path.is_file() and _file_hash(path) == expected


def _no_model(folder: Path) -> str:
    """What a folder without a model is instead, and what to do with it."""
    if (folder / "trainer.json").is_file():
        return (
            f"{folder} is a checkpoint of a run, from which training goes on (resume={folder}), and no model: name the "
            "folder of a finished run."
        )
    if (folder / "run.yaml").is_file():
        return (
            f"{folder} is a run that was not finished, so it has no model yet: go on with it (hyperpelt train "
            f"{shlex.quote(str(folder))} resume=auto)."
        )
    if (folder / "adapter_config.json").is_file():
        return f"{folder} is an adapter of PEFT's: hyperpelt.from_peft makes a model of it."
    return (
        f"Expected a folder with a trained model ({CONFIG} and {TENSORS}), found no {folder / CONFIG}. Runs that come "
        f"with hyperpelt: {', '.join(shipped.names())}."
    )


def read_config(folder: str | Path) -> dict[str, Any]:
    """The `config.json` of a tuned model.

    Raises:
        UserError: no such folder or file, not JSON, edited, or of a newer format.
    """
    path = place(folder) / CONFIG
    if not path.is_file():
        raise UserError(_no_model(place(folder)))
    try:
        config = read_object(path)
    except Damaged as problem:
        raise Damaged(f"{problem} Restore it or train again.") from None
    if "method" not in config or "tasks" not in config:
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
    path = place(folder) / TENSORS
    if not path.is_file():
        raise UserError(f"{path} is missing: the folder holds a model's configuration without its tensors.")
    got, expected = _file_hash(path), config.get("tensors_sha256")
    if got != expected:  # another process may be replacing it, or was killed while it did
        former = [one.path for one in leftovers(path.parent, re.escape(TENSORS), everyone=True) if one.kind == "old"]
        path = next((kept for kept in former if _is(kept, str(expected))), path)
        got = _file_hash(path)
    if got != expected:
        raise UserError(
            f"{path} is truncated or was changed: SHA-256 is {got[:12]}..., config.json says {str(expected)[:12]}.... "
            "Copy the file again or go back to a checkpoint."
        )
    return tensor_files.read_tensors(path)


def found_by_name(backbone: str) -> bool:
    """Whether a backbone (and its tokenizer) is found by its name anywhere: an embedded one, or one on the hub."""
    return backbone in embedded.NAMES or (backbone.count("/") == 1 and not place(backbone).exists())


def write_tokenizer(folder: str | Path, tokenizer: PreTrainedTokenizerBase) -> None:
    """Beside the model, in a folder of its own."""
    with building(place(folder) / TOKENIZER) as new:
        tokenizer.save_pretrained(new)


def read_tokenizer(folder: Path) -> PreTrainedTokenizerBase | None:
    """The tokenizer that was saved with a model, if one was."""
    from hyperpelt.backbones import load_tokenizer

    return load_tokenizer(folder / TOKENIZER) if (folder / TOKENIZER).is_dir() else None


def check_backbone_is_there(folder: Path, name: str) -> None:
    """UserError for a backbone in a folder that is not there, as after a move to another machine."""
    if Path(name).is_absolute() and not Path(name).exists():
        raise UserError(
            f"The model in {folder} stands on the backbone {name}, which is not here: say where it is now "
            "(--backbone FOLDER; with `train` and in Python, backbone=)."
        )


def present(folder: Path, repo_id: str, run: Path | None) -> None:
    """Write what a hub repository shows beside a model: its card and, of its run, settings and results."""
    from hyperpelt.config import load_run, to_yaml
    from hyperpelt.model.card import card

    (folder / "README.md").write_text(card(read_config(folder), repo_id=repo_id, run=run), encoding="utf8")
    if run is not None and (run / "results.json").is_file():
        (folder / "results.json").write_bytes((run / "results.json").read_bytes())
    if run is not None and (run / "run.yaml").is_file():
        settings = load_run(run)
        # What is of this machine alone stays here.
        changes = {"output_dir": run.name, "data_root": None, "features_dir": None, "from_run": None}
        named = [Path(plugin).name for plugin in settings.plugins]
        shared = settings.model_copy(update={**changes, "plugins": named})
        (folder / "run.yaml").write_text(to_yaml(shared), encoding="utf8")


def local_folder(folder: str | Path) -> Path:
    """The folder itself, that of a shipped run, or the local copy of a hub repository `namespace/name`.

    Raises:
        UserError: neither is there.
    """
    path = shipped.folder_of(folder) or place(folder)
    if path.exists() or str(folder).count("/") != 1 or str(folder).startswith((".", "/", "~")):
        return path
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HFValidationError

    try:
        return Path(
            snapshot_download(
                str(folder), allow_patterns=[CONFIG, TENSORS, "run.yaml", "results.json", f"{TOKENIZER}/*"]
            )
        )
    except (OSError, HFValidationError) as error:
        raise UserError(
            f"{str(folder)!r} is neither a folder here nor a hub repository that can be reached ({error})."
        ) from None
