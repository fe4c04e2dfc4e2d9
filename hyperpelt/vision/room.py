"""How large a feature store may grow: the limit that it keeps on disk, and which of its shards make room.

The limit is the store's, not a process's: once given, it holds for whoever fills the store later. The oldest shards go
first, the newest never; none goes that holds what the process at work has asked for (`held`).
"""

from __future__ import annotations

import json
import os
from collections.abc import Collection, Sequence
from pathlib import Path

from hyperpelt.config.sizes import as_text
from hyperpelt.errors import UserError

LIMIT = "limit.json"


def limit_of(folder: Path, given: int | None) -> int | None:
    """The limit in bytes, None if there is none. **given**: a new one, which is kept; 0: none from now on."""
    path = folder / LIMIT
    if given is None:
        return json.loads(path.read_text(encoding="utf8"))["max_bytes"] if path.is_file() else None
    if given == 0:
        path.unlink(missing_ok=True)
        return None
    temporary = path.with_name(f".{LIMIT}-{os.getpid()}")
    temporary.write_text(json.dumps({"max_bytes": given}) + "\n", encoding="utf8")
    os.replace(temporary, path)
    return given


def most(max_bytes: int | None) -> str:
    """A limit for people, to stand after a size."""
    return f" of at most {as_text(max_bytes)}" if max_bytes else ""


def make_room(shards: Sequence[Path], max_bytes: int | None, held: Collection[str]) -> list[Path]:
    """Remove shards (oldest first) until the rest fit, as far as that may be; returns those that are gone.

    Raises:
        UserError: what is held alone is too large; the newest shard is removed then, and the others stay.
    """
    if max_bytes is None or not shards:
        return []
    sizes = {path: path.stat().st_size for path in shards}
    needed = sum(size for path, size in sizes.items() if path.name in held)
    if needed > max_bytes:
        shards[-1].unlink(missing_ok=True)
        raise UserError(
            f"The images asked for need {as_text(needed)} of features or more, and the feature store "
            f"{shards[0].parent} may hold {as_text(max_bytes)}: raise features_max_size (or set it to none), take a "
            "coarser image_grid, or fewer rows (train_limit)."
        )
    gone = []
    for path in shards[:-1]:
        if sum(sizes.values()) <= max_bytes:
            break
        if path.name not in held:
            path.unlink(missing_ok=True)
            gone.append(path)
            del sizes[path]
    return gone
