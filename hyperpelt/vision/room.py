"""How large a feature store may grow: the limit that it keeps on disk, and which of its shards make room.

The limit is the store's, not a process's: once given, it holds for whoever fills the store later. The oldest shards go
first, the newest never; none goes that holds what the process at work has asked for (`held`).
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from pathlib import Path

from hyperpelt.config.sizes import as_text
from hyperpelt.errors import UserError
from hyperpelt.files.atomic import write_json
from hyperpelt.files.reading import Damaged, read_object

LIMIT = "limit.json"


def limit_of(folder: Path, given: int | None) -> int | None:
    """The limit in bytes, None if there is none. **given**: a new one, which is kept; 0: none from now on."""
    path = folder / LIMIT
    if given is None:
        return _kept(path)
    if given == 0:
        path.unlink(missing_ok=True)
        return None
    write_json(path, {"max_bytes": given})
    return given


def _kept(path: Path) -> int | None:
    try:
        limit = read_object(path).get("max_bytes")
    except FileNotFoundError:
        return None
    except Damaged as problem:
        raise UserError(f"{problem} It says how large the feature store may grow: set features_max_size.") from None
    if not isinstance(limit, int) or limit < 1:
        raise UserError(f"{path} says max_bytes={limit!r}, expected a number of bytes: set features_max_size.")
    return limit


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
