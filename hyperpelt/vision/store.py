"""The feature store: features on disk, computed once for each image content and encoder.

    store = FeatureStore(folder, encoder)
    store.features(images)          [N, G, Dv]: read; what is missing is encoded first, and kept
    store.build(items)              encode many images, with progress
    store.read(keys)                never runs an encoder

`folder/<fingerprint>-<dtype>/` holds `store.json` (what the features are) and shards `00000001.safetensors`, each
with `keys` [n, 32] and `features` [n, G, Dv]. A shard is written under another name and moved into place, and never
changes after: there is no index that could disagree with the shards, and a kill leaves at most a temporary file, which
the next writer removes. Writers take a file lock; readers take none. Reading maps the shards into memory. A damaged
shard (see `shards`) is left out, and said: its images count as never seen, and the next writer removes it.

Legend: N images, G cells, Dv width of a feature.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from filelock import FileLock
from jaxtyping import Float
from torch import Tensor

from hyperpelt.config.caching import user_cache
from hyperpelt.config.paths import place
from hyperpelt.config.sizes import as_text
from hyperpelt.errors import UserError, unknown
from hyperpelt.files import folders
from hyperpelt.files.atomic import write_json
from hyperpelt.files.reading import Damaged, read_object
from hyperpelt.vision import room
from hyperpelt.vision.base import BATCH_SIZE, ImageEncoder
from hyperpelt.vision.images import content_hash, load_image
from hyperpelt.vision.shards import SUFFIX, Shards, write_shard
from hyperpelt.vision.spec import VisualSpec

if TYPE_CHECKING:
    from PIL.Image import Image

    Load = Callable[[Any], Image]

_log = logging.getLogger(__name__)
DTYPES = {"float32": torch.float32, "float16": torch.float16}
SHARD_BYTES = 64 * 2**20
DECISIVE = ("fingerprint", "grid", "dim", "dtype")  # of a store's description
ABOUT, TEMPORARY, LOCK = "store.json", ".tmp-", ".lock"


def default_folder() -> Path:
    """HYPERPELT_FEATURES, else a folder in the user's cache."""
    return place(os.environ.get("HYPERPELT_FEATURES") or user_cache() / "features")


@dataclass
class Built:
    """What `build` did: images **seen**, **encoded** now, **known** before (in the store or twice among the seen)."""

    seen: int = 0
    encoded: int = 0

    @property
    def known(self) -> int:
        return self.seen - self.encoded


class FeatureStore:
    """Features of one encoder on disk; see the module's text.

    - **folder**: of all stores (default: `HYPERPELT_FEATURES`, else in the user's cache)
    - **encoder**: an `ImageEncoder`; a `VisualSpec` is enough to read
    - **dtype**: `float32` keeps every bit, `float16` half of the bytes
    - **max_bytes**: an upper size, see `room`; None: the one that the store was given last, if any; 0: none any more
    - **hold**: remove nothing that was asked of this object; what is too large for that is an error
    - **hits**, **misses**: of `features`, **removed**: shards that made room, since this object was made
    """

    def __init__(
        self,
        folder: str | Path | None,
        encoder: ImageEncoder | VisualSpec,
        *,
        dtype: str = "float32",
        max_bytes: int | None = None,
        hold: bool = False,
        shard_bytes: int = SHARD_BYTES,
    ) -> None:
        if dtype not in DTYPES:
            raise unknown("dtype of a feature store", dtype, DTYPES)
        self.encoder = encoder if isinstance(encoder, ImageEncoder) else None
        self.spec = encoder.spec if isinstance(encoder, ImageEncoder) else encoder
        self.root = place(folder) if folder is not None else default_folder()
        self.folder = self.root / f"{self.spec.fingerprint[:16]}-{dtype}"
        self.dtype, self.shard_bytes, self.hold = dtype, shard_bytes, hold
        self.hits = self.misses = self.removed = 0
        self._held: set[str] = set()
        self._shards = Shards(self.folder)
        self._begin()
        self.max_bytes = room.limit_of(self.folder, max_bytes)
        self.refresh()

    def _begin(self) -> None:
        """Say what the features are. The folder's name holds the fingerprint, so the description can be made again."""
        self.folder.mkdir(parents=True, exist_ok=True)
        path, about = self.folder / ABOUT, {**self.spec.to_dict(), "dtype": self.dtype}
        try:
            kept = read_object(path)
            reason = f"{path} describes other features." if any(kept.get(key) != about[key] for key in DECISIVE) else ""
        except FileNotFoundError:
            reason = "new"
        except Damaged as problem:
            reason = str(problem)
        if reason:
            write_json(path, about, indent=2)
        if reason not in ("", "new"):
            _log.warning("%s It is written again.", reason)

    def __contains__(self, key: str) -> bool:
        """Whether the image's features can be read, whole."""
        place = self._shards.places.get(key)
        if place is None or not self._shards.is_whole(place[0]):
            return False
        if self.hold:
            self._held.add(place[0])
        return True

    def __len__(self) -> int:
        return len(self._shards.places)

    @property
    def hit_rate(self) -> float:
        """Share of the asked features that were there; 0 before anything was asked."""
        return self.hits / max(1, self.hits + self.misses)

    def shards(self) -> list[Path]:
        """The shards on disk, oldest first."""
        return self._shards.paths()

    def num_bytes(self) -> int:
        """Bytes of all shards on disk."""
        return sum(path.stat().st_size for path in self.shards() if path.exists())

    def told(self) -> str:
        """How large the store is and may be, and where."""
        return f"{as_text(self.num_bytes())}{room.most(self.max_bytes)} in {self.folder}"

    @property
    def damage(self) -> str | None:
        """What is said of damaged shards, if there are any."""
        return " ".join(self._shards.damaged.values()) or None

    def refresh(self) -> None:
        """Take notice of the shards that other processes have written or removed."""
        self._shards.refresh()

    def read(self, keys: Sequence[str]) -> Float[Tensor, "N G Dv"]:
        """Features of images by content key, float32.

        Raises:
            UserError: one of them is not in the store.
        """
        if any(key not in self._shards.places for key in keys):
            self.refresh()
        missing = [key for key in keys if key not in self]
        if missing:
            damage = f" ({self.damage})" if self.damage else ""
            raise UserError(
                f"The feature store {self.folder} lacks {len(missing)} of {len(keys)} images, one with content key "
                f"{missing[0][:12]}...{damage}: run `hyperpelt features build` for the tasks and this encoder."
            )
        features = torch.empty(len(keys), self.spec.cells, self.spec.dim)
        try:
            for i, key in enumerate(keys):
                features[i] = self._shards.read(key)
        except FileNotFoundError:  # another process has made room since
            self.refresh()
            return self.read(keys)
        return features

    def features(
        self,
        images: Sequence[Any],
        *,
        keys: Sequence[str] | None = None,
        load: Load = load_image,
    ) -> Float[Tensor, "N G Dv"]:
        """Features of images (as `load_image` takes them), in order: read, or encoded and kept.

        - **keys**: their content hashes, where they are known already
        - **load**: makes a Pillow picture of one that is not in the store

        Raises:
            UserError: an image is missing and there is no encoder.
        """
        keys = [content_hash(image) for image in images] if keys is None else list(keys)
        if any(key not in self._shards.places for key in keys):
            self.refresh()
        absent = {key: image for key, image in zip(keys, images, strict=True) if key not in self}
        self.misses += len(absent)
        self.hits += len(keys) - len(absent)
        if not absent or self.encoder is None:
            return self.read(keys)
        # Read first: with a small upper size, writing may remove what is asked for here.
        there = [key for key in dict.fromkeys(keys) if key not in absent]
        read = dict(zip(there, self.read(there), strict=True))
        made = self._encode(list(absent.values()), load).to(DTYPES[self.dtype])
        self._write(dict(zip(absent, made, strict=True)))
        read |= zip(absent, made.float(), strict=True)
        return torch.stack([read[key] for key in keys])

    def _encode(self, images: Sequence[Any], load: Load) -> Tensor:
        assert self.encoder is not None
        return self.encoder.encode([load(image) for image in images])

    def build(
        self,
        images: Iterable[Any],
        *,
        load: Load = load_image,
        batch_size: int = BATCH_SIZE,
        progress: Callable[[Built], None] | None = None,
    ) -> Built:
        """Encode every image that is not in the store; those twice among them, once.

        - **progress**: called after each image with what was done so far
        """
        if self.encoder is None:
            raise UserError(f"Filling the feature store {self.folder} needs its image encoder, not a description.")
        built = Built()
        waiting: dict[str, Any] = {}
        made: dict[str, Tensor] = {}
        full = max(1, self.shard_bytes // (self.spec.cells * self.spec.dim * DTYPES[self.dtype].itemsize))
        for image in images:
            key = content_hash(image)
            built.seen += 1
            if key not in made and key not in waiting and key not in self:
                waiting[key] = image
                built.encoded += 1
            if len(waiting) >= batch_size:
                made |= zip(waiting, self._encode(list(waiting.values()), load).to(DTYPES[self.dtype]), strict=True)
                waiting = {}
            if len(made) >= full:
                self._write(made)
                made = {}
            if progress is not None:
                progress(built)
        if waiting:
            made |= zip(waiting, self._encode(list(waiting.values()), load).to(DTYPES[self.dtype]), strict=True)
        self._write(made)
        return built

    @contextmanager
    def _writing(self) -> Iterator[None]:
        """The only writer among all processes; what killed ones have left is removed."""
        with FileLock(self.folder / LOCK):
            self._begin()  # `features clear` may have taken it away
            folders.recover(self.folder, ".*", everyone=True)
            for path in self.folder.glob(f"{TEMPORARY}*"):  # as earlier versions wrote
                path.unlink(missing_ok=True)
            self.refresh()
            yield

    def _write(self, made: dict[str, Float[Tensor, "G Dv"]]) -> None:
        """Keep new features as one shard; what another process has kept meanwhile is left out."""
        with self._writing():
            new = {key: features for key, features in made.items() if key not in self._shards.places}
            if not new:
                return
            shards = self.shards()
            number = int(shards[-1].name.removesuffix(SUFFIX)) + 1 if shards else 1
            final = self.folder / f"{number:08d}{SUFFIX}"
            write_shard(final, new)
            self._shards.remove_damaged()
            self._shards.index(final.name)
            if self.hold:
                self._held.add(final.name)
            self._shrink()

    def _shrink(self) -> None:
        for path in room.make_room(self.shards(), self.max_bytes, self._held):
            self._shards.forget(path.name)
            self.removed += 1
