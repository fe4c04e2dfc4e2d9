"""Plugins: installed packages (entry-point group `hyperpelt.tasks`), Python files, modules and YAML files.

An entry point is a callable that registers tasks and is called once. A file or module registers while it is imported,
or in a function `register()` of its own, which is called once however it is come by. A plugin that fails is undone
whole. An installed one is then remembered with
its traceback and harms nobody else; one that the user named is an error.
"""

from __future__ import annotations

import re
import traceback
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from hashlib import sha256
from importlib import import_module
from importlib.metadata import EntryPoint, entry_points, packages_distributions, version
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType

from hyperpelt.config.modules import importable
from hyperpelt.errors import UserError
from hyperpelt.tasks import neighbours, registry
from hyperpelt.tasks.neighbours import PREFIX, import_beside
from hyperpelt.tasks.yaml import read_yaml

GROUP = "hyperpelt.tasks"
_STATE: dict[str, bool] = {"loaded": False}
_BROKEN: list[tuple[str, str]] = []
_PACKAGES: dict[str, str] = {}  # 'name version' of the distribution that brought a task
_NAMED: dict[str, list[str]] = {}  # what a plugin that the user named registered
_READ: dict[str, str] = {}  # checksum of each of these that is a file, as it was then
_INSTALLED: dict[str, list[str]] = {}  # what the entry points of a module registered
_IMPORTERS = (neighbours.__file__, *(f"<frozen importlib.{name}>" for name in ("_bootstrap", "_bootstrap_external")))
_CALLED: list[Callable[[], object]] = []


def load_plugins() -> None:
    """Load every installed plugin, once a process; those that fail are listed by `broken_plugins`."""
    if _STATE["loaded"]:
        return
    _STATE["loaded"] = True  # before the work: a plugin may ask the registry while it is being loaded
    for entry in sorted(entry_points(group=GROUP), key=_order):
        before = registry.snapshot()
        try:
            with _whole():
                _call(entry.load())
        except (KeyboardInterrupt, MemoryError):
            raise
        except BaseException:  # a plugin may call sys.exit, or raise anything
            _BROKEN.append((_origin(entry), traceback.format_exc()))
        _INSTALLED.setdefault(entry.module, []).extend(_new(before))
        if entry.dist is not None and entry.dist.name != "hyperpelt":
            _PACKAGES.update(dict.fromkeys(_new(before), f"{entry.dist.name} {entry.dist.version}"))


def broken_plugins() -> list[tuple[str, str]]:
    """(origin, traceback) of every installed plugin that could not be loaded."""
    load_plugins()
    return list(_BROKEN)


def package_of(task: str) -> str | None:
    """'name version' of the installed package that brought a task; None if it is none but hyperpelt."""
    load_plugins()
    return _PACKAGES.get(task)


registry.found_by(load_plugins, broken_plugins)


def load_plugin(plugin: str | Path, *, data_root: str | Path | None = None) -> list[str]:
    """Load one plugin: a .py file, a .yaml file, a module by its name or a package by its folder; gives the names it
    registered.

    A module that Python finds goes before a folder of its name. Loading a plugin again does nothing, also one that is
    installed and was loaded through its entry point. data_root: only for YAML tasks that take their choices from the
    data's label names. Raises UserError, with the plugin's own error as cause, if it fails, and for a file that changed
    since this process loaded it.
    """
    load_plugins()
    path = Path(plugin).expanduser()
    is_file = path.suffix in (".py", ".yaml", ".yml")
    if is_file and not path.is_file():
        raise UserError(f"No plugin file {path.absolute()}.")
    key = str(path.resolve()) if is_file else _module_name(str(plugin))
    content = sha256(Path(key).read_bytes()).hexdigest() if is_file else ""
    if key in _NAMED and _READ.get(key, content) != content:
        raise UserError(
            f"The plugin {key} was changed after this process had loaded it, and what it said then would be used. "
            "Start a new process (in a notebook, restart the kernel)."
        )
    if key not in _NAMED:
        load = _file_loader(Path(key), data_root) if is_file else lambda: _run(_import_module(key))
        before = registry.snapshot()
        _NAMED[key] = sorted({*_INSTALLED.get(key, ()), *_load_named(key, load), *_defined_in(key)})
        if is_file:
            _READ[key] = content
        elif not Path(key).is_absolute():
            _remember_package(key, _new(before))
    return list(_NAMED[key])


def load_each(plugins: Iterable[str]) -> None:
    """Load the plugins of a run: what its settings name may be theirs (tasks, methods, tuners, metrics)."""
    for plugin in plugins:
        load_plugin(plugin)


def _remember_package(module: str, names: list[str]) -> None:
    """Tasks of a module that was named, as those of the distribution it belongs to."""
    found = packages_distributions().get(module.partition(".")[0], []) if names else []
    if found and found[0] != "hyperpelt":
        _PACKAGES.update(dict.fromkeys(names, f"{found[0]} {version(found[0])}"))


def _module_name(plugin: str) -> str:
    """The name to import, or the package's folder where Python does not find it by its name."""
    folder = Path(plugin).expanduser().resolve()
    if importable(plugin) or not folder.exists():
        return plugin
    if not (folder / "__init__.py").is_file() or not folder.name.isidentifier():
        raise UserError(f"Plugin {plugin} is not a .py or .yaml file, nor a package: a folder with an __init__.py.")
    spec = find_spec(folder.name)
    return folder.name if spec is not None and spec.origin == str(folder / "__init__.py") else str(folder)


def _load_named(plugin: str, load: Callable[[], None]) -> list[str]:
    before = registry.snapshot()
    try:
        with _whole():
            load()
    except UserError as error:
        raise UserError(f"Plugin {plugin}: {error}") from error
    except (KeyboardInterrupt, MemoryError):
        raise
    except BaseException as error:
        raise UserError(f"Plugin {plugin} failed to load: {_last_line(error)}") from error
    return _new(before)


def _new(before: Mapping[str, object]) -> list[str]:
    """Names that were registered since."""
    return sorted(set(registry.snapshot()) - set(before))


def _defined_in(file: str) -> list[str]:
    """Names that a file registered, also if another plugin imported it before."""
    return [name for name, entry in registry.snapshot().items() if entry.origin.rpartition(":")[0] == file]


def _import_module(plugin: str) -> ModuleType:
    return import_beside(Path(plugin)) if Path(plugin).is_absolute() else import_module(plugin)


def _file_loader(path: Path, data_root: str | Path | None) -> Callable[[], None]:
    if path.suffix == ".py":
        return lambda: _run(import_beside(path, anew=not _defined_in(str(path))))

    return lambda: _register_documents(path, data_root)


def _register_documents(path: Path, data_root: str | Path | None) -> None:
    """Every task of a YAML file; one that is none is remembered as broken, unless it is the only one."""
    refused: list[tuple[str, str]] = []
    count = 0
    for count, (where, entry) in enumerate(read_yaml(path, data_root=data_root), 1):  # noqa: B007
        try:
            if isinstance(entry, UserError):
                raise entry
            registry.register(entry)
        except UserError as problem:
            refused.append((where, str(problem)))
    if count == len(refused):
        raise UserError("\n".join(problem for _, problem in refused))
    _BROKEN.extend(one for one in refused if one not in _BROKEN)


def _run(module: ModuleType) -> None:
    """Call the module's own `register`, if it defines one (not the one it may have imported from here)."""
    function = getattr(module, "register", None)
    if callable(function) and getattr(function, "__module__", "").partition(".")[0] != "hyperpelt":
        _call(function)


def _call(function: Callable[[], object]) -> None:
    """Call a plugin's function, once a process: one that is an entry point may be met again in a named module."""
    if not any(function is called for called in _CALLED):
        function()
        _CALLED.append(function)


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
    """What went wrong, and the last line of the plugin's own (or of what it called) that was reached."""
    frames = [frame for frame in traceback.extract_tb(error.__traceback__) if frame.filename not in _IMPORTERS]
    place = f" ({frames[-1].filename}:{frames[-1].lineno})" if frames else ""
    return f"{type(error).__name__}: {re.sub(rf'{PREFIX}[0-9a-f]+[.]', '', str(error))}{place}"
