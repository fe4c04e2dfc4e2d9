"""The API reference that `scripts/docs` builds: everything public is in it, and says what it is."""

from __future__ import annotations

import importlib
import inspect
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[2] / "scripts"))

import api_reference


def offered(module):
    """(name, object) of what a module offers: its `__all__`, or what it defines."""
    names = getattr(module, "__all__", None)
    if names is None:
        names = [name for name, value in vars(module).items() if getattr(value, "__module__", "") == module.__name__]
    return [(name, getattr(module, name)) for name in names if not name.startswith("_")]


@pytest.mark.parametrize("room", api_reference.rooms())
def test_what_a_room_offers_says_what_it_is(room):
    module = importlib.import_module(room)
    assert module.__doc__
    told = [(name, value) for name, value in offered(module) if inspect.isclass(value) or inspect.isroutine(value)]
    silent = [name for name, value in told if not inspect.getdoc(value)]
    assert not silent


def test_the_reference_is_built_with_the_public_surface_in_it(tmp_path: Path):
    api_reference.build(tmp_path, ["hyperpelt.model", "hyperpelt.errors"])
    page = (tmp_path / "hyperpelt" / "model.html").read_text(encoding="utf8")
    assert 'id="TunedModel"' in page
    for name in ("from_pretrained", "save_pretrained", "generate", "score", "add_task"):
        assert name in page
