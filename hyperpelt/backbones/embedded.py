"""The backbones that need no folder and no network: `mini-bart` and `mini-t5`.

Both stand on MiniLM's weights and words (`minilm`); what is ours lies in `hyperpelt/assets/NAME` and is made by
`scripts/pretrain` (docs/backbones.md). A name whose weights are not part of an installation raises what to do.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hyperpelt.backbones.minilm import minilm_tokenizer
from hyperpelt.errors import UserError
from hyperpelt.files import checksums
from hyperpelt.files.reading import read_object
from hyperpelt.files.tensors import read_tensors

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

ASSETS = Path(__file__).parents[1] / "assets"
NAMES = ("mini-bart", "mini-t5")
CHECKSUM = "weights_xxh3"  # of model.safetensors, in training.json


def asset_folder(name: str) -> Path:
    """The folder that ships with the library for an embedded backbone.

    Raises:
        UserError: its weights are not part of this installation (an embedded name never yields random weights).
    """
    folder = ASSETS / name
    missing = [file for file in ("config.json", "model.safetensors") if not (folder / file).is_file()]
    if missing:
        raise UserError(
            f"Backbone {name!r} has no {' and no '.join(missing)} in {folder}: this version of hyperpelt does not ship "
            "it. Make it with scripts/pretrain (docs/backbones.md), or use the folder or hub id of another T5 or BART."
        )
    return folder


def load(name: str) -> PreTrainedModel:
    """An embedded backbone with its shipped weights, in float32.

    Raises:
        UserError: they are not part of this installation, or not as they were shipped.
    """
    folder = asset_folder(name)
    config = read_config(folder)
    _check_weights(folder)
    state = read_tensors(folder / "model.safetensors")
    if name == "mini-bart":
        from hyperpelt.backbones.mini_bart import assemble_mini_bart

        return assemble_mini_bart(config, state)
    from hyperpelt.backbones.mini_t5 import assemble_mini_t5

    return assemble_mini_t5(config, state)


def _check_weights(folder: Path) -> None:
    """Compare the weights with the checksum in the record of their training, where that has one."""
    record = folder / "training.json"
    expected = read_object(record).get(CHECKSUM) if record.is_file() else None
    if expected not in (None, checksums.of_file(folder / "model.safetensors")):
        raise UserError(
            f"{folder / 'model.safetensors'} is damaged: its checksum is not the one in {record.name}. "
            "Reinstall hyperpelt."
        )


def read_config(folder: Path) -> Any:
    """The BartConfig or T5Config that lies in an embedded backbone's folder."""
    from transformers import AutoConfig

    return AutoConfig.for_model(**json.loads((folder / "config.json").read_text(encoding="utf8")))


def load_tokenizer(name: str) -> PreTrainedTokenizerBase:
    """The tokenizer of an embedded backbone: MiniLM's, once the backbone is there."""
    if name != "mini-bart":
        asset_folder(name)
    return minilm_tokenizer()
