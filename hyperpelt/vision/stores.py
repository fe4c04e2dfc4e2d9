"""All feature stores of a folder: what is there, and taking it away."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from filelock import FileLock

from hyperpelt.errors import UserError, unknown
from hyperpelt.vision.room import LIMIT
from hyperpelt.vision.spec import VisualSpec
from hyperpelt.vision.store import ABOUT, LOCK, SUFFIX, TEMPORARY, FeatureStore, default_folder


def list_stores(folder: str | Path | None = None) -> list[dict[str, Any]]:
    """Every store in a folder: what its features are, and `images`, `shards`, `bytes`, `max_bytes`, `path`, `damage`.

    Of a store with a damaged shard `images` is None and `damage` says which.
    """
    root = Path(folder) if folder is not None else default_folder()
    found = []
    for about in sorted(root.glob(f"*/{ABOUT}")):
        described = json.loads(about.read_text(encoding="utf8"))
        shards = [path for path in about.parent.glob(f"*{SUFFIX}") if not path.name.startswith(".")]
        sizes = {"shards": len(shards), "bytes": sum(path.stat().st_size for path in shards)}
        found.append({**described, **sizes, **_held(root, described), "path": str(about.parent)})
    return found


def _held(root: Path, described: dict[str, Any]) -> dict[str, Any]:
    spec = VisualSpec.from_dict({key: value for key, value in described.items() if key != "dtype"})
    try:
        store = FeatureStore(root, spec, dtype=described["dtype"])
    except UserError as problem:
        return {"images": None, "max_bytes": None, "damage": str(problem)}
    return {"images": len(store), "max_bytes": store.max_bytes, "damage": None}


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
            # The description goes last but the lock: a kill in between leaves an emptier store, not a strange one.
            for file in [*path.glob(f"*{SUFFIX}"), *path.glob(f"{TEMPORARY}*"), path / LIMIT, path / ABOUT]:
                file.unlink(missing_ok=True)
        (path / LOCK).unlink(missing_ok=True)
        path.rmdir()
    return chosen
