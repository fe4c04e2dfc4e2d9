"""Plugin files import their neighbours, and never those of another plugin.

Two plugins, each with a `utils.py` beside it, must not meet in one `sys.modules["utils"]`. So a folder of plugins is a
package of its own under a private name: `/a/tasks_a.py` is the module `hyperpelt_plugin_<hash of /a>.tasks_a`, and its
`import utils` means `hyperpelt_plugin_<hash of /a>.utils`, whenever that statement is reached. What makes it so is the
`__import__` that the modules of such a folder, and no others, find among their builtins: a name is looked for in the
folder first (as Python does for a script), then where everybody looks. The search path stays as it is.

The standard library and hyperpelt itself go before a neighbour of their name. `importlib.import_module("utils")` is an
ordinary call and knows no neighbours; `import utils` and `from . import utils` do.
"""

from __future__ import annotations

import builtins
import sys
from collections.abc import Mapping, Sequence
from hashlib import sha256
from importlib import import_module, invalidate_caches
from importlib.machinery import ModuleSpec, PathFinder, SourceFileLoader
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from types import ModuleType
from typing import Any

PREFIX = "hyperpelt_plugin_"
OURS = ("hyperpelt", "hyperpelt_tasks")  # never from a plugin's folder, which may be a copy of this project


def import_beside(path: Path, *, anew: bool = False) -> ModuleType:
    """Import a Python file, or a package by its folder, as a module of its folder.

    anew: run a file also where a neighbour has imported it. What fails leaves no module behind, so that it can be tried
    again once it is mended.
    """
    root = _root_of(path.parent)
    before = set(sys.modules)
    invalidate_caches()  # the file may be younger than the last look into its folder
    try:
        return import_module(f"{root}.{path.name}") if path.is_dir() else _import_file(path, root, anew)
    except BaseException:
        for name in [name for name in sys.modules if name.startswith(f"{root}.") and name not in before]:
            del sys.modules[name]
        raise


def _import_file(path: Path, root: str, anew: bool) -> ModuleType:
    """By its place: Python would look for `tasks.py` in a package `tasks/` beside it, and for `v1.2.py` nowhere."""
    stem = path.stem.replace(".", "_")
    found = PathFinder.find_spec(stem, [str(path.parent)])
    name = f"{root}.{stem}" if found is None or found.origin == str(path) else f"{root}.{stem}__file"
    if name in sys.modules and not anew:
        return sys.modules[name]
    spec = spec_from_file_location(name, path, loader=_Loader(name, str(path)))
    assert spec is not None
    assert spec.loader is not None
    module = sys.modules[name] = module_from_spec(spec)  # pickling and dataclasses look it up there
    spec.loader.exec_module(module)
    return module


def without_prefix(module: str) -> str:
    """A module's name as its author knows it."""
    head, _, rest = module.partition(".")
    return rest if head.startswith(PREFIX) else module


def files_of_neighbours(path: Path) -> list[Path]:
    """The files of the folder of a plugin that were imported by now, its own among them."""
    root = _name(path.parent)
    files = [getattr(module, "__file__", None) for name, module in sys.modules.items() if name.startswith(f"{root}.")]
    return sorted({Path(file) for file in files if file})


def _name(folder: Path) -> str:
    return PREFIX + sha256(str(folder).encode()).hexdigest()[:12]


def _root_of(folder: Path) -> str:
    """The private package that stands for a folder; made when it is first asked for."""
    name = _name(folder)
    if name not in sys.modules:
        root = ModuleType(name, f"Plugins and their neighbours in {folder}.")
        root.__path__ = [str(folder)]
        sys.modules[name] = root
    if not any(isinstance(finder, _Finder) for finder in sys.meta_path):
        sys.meta_path.insert(0, _Finder())
    return name


class _Finder:
    """Finds the modules of private packages, and lets their sources see their folder."""

    @staticmethod
    def find_spec(name: str, path: Sequence[str] | None = None, target: ModuleType | None = None) -> ModuleSpec | None:
        root = name.partition(".")[0]
        if not root.startswith(PREFIX) or path is None:
            return None
        spec = PathFinder.find_spec(name, path, target)
        if spec is not None and type(spec.loader) is SourceFileLoader:
            spec.loader = _Loader(spec.loader.name, spec.loader.path)
        return spec


class _Loader(SourceFileLoader):
    def exec_module(self, module: ModuleType) -> None:
        root = module.__name__.partition(".")[0]
        module.__dict__["__builtins__"] = {**vars(builtins), "__import__": _Import(root)}
        super().exec_module(module)


class _Import:
    """The `import` statement of the modules of one folder."""

    def __init__(self, root: str) -> None:
        self.root = root
        self.folder = Path(sys.modules[root].__path__[0])

    def __call__(
        self,
        name: str,
        globals: Mapping[str, Any] | None = None,  # the names are Python's
        locals: Mapping[str, Any] | None = None,
        fromlist: Sequence[str] | None = (),
        level: int = 0,
    ) -> ModuleType:
        head = name.partition(".")[0]
        if level or not self._is_neighbour(head):
            return builtins.__import__(name, globals, locals, fromlist or (), level)
        if fromlist:
            return builtins.__import__(f"{self.root}.{name}", globals, locals, fromlist, 0)
        import_module(f"{self.root}.{name}")
        return sys.modules[f"{self.root}.{head}"]

    def _is_neighbour(self, head: str) -> bool:
        if head in sys.stdlib_module_names or head in OURS:
            return False
        if f"{self.root}.{head}" in sys.modules:
            return True
        # A folder without an __init__.py (of data, say) is a neighbour only if Python knows no module of its name.
        spec = PathFinder.find_spec(head, [str(self.folder)])
        return spec is not None and (spec.origin is not None or PathFinder.find_spec(head) is None)
