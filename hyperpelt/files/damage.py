"""Which file of a folder that another library wrote cannot be read: its loader's message seldom says."""

from __future__ import annotations

from pathlib import Path

from hyperpelt.files.reading import Damaged, read_json


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
