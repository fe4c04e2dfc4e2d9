"""Tensors in safetensors files; what that library throws becomes a sentence with the path."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from hyperpelt.errors import UserError
from hyperpelt.files.reading import Damaged
from hyperpelt.files.sparse import pack, unpack

if TYPE_CHECKING:
    from torch import Tensor

PACKED = "packed"  # the key of a file's metadata that says what of it is


def write_packed(path: Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> bool:
    """`write_tensors`, those that are mostly zero as positions and values; whether there were any."""
    found, about = pack(tensors)
    write_tensors(path, found, {**metadata, PACKED: about} if about else metadata)
    return bool(about)


def write_tensors(path: Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, str] | None = None) -> None:
    """Write tensors, wherever they are, to `path` itself: go through `atomic.replacing` or `folders.building`.

    Raises:
        UserError: the disk is full, or nothing can be written there.
    """
    from safetensors import SafetensorError
    from safetensors.torch import save_file

    plain = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    try:
        save_file(plain, str(path), metadata=dict(metadata) if metadata else None)
    except SafetensorError as error:  # a full disk is one, too
        raise UserError(f"Cannot write below {path.parent} ({error}).") from None


def read_tensors(path: Path) -> dict[str, Tensor]:
    """All tensors of a file, on the CPU; those that were packed (`hyperpelt.files.sparse`) as they were.

    Raises:
        Damaged: it is no safetensors file, or cut short.
        FileNotFoundError: there is none.
    """
    from safetensors import SafetensorError, safe_open
    from safetensors.torch import load_file

    if not path.exists():
        raise FileNotFoundError(path)
    try:
        with safe_open(str(path), framework="pt") as file:
            about = (file.metadata() or {}).get(PACKED, "")
        return unpack(load_file(str(path)), about)
    except (SafetensorError, OSError, ValueError, KeyError, RuntimeError) as error:
        raise Damaged(f"{path} cannot be read as safetensors ({error}): truncated or changed.") from None
