"""Damaged files of every folder that hyperpelt writes or reads: runs, backbones, caches, features, transfers."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from random import Random

from soaking.nasty import spoil_file
from soaking.place import Place, command
from soaking.works import build_features, features, train_on_images, transfer_of

Case = Callable[[Place, Random], tuple[str, str]]  # what was tried, and its fault


def run_folders(place: Place, random: Random) -> tuple[str, str]:
    """A file of a run folder is damaged; every command that reads it."""
    run = place.fresh() / "run"
    shutil.copytree(place.run, run)
    done = spoil_file(random, random.choice(sorted(path for path in run.rglob("*") if path.is_file())))
    verb = random.choice(("report", "predict", "evaluate", "resume", "export", "geometry", "lock"))
    said = {
        "report": lambda: command("report", run, "--output", run / "page.html"),
        "predict": lambda: command("predict", run, "--task", "toy/mood", stdin=b"good bad\n"),
        "evaluate": lambda: command("evaluate", run, "--cpu", "--limit", 2),
        "resume": lambda: command("train", run, "resume=true", "max_steps=5"),
        "export": lambda: command("export", run, "--task", "toy/mood", "--output", run.parent / "out"),
        "geometry": lambda: command("geometry", run, "--cpu"),
        "lock": lambda: command("train", run, "overwrite=true", "max_steps=1"),
    }[verb]()
    return f"{verb}: {done}", said.fault


def backbones(place: Place, random: Random) -> tuple[str, str]:
    """A file of a backbone is damaged. Training ends in a sentence; a run that was trained on it notices."""
    folder = place.fresh() / "t5"
    shutil.copytree(place.backbone, folder)
    done = spoil_file(random, random.choice(sorted(folder.iterdir())))
    if random.random() < 0.5:
        said = command("predict", place.run, "--task", "toy/mood", "--backbone", folder, stdin=b"good bad\n")
    else:
        output = place.scratch / "out"
        said = command("train", place.settings, f"backbone={folder}", f"output_dir={output}", "max_steps=1")
    return done, said.fault


def caches(place: Place, random: Random) -> tuple[str, str]:
    """A file of the cache is damaged: it is made again."""
    found = sorted(path for path in (place.folder / "cache").rglob("*") if path.is_file() and path.suffix != ".lock")
    if not found:
        return "no cache", ""
    done = spoil_file(random, random.choice(found))
    said = command("train", place.settings, f"output_dir={place.fresh() / 'out'}", "max_steps=1")
    shutil.rmtree(place.folder / "cache", ignore_errors=True)
    again = command("train", place.settings, f"output_dir={place.fresh() / 'out'}", "max_steps=1")
    return done, said.fault or again.fault


def transfers(place: Place, random: Random) -> tuple[str, str]:
    """A file that a transfer wrote is damaged; it goes on, or is reported."""
    kept, output = place.folder / "transfer", place.fresh() / "transfer"
    if not kept.exists():
        assert (first := command(*transfer_of(place, kept, shots="4", seeds=1))).status == 0, first.err
    shutil.copytree(kept, output)
    done = spoil_file(random, random.choice(sorted(path for path in output.iterdir() if path.is_file())))
    said = (
        command(*transfer_of(place, output, shots="4", seeds=1))
        if random.random() < 0.7
        else command("report", place.run)
    )
    return done, said.fault


def feature_stores(place: Place, random: Random) -> tuple[str, str]:
    """A file of a feature store is damaged: shown and cleared, or what it held is there again, bit for bit."""
    kept, folder = place.folder / "kept", place.fresh()
    if not kept.exists():
        assert (first := build_features(place, kept)).status == 0, first.err
    shutil.copytree(kept / "features", folder / "features")
    files = sorted(path for path in (folder / "features").rglob("*") if path.is_file())
    done = spoil_file(random, random.choice(files))
    verb = random.choice(("build", "build", "show", "clear", "train"))
    if verb in ("show", "clear"):
        return f"{verb}: {done}", command("features", verb, "--features-dir", folder / "features").fault
    said = (build_features if verb == "build" else train_on_images)(place, folder)
    lost = said.status == 0 and features(folder) != features(kept)
    return f"{verb}: {done}", said.fault or ("other features" if lost else "")


CAMPAIGNS: dict[str, Case] = {
    "damaged runs": run_folders,
    "damaged backbones": backbones,
    "damaged caches": caches,
    "damaged transfers": transfers,
    "damaged features": feature_stores,
}
