"""The files of a feature store: `keys` [n, 32] (uint8) and `features` [n, G, Dv], with a checksum of each.

Keys are checked when a shard is opened, features when they are first asked for in a process: the whole file is read
then, once. Shards of earlier versions have no checksums.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from safetensors import SafetensorError, safe_open
from torch import Tensor

from hyperpelt.files import checksums
from hyperpelt.files.atomic import replacing
from hyperpelt.files.reading import Damaged
from hyperpelt.files.tensors import write_tensors

SUFFIX = ".safetensors"
_log = logging.getLogger(__name__)


def write_shard(path: Path, features: Mapping[str, Float[Tensor, "G Dv"]]) -> None:
    """Write features by content key."""
    keys = torch.tensor([list(bytes.fromhex(key)) for key in features], dtype=torch.uint8)
    tensors = {"keys": keys, "features": torch.stack(list(features.values())).cpu().contiguous()}
    with replacing(path) as temporary:
        write_tensors(temporary, tensors, {name: _checksum(tensor) for name, tensor in tensors.items()})


def _checksum(tensor: Tensor) -> str:
    return checksums.of_parts([str(tuple(tensor.shape)).encode(), tensor.numpy()])


class Shard:
    """An opened shard, mapped into memory.

    Raises:
        Damaged: it is not as it was written.
        FileNotFoundError: there is none; another process may have made room.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._is_whole = False
        try:
            self._file = safe_open(path, framework="pt")
            self._checksums: dict[str, str] = self._file.metadata() or {}
            keys = self._file.get_tensor("keys")
        except FileNotFoundError:
            raise
        except (SafetensorError, OSError, ValueError) as error:
            raise Damaged(f"{path} is damaged ({error}).") from None
        self._compare("keys", keys)
        self.keys = [key.tobytes().hex() for key in keys.numpy()]

    def check(self) -> None:
        """Compare the features with their checksum, once."""
        if not self._is_whole:
            try:
                self._compare("features", self._file.get_tensor("features"))
            except (SafetensorError, OSError, ValueError) as error:
                raise Damaged(f"{self.path} is damaged ({error}).") from None
            self._is_whole = True

    def _compare(self, name: str, tensor: Tensor) -> None:
        if self._checksums.get(name) not in (None, _checksum(tensor)):
            raise Damaged(f"{self.path} is damaged (the checksum of its {name} differs).")

    def __getitem__(self, row: int) -> Float[Tensor, "G Dv"]:
        return self._file.get_slice("features")[row : row + 1][0]


class Shards:
    """All shards of a folder: which image is where, and what is damaged.

    - **places**: content key -> (shard's name, row)
    - **damaged**: shard's name -> what is wrong with it; its images count as never seen
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.places: dict[str, tuple[str, int]] = {}
        self.damaged: dict[str, str] = {}
        self._known: set[str] = set()
        self._open: dict[str, Shard] = {}

    def __getstate__(self) -> dict[str, Any]:
        """For a process of its own (a loader's worker): maps are opened, and checked, anew there."""
        return {**self.__dict__, "_open": {}}

    def paths(self) -> list[Path]:
        """The shards on disk, oldest first."""
        return sorted(path for path in self.folder.glob(f"*{SUFFIX}") if not path.name.startswith("."))

    def refresh(self) -> None:
        """Take notice of the shards that other processes have written or removed."""
        names = {path.name for path in self.paths()}
        for name in self._known - names:
            self.forget(name)
        for name in sorted(names - self._known):
            self.index(name)

    def index(self, name: str) -> None:
        """Take notice of a shard."""
        try:
            shard = self._opened(name)
        except FileNotFoundError:  # removed by another process a moment ago
            return
        except Damaged as problem:
            self._leave_out(name, problem)
            return
        self._known.add(name)
        self.places.update((key, (name, row)) for row, key in enumerate(shard.keys))

    def forget(self, name: str) -> None:
        """A shard is gone."""
        self._known.discard(name)
        self._open.pop(name, None)
        self.damaged.pop(name, None)
        self.places = {key: place for key, place in self.places.items() if place[0] != name}

    def is_whole(self, name: str) -> bool:
        """Whether a shard can be read as it was written."""
        try:
            self._opened(name).check()
        except FileNotFoundError:
            return False
        except Damaged as problem:
            self._leave_out(name, problem)
            return False
        return True

    def read(self, key: str) -> Float[Tensor, "G Dv"]:
        """Features of an image that is there. FileNotFoundError if another process has made room since."""
        name, row = self.places[key]
        return self._opened(name)[row]

    def remove_damaged(self) -> None:
        """Take damaged shards from the disk: what they held is there again, or was not asked for."""
        for name in list(self.damaged):
            (self.folder / name).unlink(missing_ok=True)
            self.forget(name)

    def _opened(self, name: str) -> Shard:
        if name not in self._open:
            self._open[name] = Shard(self.folder / name)
        return self._open[name]

    def _leave_out(self, name: str, problem: Damaged) -> None:
        _log.warning("%s It is left out: its images are encoded again when they are asked for.", problem)
        self.forget(name)
        self._known.add(name)
        self.damaged[name] = str(problem)
