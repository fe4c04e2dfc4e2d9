"""The registry: every task and mixture by name, whoever brought it, and where that was.

Plugins are looked for at the first question, not at import. A name is taken once: a second registration is an error
that says where both stand.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from fnmatch import fnmatchcase
from typing import TypeVar

from hyperpelt.errors import UserError, unknown
from hyperpelt.tasks.types import Mixture, Task

Entry = TypeVar("Entry", bound=Task | Mixture)
_ENTRIES: dict[str, Task | Mixture] = {}


@dataclass
class _Finder:
    """Whoever looks for further tasks when the registry is asked: `load` brings them in, `broken` tells what failed."""

    load: Callable[[], None] = lambda: None
    broken: Callable[[], list[tuple[str, str]]] = lambda: []


_FINDER = _Finder()


def found_by(load: Callable[[], None], broken: Callable[[], list[tuple[str, str]]]) -> None:
    """Let the plugin loader, which registers here, be asked before a question is answered."""
    _FINDER.load, _FINDER.broken = load, broken


def register(entry: Entry, *, replace: bool = False) -> Entry:
    """Add a task or mixture. replace: take the place of an earlier one of this name (for notebooks)."""
    if not isinstance(entry, Task | Mixture):
        raise UserError(f"Expected a Task or a Mixture to register, got {entry!r}.")
    taken = _ENTRIES.get(entry.name)
    if taken is not None and not replace:
        raise UserError(
            f"{type(entry).__name__} {entry.name!r} is registered twice: at {taken.origin} and at {entry.origin}. "
            f"Give one of them another name."
        )
    _ENTRIES[entry.name] = entry
    return entry


def remove(name: str) -> None:
    """Take a task or mixture out of the registry (for tests and notebooks)."""
    if name not in _ENTRIES:
        raise unknown("task", name, _ENTRIES)
    del _ENTRIES[name]


def get(name: str) -> Task:
    """The task of this name; UserError with the nearest names if there is none."""
    entry = _find(name)
    if isinstance(entry, Mixture):
        raise UserError(f"{name!r} is a mixture of {', '.join(entry.rates)}: one task is expected here.")
    return entry


def names(pattern: str = "*") -> list[str]:
    """The names of all tasks that match a shell-style pattern, sorted."""
    return _names(Task, pattern)


def mixtures(pattern: str = "*") -> list[Mixture]:
    """All mixtures whose names match, sorted by name."""
    found = [_ENTRIES[name] for name in _names(Mixture, pattern)]
    return [entry for entry in found if isinstance(entry, Mixture)]


def select(selectors: str | Iterable[str], *, among: Collection[str] | None = None) -> list[Task]:
    """Tasks by names, wildcards ('glue/*'), mixtures ('glue') and exclusions ('!glue/wnli'), each once, in order.

    among: names that wildcards are limited to, such as the tasks of a trained model.

    Raises UserError for a name or wildcard that matches nothing.
    """
    found: dict[str, Task] = {}
    wanted = [selectors] if isinstance(selectors, str) else list(selectors)
    for selector in wanted:
        for task in _expand(selector.removeprefix("!"), among=among):
            if selector.startswith("!"):
                found.pop(task.name, None)
            else:
                found.setdefault(task.name, task)
    if not found:
        raise UserError(f"No task is left by the selection {', '.join(wanted) or '(nothing)'}.")
    return list(found.values())


def _expand(selector: str, *, among: Collection[str] | None, inside: Sequence[str] = ()) -> list[Task]:
    if any(sign in selector for sign in "*?["):
        matches = [name for name in names(selector) if among is None or name in among]
        if not matches:
            raise _nothing_matches(selector, among)
        return [get(name) for name in matches]
    entry = _find(selector)
    if isinstance(entry, Task):
        return [entry]
    if selector in inside:
        raise UserError(f"Mixture {selector!r} contains itself: {' -> '.join([*inside, selector])}.")
    return [task for member in entry.rates for task in _expand(member, among=among, inside=[*inside, selector])]


def _find(name: str) -> Task | Mixture:
    _FINDER.load()
    if name in _ENTRIES:
        return _ENTRIES[name]
    error = unknown("task", name, _ENTRIES)
    # The traceback of an installed plugin is long; what a task of a YAML file lacks is said in a line.
    broken = [origin if "\n" in why.strip() else why for origin, why in _FINDER.broken()]
    hint = f" Plugins that failed to load: {', '.join(broken)} (see `hyperpelt tasks list`)." if broken else ""
    raise UserError(f"{error}{hint}")


def _names(kind: type[Task] | type[Mixture], pattern: str) -> list[str]:
    _FINDER.load()
    return sorted(name for name, entry in _ENTRIES.items() if isinstance(entry, kind) and fnmatchcase(name, pattern))


def _nothing_matches(pattern: str, among: Collection[str] | None) -> UserError:
    known = [name for name in names() if among is None or name in among]
    patterns = {f"{name.rpartition('/')[0]}/*" for name in known if "/" in name} | set(known)
    near = get_close_matches(pattern, sorted(patterns), n=3)
    hint = f"Did you mean {' or '.join(map(repr, near))}?" if near else f"Known: {', '.join(sorted(patterns)[:12])}."
    return UserError(f"No task matches {pattern!r}. {hint}")


def snapshot() -> dict[str, Task | Mixture]:
    """What is registered now (the plugin loader undoes a plugin that fails halfway)."""
    return dict(_ENTRIES)


def restore(entries: Mapping[str, Task | Mixture]) -> None:
    """Go back to a snapshot."""
    _ENTRIES.clear()
    _ENTRIES.update(entries)
