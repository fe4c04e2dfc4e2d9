"""Plugins: installed packages (entry-point group `hyperpelt.tasks`), Python files, modules and YAML files.

An entry point is a callable that registers tasks and is called once. A file or module registers while it is imported,
or in a function `register()` of its own. A plugin that fails is undone whole. An installed one is then remembered with
its traceback and harms nobody else; one that the user named is an error.
"""

from __future__ import annotations

import sys
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from hashlib import sha256
from importlib import import_module
from importlib.metadata import EntryPoint, entry_points
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from types import ModuleType

from hyperpelt.errors import UserError
from hyperpelt.tasks import registry

GROUP = "hyperpelt.tasks"
_STATE: dict[str, bool] = {"loaded": False}
_BROKEN: list[tuple[str, str]] = []
_NAMED: dict[str, list[str]] = {}


def load_plugins() -> None:
    """Load every installed plugin, once a process; those that fail are listed by `broken_plugins`."""
    if _STATE["loaded"]:
        return
    _STATE["loaded"] = True  # before the work: a plugin may ask the registry while it is being loaded
    for entry in sorted(entry_points(group=GROUP), key=_order):
        try:
            with _whole():
                entry.load()()
        except (Exception, SystemExit):
            _BROKEN.append((_origin(entry), traceback.format_exc()))


def broken_plugins() -> list[tuple[str, str]]:
    """(origin, traceback) of every installed plugin that could not be loaded."""
    load_plugins()
    return list(_BROKEN)


def load_plugin(plugin: str | Path, *, data_root: str | Path | None = None) -> list[str]:
    """Load one plugin: a .py file, a .yaml file or the name of a module. Gives the names it registered.

    Loading the same plugin again does nothing. data_root: only for YAML tasks that take their choices from the data's
    label names. Raises UserError, with the plugin's own error as cause, if it fails.
    """
    load_plugins()
    path = Path(plugin).expanduser()
    is_file = path.suffix in (".py", ".yaml", ".yml")
    if not is_file and path.exists():
        raise UserError(f"Plugin {plugin} is not a .py or .yaml file; for a package, name its module.")
    if is_file and not path.is_file():
        raise UserError(f"No plugin file {path.absolute()}.")
    key = str(path.resolve()) if is_file else str(plugin)
    if key not in _NAMED:
        _NAMED[key] = _load_named(
            key, _file_loader(Path(key), data_root) if is_file else lambda: _run(import_module(key))
        )
    return list(_NAMED[key])


def _load_named(plugin: str, load: Callable[[], None]) -> list[str]:
    before = registry.snapshot()
    try:
        with _whole():
            load()
    except UserError as error:
        raise UserError(f"Plugin {plugin}: {error}") from error
    except (Exception, SystemExit) as error:
        raise UserError(f"Plugin {plugin} failed to load: {_last_line(error)}") from error
    return sorted(set(registry.snapshot()) - set(before))


def _file_loader(path: Path, data_root: str | Path | None) -> Callable[[], None]:
    if path.suffix == ".py":
        return lambda: _run(_import_file(path))

    def load() -> None:
        from hyperpelt.tasks.yaml import load_yaml

        for entry in load_yaml(path, data_root=data_root):
            registry.register(entry)

    return load


def _import_file(path: Path) -> ModuleType:
    # Its folder goes last on the path, so that it can import its neighbours and shadow nothing.
    if str(path.parent) not in sys.path:
        sys.path.append(str(path.parent))
    name = f"hyperpelt_plugin_{sha256(str(path).encode()).hexdigest()[:8]}_{path.stem}"
    spec = spec_from_file_location(name, path)
    assert spec is not None
    assert spec.loader is not None
    module = module_from_spec(spec)
    sys.modules[name] = module  # pickling and dataclasses look it up there
    try:
        spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[name]
        raise
    return module


def _run(module: ModuleType) -> None:
    """Call the module's own `register`, if it defines one (not the one it may have imported from here)."""
    function = getattr(module, "register", None)
    if callable(function) and getattr(function, "__module__", "").partition(".")[0] != "hyperpelt":
        function()


@contextmanager
def _whole() -> Iterator[None]:
    """All registrations inside, or none."""
    before = registry.snapshot()
    try:
        yield
    except BaseException:
        registry.restore(before)
        raise


def _order(entry: EntryPoint) -> tuple[bool, str, str]:
    # Our own first: when a name is taken twice, the plugin that came to a known name should hear about it.
    dist = entry.dist.name if entry.dist else ""
    return dist != "hyperpelt", dist, entry.name


def _origin(entry: EntryPoint) -> str:
    package = f"{entry.dist.name} {entry.dist.version}" if entry.dist else "an unnamed package"
    return f"{package}, entry point {entry.name} = {entry.value}"


def _last_line(error: BaseException) -> str:
    frames = traceback.extract_tb(error.__traceback__)
    place = f" ({frames[-1].filename}:{frames[-1].lineno})" if frames else ""
    return f"{type(error).__name__}: {error}{place}"
