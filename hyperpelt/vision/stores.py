"""All feature stores of a folder: what is there, and taking it away."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any

from filelock import FileLock

from hyperpelt.config.paths import place
from hyperpelt.errors import UserError, unknown
from hyperpelt.files import folders
from hyperpelt.files.reading import read_object
from hyperpelt.vision.room import LIMIT
from hyperpelt.vision.shards import SUFFIX
from hyperpelt.vision.spec import VisualSpec
from hyperpelt.vision.store import ABOUT, LOCK, TEMPORARY, FeatureStore, default_folder


def list_stores(folder: str | Path | None = None) -> list[dict[str, Any]]:
    """Every store in a folder: what its features are, and `images`, `shards`, `bytes`, `max_bytes`, `path`, `damage`.

    Of a store with a damaged shard `images` is None and `damage` says which.
    """
    root = place(folder) if folder is not None else default_folder()
    found = []
    for about in sorted(root.glob(f"*/{ABOUT}")):
        shards = [path for path in about.parent.glob(f"*{SUFFIX}") if not path.name.startswith(".")]
        sizes = {"shards": len(shards), "bytes": sum(path.stat().st_size for path in shards)}
        found.append({**_described(root, about), **sizes, "path": str(about.parent)})
    return found


def _described(root: Path, about: Path) -> dict[str, Any]:
    """What a store's description says, and what is in it; of a damaged one what its folder's name says."""
    try:
        described = read_object(about)
        spec = VisualSpec.from_dict({key: value for key, value in described.items() if key != "dtype"})
        store = FeatureStore(root, spec, dtype=described["dtype"])
        damage = store.damage
        held = {"images": None if damage else len(store), "max_bytes": store.max_bytes, "damage": damage}
    except (UserError, TypeError, KeyError, ValueError) as problem:
        damage = str(problem) if isinstance(problem, UserError) else f"{about} is not as it was written ({problem})."
        fingerprint, _, dtype = about.parent.name.partition("-")
        described = {**asdict(VisualSpec(dim=0, grid=(0, 0), fingerprint=fingerprint)), "dtype": dtype}
        held = {"images": None, "max_bytes": None, "damage": damage}
    return {**described, **held}


def clear(folder: str | Path | None = None, *, encoder: str | None = None) -> list[dict[str, Any]]:
    """Remove the stores of a folder, or those of one encoder (a name, or the beginning of a fingerprint).

    Returns what was removed, as `list_stores` describes it. Raises UserError if nothing matches `encoder`.
    """
    stores = list_stores(folder)
    chosen = [s for s in stores if encoder is None or s["encoder"] == encoder or s["fingerprint"].startswith(encoder)]
    if encoder is not None and not chosen:
        raise unknown("image encoder with a feature store", encoder, [store["encoder"] for store in stores])
    for store in chosen:
        path = Path(store["path"])
        with FileLock(path / LOCK):
            folders.recover(path, ".*", everyone=True)
            # The description goes last but the lock: a kill in between leaves an emptier store, not a strange one.
            for file in [*path.glob(f"*{SUFFIX}"), *path.glob(f"{TEMPORARY}*"), path / LIMIT, path / ABOUT]:
                file.unlink(missing_ok=True)
        (path / LOCK).unlink(missing_ok=True)
        path.rmdir()
    return chosen
