"""The API reference, made by pdoc from the docstrings of everything public: `scripts/docs` runs this.

python scripts/api_reference.py build/docs
"""

from __future__ import annotations

import argparse
import importlib
import inspect
import pkgutil
import warnings
from pathlib import Path

import pdoc

import hyperpelt

PRIVATE = ("cli", "commands")  # the command describes itself: hyperpelt --help


def rooms() -> list[str]:
    """The modules whose pages make the reference: the public surface and every room."""
    names = (room.name for room in pkgutil.iter_modules(hyperpelt.__path__) if room.name not in PRIVATE)
    return ["hyperpelt", *(f"hyperpelt.{name}" for name in sorted(names))]


def build(folder: Path, modules: list[str]) -> None:
    """Write the pages of `modules`, and of the modules whose classes theirs inherit from, into `folder`."""
    pages = dict.fromkeys(modules)
    for name in modules:
        module = importlib.import_module(name)
        for offered in getattr(module, "__all__", ()):
            value = getattr(module, offered)  # pdoc sees only what was imported already, and rooms import at first use
            bases = inspect.getmro(value) if inspect.isclass(value) else ()
            pages |= dict.fromkeys(base.__module__ for base in bases if base.__module__.startswith("hyperpelt."))
    pdoc.render.configure(docformat="markdown", show_source=False)
    with warnings.catch_warnings():  # pdoc walks into packages by itself, and warns of a module that it meets twice
        warnings.filterwarnings("ignore", "The module specification .* adds a module named", UserWarning)
        pdoc.pdoc(*pages, output_directory=folder)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="Build the API reference, from the docstrings of everything public.")
    parser.add_argument("folder", type=Path, help="where the pages go, such as build/docs")
    build(parser.parse_args().folder, rooms())
