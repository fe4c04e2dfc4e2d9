"""What may be ended at any moment and started again, and what must be the same in the end."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from soaking.place import Place, Said, command


@dataclass(frozen=True)
class Work:
    """Something that may be ended at any moment and started again. `result`: what must be equal in the end.

    within: in the path of the files whose changes are counted as its events; empty: of all files.
    """

    prepare: Callable[[Place, Path], None]
    start: Callable[[Place, Path], Said]
    result: Callable[[Path], Any]
    within: str = ""


def nothing(place: Place, folder: Path) -> None:
    """There is nothing in the folder when the work begins."""


def _old_run(place: Place, folder: Path) -> None:
    shutil.copytree(place.run, folder / "run")


def _train(place: Place, folder: Path) -> Said:
    os.environ["HYPERPELT_CACHE"] = str(folder / "cache")  # nothing is tokenised yet
    return command("train", place.settings, f"output_dir={folder / 'run'}", "resume=auto")


def _train_again(place: Place, folder: Path) -> Said:
    return command("train", place.settings, f"output_dir={folder / 'run'}", "seed=7", "overwrite=true")


def _add(place: Place, folder: Path) -> Said:
    settings = [f"output_dir={folder / 'run'}", "max_steps=3", "save_steps=1", "resume=auto", "use_cpu=true"]
    return command("train", "--add", "toy/truth", "--from", place.run, *settings)


def _export(place: Place, folder: Path, form: str) -> Said:
    run = place.mergeable if form == "merged" else place.run
    return command("export", run, "--task", "toy/mood", "--to", form, "--output", folder / "run")


def _transfer(place: Place, folder: Path) -> Said:
    return command(*transfer_of(place, folder / "run", shots="0,4", seeds=2))


def transfer_of(place: Place, output: Path, *, shots: str, seeds: int) -> list[object]:
    """A command line: a transfer of the place's run."""
    how = ["--shots", shots, "--seeds", seeds, "--steps", 2, "--limit", 4, "--cpu", "--adapt", "embedding"]
    return ["transfer", place.run, "--tasks", "toy/truth", *how, "--output", output]


def build_features(place: Place, folder: Path) -> Said:
    """Encode the images of the place's task."""
    images = ["pictures/colour", "--plugin", place.pictures, "--grid", "2"]
    return command("features", "build", *images, "--features-dir", folder / "features")


def train_on_images(place: Place, folder: Path) -> Said:
    """Train on them; features that are missing are made."""
    os.environ["HYPERPELT_CACHE"] = str(folder / "cache")
    settings = [f"output_dir={folder / 'run'}", "tasks=[pictures/colour]", f"plugins=[{place.pictures}]"]
    settings += [f"features_dir={folder / 'features'}", "image_grid=2", "resume=auto"]
    method = "{name: vl-hyperpelt, prefix_length: 2, bottleneck: 2, visual_bottleneck: 2, prefix_hidden: 4}"
    return command("train", place.settings, f"method={method}", *settings)


def tensors(folder: Path) -> dict[str, str]:
    """The checksums of a run's or an export's tensors."""
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in (folder / "run").glob("*.safetensors")}


def cells(folder: Path) -> Any:
    """What a transfer measured."""
    summary = json.loads((folder / "run" / "summary.json").read_text(encoding="utf8"))["summary"]
    return [[row["task"], row["shots"], row["label"], row["n"], row["mean"]] for row in summary]


def features(folder: Path) -> dict[str, str]:
    """The checksum of each image's features, by its key, in shards that can be read."""
    from safetensors.torch import load_file

    found: dict[str, str] = {}
    for path in sorted((folder / "features").glob("*/[0-9]*.safetensors")):
        try:
            shard = load_file(path)
        except OSError:
            continue
        rows = zip(shard["keys"].numpy(), shard["features"].numpy(), strict=True)
        found |= {key.tobytes().hex(): hashlib.sha256(row.tobytes()).hexdigest() for key, row in rows}
    return found


def _both(folder: Path) -> Any:
    return features(folder), tensors(folder)


WORKS = {
    "training": Work(nothing, _train, tensors),
    "overwriting": Work(_old_run, _train_again, tensors),
    "adding": Work(nothing, _add, tensors),
    "baked export": Work(nothing, lambda place, folder: _export(place, folder, "baked"), tensors),
    "merged export": Work(nothing, lambda place, folder: _export(place, folder, "merged"), tensors),
    "transfer": Work(nothing, _transfer, cells),
}
# What is kept between runs: token caches and the feature store.
KEEPING = {
    "tokenising": Work(nothing, _train, tensors, within="/scratch/cache/"),
    "features": Work(nothing, build_features, features),
    "training on images": Work(nothing, train_on_images, _both, within="/scratch/features/"),
}
