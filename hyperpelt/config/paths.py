"""Paths as people write them: `~` and `~user` are homes wherever a path may be given, also where no shell sees them."""

from __future__ import annotations

import os
from hashlib import sha256
from pathlib import Path

from hyperpelt.errors import UserError


def at_home(path: str) -> str:
    """The path with `~` or `~user` replaced by that home. Raises UserError if there is no such user."""
    expanded = os.path.expanduser(path)
    if expanded.startswith("~") and not Path(path).exists():
        name = expanded.partition("/")[0]
        raise UserError(f"The path {path!r} starts from the home of {name[1:] or 'you'}, which is not known here.")
    return expanded


def place(path: str | Path) -> Path:
    """The same for a path of either kind."""
    return Path(at_home(str(path)))


# Backbones and image encoders that come with the library, whatever folder of that name happens to be here.
EMBEDDED = ("mini-bart", "mini-t5", "mini-vision", "efficientnet-lite0")


def in_full(name: str) -> str:
    """A backbone or image encoder by a name that means the same wherever it is read: of a folder, its whole path."""
    if not name or name in EMBEDDED or not place(name).is_dir():
        return name
    return str(place(name).absolute())


def of_the_hub(folder: Path) -> bool:
    """Whether a folder lies in the cache of the hub's client: somebody else's, whose code nobody here chose to run."""
    from huggingface_hub.constants import HF_HUB_CACHE

    return folder.resolve().is_relative_to(Path(HF_HUB_CACHE).expanduser().resolve())


def carried(run: Path, plugin: Path) -> Path:
    """Where a run folder keeps its copy of a plugin file that stood at this absolute path."""
    folder = plugin.parent
    return run / "plugins" / f"{folder.name}-{sha256(str(folder).encode()).hexdigest()[:8]}" / plugin.name


def present(run: Path, plugin: str) -> str:
    """A plugin of a run as it can be loaded: where it stands, or the copy in the run folder; its name if neither is."""
    if (run / plugin).exists() and not Path(plugin).is_absolute() and "/" in plugin:
        return str((run / plugin).absolute())  # written relative to the run folder
    copy = carried(run, Path(plugin))
    return str(copy.absolute()) if not Path(plugin).exists() and copy.exists() else plugin


def inside(run: Path, plugin: str) -> str:
    """A plugin as run.yaml names it: relative to the run folder if it is the copy in there."""
    path, home = Path(plugin), run.absolute()
    return str(path.relative_to(home)) if path.is_absolute() and path.is_relative_to(home / "plugins") else plugin
