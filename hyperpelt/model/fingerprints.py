"""What a saved model remembers of its backbone, and the check when it is loaded: the same weights, the same tokenizer.

- `backbone_config_sha256`: of what decides shapes and meaning
- `backbone_weights`: of a few values of some tensors; tells another model of the same shape
- `backbone_xxh3`: of every value that stays frozen, as bfloat16 and, where it was trained over float32, as float32;
  tells a flipped bit. A copy that holds bfloat16 values in float32 is taken for what it is.
- `tokenizer_xxh3`: of what the tokenizer does (its vocabulary, and the ids of some texts), not of how a version of a
  library describes it; tells a lost file

Models that were saved by earlier versions have the first two.
"""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from xxhash import xxh3_128

from hyperpelt.backbones import config_hash
from hyperpelt.errors import UserError
from hyperpelt.files import checksums

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

# Words, cases, accents, numbers, marks, spaces, scripts: what normalisers and splitters differ in.
PROBES = (
    "The quick brown fox doesn't jump over 12,345.67 lazy dogs!",
    "  Two  spaces,\ttabs\nand lines;  Ünïcödé ÀÉ e\u0301 ﬁ ½ № ™ 你好 Привет 😀 ",
    "antidisestablishmentarianism http://a.b/c?d=e_f#g @user #tag snake_case CamelCase x=y**2",
)


def of_backbone(
    backbone: PreTrainedModel, tokenizer: PreTrainedTokenizerBase | None, trained: Collection[str]
) -> dict[str, Any]:
    """The entries of `config.json`. trained: names of the backbone's parameters that the method trains."""
    return {
        "backbone_config_sha256": config_hash(backbone.config),
        "backbone_weights": sampled(backbone, trained),
        "backbone_xxh3": checksums_of(backbone, trained),
        "tokenizer_xxh3": None if tokenizer is None else of_tokenizer(tokenizer),
    }


def sampled(backbone: nn.Module, trained: Collection[str]) -> str | None:
    """A short hash of a few frozen weights, equal for float32 and bfloat16 copies; None if nothing stays frozen."""
    # Names were kept in a ParameterDict, which has no dots, where some are trained: they decide the order.
    kept = {name.replace(".", "/") if trained else name: p for name, p in _frozen(backbone, trained)}
    if not kept:
        return None
    digest = hashlib.sha256()
    named = sorted((name, p) for name, p in kept.items() if p.dim() >= 1)
    for _, parameter in named[:: max(1, len(named) // 8)]:
        head = parameter.detach().flatten()[:256].to("cpu", torch.bfloat16).view(torch.int16)
        digest.update(head.numpy().tobytes())
    return digest.hexdigest()[:16]


def _frozen(backbone: nn.Module, trained: Collection[str]) -> Iterator[tuple[str, Tensor]]:
    yield from ((name, p) for name, p in backbone.named_parameters() if name not in trained)


def checksums_of(backbone: nn.Module, trained: Collection[str], kinds: Collection[str] = ()) -> dict[str, str]:
    """Checksums of all frozen values, by the dtype that they are read as. kinds: those wanted; else all there are."""
    frozen = sorted(_frozen(backbone, trained))
    exact = all(p.dtype == torch.float32 for _, p in frozen)
    wanted = [kind for kind in kinds or ("bfloat16", "float32") if kind == "bfloat16" or exact]
    states = {kind: xxh3_128() for kind in wanted}
    for name, parameter in frozen:
        values = parameter.detach().cpu()
        for kind, state in states.items():
            state.update(name.encode())
            state.update(_raw(values, kind))
    return {kind: state.hexdigest() for kind, state in states.items()}


def _raw(values: Tensor, kind: str) -> memoryview:
    if values.is_floating_point():
        values = values.to(getattr(torch, kind))
    return values.contiguous().view(-1).view(torch.uint8).numpy().data


def _holds_bfloat16(backbone: nn.Module, trained: Collection[str]) -> bool:
    return all(torch.equal(p, p.to(torch.bfloat16).to(p.dtype)) for _, p in _frozen(backbone, trained))


def of_tokenizer(tokenizer: PreTrainedTokenizerBase) -> str:
    """A checksum of what a tokenizer does."""
    special = [getattr(tokenizer, f"{name}_token_id", None) for name in ("pad", "eos", "bos", "unk", "cls", "sep")]
    ids = [tokenizer(text)["input_ids"] for text in PROBES]
    return checksums.of_json([sorted(tokenizer.get_vocab().items()), special, ids])


def check(
    backbone: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase | None,
    config: Mapping[str, Any],
    trained: Collection[str],
    *,
    folder: Path,
    name: str,
) -> None:
    """Compare a backbone with what the `config.json` of a model in `folder` says. name: of what was loaded, or "".

    Raises:
        UserError: it has another shape, other weights, or another tokenizer.
    """
    shown = repr(name or type(backbone).__name__)
    theirs = repr(config["backbone"] or "a model object without a name")
    got, expected = config_hash(backbone.config), config["backbone_config_sha256"]
    if got != expected:
        raise UserError(
            f"The model in {folder} was trained on backbone {theirs} (configuration {expected[:12]}), "
            f"but {shown} has configuration {got[:12]}. Load it over its own backbone."
        )
    weights = config["backbone_weights"]
    # Older files have none where a part of the backbone is trained.
    if weights is not None and sampled(backbone, trained) != weights:
        raise UserError(
            f"The backbone {shown} has the right shape for the model in {folder} but other weights than {theirs} had "
            "in training. Load it over the same weights."
        )
    if not _same_values(backbone, trained, config.get("backbone_xxh3") or {}):
        raise UserError(
            f"The backbone {shown} is not, value for value, the one that the model in {folder} was trained on: a file "
            "of it was damaged or changed. Fetch or copy it again."
        )
    if tokenizer is not None and config.get("tokenizer_xxh3") not in (None, of_tokenizer(tokenizer)):
        raise UserError(
            f"The tokenizer of {shown} is not the one that the model in {folder} was trained with: a file of it is "
            "missing, damaged or changed, so that the same text would mean something else. Fetch or copy it again."
        )


def _same_values(backbone: nn.Module, trained: Collection[str], expected: Mapping[str, str]) -> bool:
    """Whether all frozen values are those that were remembered, as far as both sides' dtypes tell."""
    if "float32" in expected:
        exact = checksums_of(backbone, trained, ["float32"])
        if exact == {"float32": expected["float32"]}:
            return True
        if exact and not _holds_bfloat16(backbone, trained):
            return False
    rounded = checksums_of(backbone, trained, ["bfloat16"]) if "bfloat16" in expected else {}
    return not rounded or rounded == {"bfloat16": expected["bfloat16"]}
