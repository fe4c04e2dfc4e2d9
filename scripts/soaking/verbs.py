"""Command lines of every verb: options at random, with values of wrong kinds, with paths of what is no such file."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from random import Random
from typing import Any

from soaking.place import Place, command, forget

NAMES = (
    "toy/mood", "toy/truth", "pictures/colour", "toy/*", "nowhere/x", "glue/rte", "", " ", "[/b]", "\x1b[31m", "\ud800",
    "a,b", "x" * 300, "{a}", "train", "test", "lora", "hyperpelt", "mini-t5", "mini-vision", "h100", "cpu", "cuda",
    "csv", "merged", "sum", "none", "5GB", "mean", "embedding=1", "=", "0,4", "seed=x", "max_steps=1", "tasks=[x]",
)  # fmt: skip
NUMBERS = ("0", "1", "3", "-1", "1.5", "nan", "inf", "x", "", "9" * 20, "1e3", "0x10", "\u0663")
# What keeps a verb that works short; an option that is drawn later takes its place.
QUICK: dict[str, list[object]] = {
    "transfer": ["--steps", 1, "--limit", 2, "--seeds", 1, "--shots", 0, "--cpu"],
    "evaluate": ["--limit", 2],
    "geometry": ["--limit", 2, "--cpu"],
}
LEFT_OUT = {"help", "debug", "processes"}  # processes: each costs seconds


def lines(place: Place, random: Random) -> tuple[str, str]:
    """A verb with some of its options."""
    from hyperpelt import tasks

    folder, known = place.fresh(), tasks.names()
    shutil.copytree(place.run, folder / "run")
    paths, (path, verb) = _paths(folder, place), random.choice(list(_verbs()))
    given: list[object] = [*path, *QUICK.get(path[-1], ())]
    for parameter in verb.params:
        if parameter.name not in LEFT_OUT:
            given += _of(parameter, folder, paths, random)
    os.chdir(folder)
    os.environ["HYPERPELT_FEATURES"] = str(folder / "features")
    try:
        return " ".join(map(str, given))[:300], command(*given, stdin=b"good bad\n").fault
    finally:
        forget(known)


def _verbs() -> Iterator[tuple[tuple[str, ...], Any]]:
    import typer

    from hyperpelt import cli

    def below(group: Any, path: tuple[str, ...]) -> Iterator[tuple[tuple[str, ...], Any]]:
        for name, verb in getattr(group, "commands", {}).items():
            if hasattr(verb, "commands"):
                yield from below(verb, (*path, name))
            else:
                yield (*path, name), verb

    yield from below(typer.main.get_command(cli.app), ())


def _paths(folder: Path, place: Place) -> list[Path]:
    """A run, a plugin, a backbone, and what is none of them."""
    (folder / "empty").mkdir()
    (folder / "file.yaml").write_bytes(b"\xff\x00")
    (folder / "link").symlink_to("link")
    os.mkfifo(folder / "fifo")
    mine = [folder / name for name in ("empty", "file.yaml", "link", "fifo", "nowhere/deep", "run/config.json", "new")]
    return [*mine, place.plugin, place.pictures, place.backbone, *map(Path, ("/dev/null", "/dev/full", "/dev/zero"))]


def _of(parameter: Any, folder: Path, paths: list[Path], random: Random) -> list[object]:
    option = parameter.param_type_name == "option"
    if option and not parameter.required and random.random() > 0.15:
        return []
    if option and parameter.is_flag:
        return [parameter.opts[0]]
    usual: object = folder / "run" if parameter.name in ("run", "runs") else "toy/mood"
    value = random.choice((usual, usual, random.choice(NAMES), random.choice(NUMBERS), random.choice(paths)))
    return [f"{parameter.opts[0]}={value}"] if option else [value]


CAMPAIGNS: dict[str, Callable[[Place, Random], tuple[str, str]]] = {"bad command lines": lines}
