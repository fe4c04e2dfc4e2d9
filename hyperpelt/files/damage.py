"""What the system and other libraries throw over files that are damaged or cannot be written, as a sentence.

Their messages seldom name the file: `find_damage` looks for it in the folder that was read.
"""

from __future__ import annotations

import re
from pathlib import Path

from hyperpelt.files.reading import Damaged, read_json


def of_files(error: BaseException) -> str | None:
    """A sentence for what was thrown over a file or the network; None for what is no fault of them.

    Safetensors and Arrow have exceptions of their own, also for a full disk; tokenizers throw a bare `Exception`.
    """
    if isinstance(error, OSError):
        return _of_the_system(error)
    kind = f"{type(error).__module__}.{type(error).__name__}"
    if kind.endswith("SafetensorError"):
        return f"A file of tensors could not be read or written ({error}): it is damaged, or the disk is full."
    if kind.startswith("pyarrow.") and "Arrow" in kind:
        return f"A table could not be read or written ({error}): its file is damaged, or the disk is full."
    if isinstance(error, RuntimeError) and "Symlink loop" in str(error):  # an OSError in later Pythons
        return f"A link that leads to itself: {error}."
    if isinstance(error, UnicodeError):
        return f"A text that is no UTF-8, or holds half a character ({error})."
    if re.search(r"\(os error \d+\)$", str(error)):  # of a library in Rust
        return f"A file could not be read or written ({error})."
    return None


def _of_the_system(error: OSError) -> str:
    if error.filename is None or error.strerror is None:
        return f"{error or type(error).__name__} (what this command reads or writes could not be reached)."
    return f"Cannot use {error.filename}: {error.strerror}. Name another place, or make this one usable."


def find_damage(folder: str | Path) -> str:
    """What is wrong with the first JSON or safetensors file that is no such file; "" if all are."""
    from safetensors import SafetensorError, safe_open

    for path in sorted(Path(folder).iterdir()) if Path(folder).is_dir() else ():
        try:
            if path.suffix == ".json":
                read_json(path)
            elif path.suffix == ".safetensors":
                with safe_open(path, framework="pt"):
                    pass
        except Damaged as problem:
            return str(problem)
        except (SafetensorError, OSError, ValueError) as error:
            return f"{path} is damaged ({error})."
    return ""
