"""What a run takes along of the plugins that it was trained with, so that its folder works where it is copied to.

    RUN/plugins/<folder>-<hash>/   each plugin file, with the neighbours that it imported
    RUN/plugins/packages.json      which installed package, in which version, brought which task

Where a plugin stands as ever, it is read there; its copy serves where it does not (`hyperpelt.config.load_run` sees to
that). A package is named with its version when it is absent.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterable, Sequence
from pathlib import Path

from hyperpelt.config.paths import carried
from hyperpelt.errors import UserError
from hyperpelt.files import folders
from hyperpelt.files.atomic import write_json
from hyperpelt.files.reading import read_object
from hyperpelt.tasks import plugins as loader
from hyperpelt.tasks import registry
from hyperpelt.tasks.neighbours import files_of_neighbours

PLUGINS, PACKAGES = "plugins", "packages.json"
SUFFIXES = (".py", ".yaml", ".yml")


def carry(plugins: Sequence[str], tasks: Iterable[str], run: Path) -> None:
    """Write copies of plugin files into a run folder, and which package brought which of the tasks.

    Called when the plugins are loaded, and again when rows were rendered: a neighbour may be imported late. What a run
    already carries stays.
    """
    files = {file: copy for plugin in plugins for file, copy in _files(Path(plugin), run).items()}
    packages = {name: package for name in tasks if (package := loader.package_of(name)) is not None}
    if not files and not packages:
        return
    with folders.building(run / PLUGINS) as new:
        if (run / PLUGINS).is_dir():
            shutil.copytree(run / PLUGINS, new, dirs_exist_ok=True)
        for file, copy in files.items():
            target = new / copy.relative_to(run / PLUGINS)
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(file, target)
        write_json(new / PACKAGES, packages)


def take_over(source: Path, target: Path) -> None:
    """Copy what one run carries into the folder of what is made of it."""
    if (source / PLUGINS).is_dir():
        with folders.building(target / PLUGINS) as new:
            shutil.copytree(source / PLUGINS, new, dirs_exist_ok=True)


def _files(plugin: Path, run: Path) -> dict[Path, Path]:
    """Files to copy, each with the path of its copy; none of a plugin that is a module, or a copy already."""
    if plugin.is_relative_to(run) or not plugin.is_absolute() or not plugin.exists():
        return {}
    if plugin.suffix in (".yaml", ".yml"):
        return {plugin: carried(run, plugin)}
    home, place = plugin.resolve(), carried(run, plugin).parent
    inside = [file for file in files_of_neighbours(home) if file.is_relative_to(home.parent)]
    own = [home] if home.is_file() else sorted(home.rglob("*.py"))
    return {file: place / file.relative_to(home.parent) for file in dict.fromkeys([*own, *inside])}


def require(tasks: Iterable[str], run: Path) -> list[str]:
    """Raises UserError for a task that is not registered, which names the package that brought it to the run, or asks
    for its plugin; gives a note for each package that is here in another version."""
    known = set(registry.names())
    path = run / PLUGINS / PACKAGES
    packages: dict[str, str] = read_object(path) if path.is_file() else {}
    notes: dict[str, None] = {}
    for name in tasks:
        package = packages.get(name)
        if name not in known and package is not None:
            wanted = package.replace(" ", "==")
            raise UserError(
                f"The task {name} came from the package {package}, which is not here: pip install {wanted}."
            )
        if name not in known:
            raise UserError(
                f"No plugin here brings the task {name} of this run: give the one that does (--plugin FILE)."
            )
        here = loader.package_of(name)
        if package is not None and here != package:
            notes[f"{name} came from {package} when the run was trained, here it comes from {here or 'elsewhere'}."] = (
                None
            )
    return list(notes)
