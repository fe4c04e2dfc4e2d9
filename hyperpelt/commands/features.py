"""`hyperpelt features`: image features on disk: compute those of tasks, see what is kept, take it away."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from hyperpelt.backbones.quiet import quiet_transformers
from hyperpelt.commands import common
from hyperpelt.config.sizes import as_text, num_bytes
from hyperpelt.errors import UserError

if TYPE_CHECKING:
    from hyperpelt.data.seeing import Eye
    from hyperpelt.tasks import Task
    from hyperpelt.vision import FeatureStore

app = typer.Typer(no_args_is_help=True, help="Image features on disk: compute those of tasks, list, clear.")
COLUMNS = ("encoder", "grid", "dim", "images", "size", "at most", "fingerprint")
SPLITS = ("train", "validation", "test")

Folder = Annotated[
    Path | None,
    typer.Option(
        "--features-dir",
        metavar="FOLDER",
        help="Folder of the feature stores; default: HYPERPELT_FEATURES, else the cache.",
    ),
]


@app.command("build")
def build_features(
    names: Annotated[list[str], typer.Argument(metavar="NAME...", help="Tasks, wildcards or mixtures.")],
    encoder: Annotated[
        str, typer.Option("--encoder", metavar="NAME|ID|FOLDER", help="Image encoder, as in a run's settings.")
    ] = "mini-vision",
    grid: Annotated[int | None, typer.Option("--grid", min=1, help="Cells a side; default: the encoder's own.")] = None,
    split: Annotated[list[str] | None, typer.Option("--split", help="Split, repeatable; default: all three.")] = None,
    limit: Annotated[
        int | None, typer.Option("--limit", min=1, help="At most this many rows of each split, a fixed random sample.")
    ] = None,
    device: Annotated[str | None, typer.Option("--device", help="Where the encoder runs, such as cuda.")] = None,
    max_size: Annotated[
        str | None,
        typer.Option(
            "--max-size",
            metavar="SIZE",
            help="Upper size of the store, such as 20GB: the oldest features make room. none: no upper size.",
        ),
    ] = None,
    skip_bad: Annotated[bool, typer.Option("--skip-bad-images", help="Leave bad images out, and count them.")] = False,
    features_dir: Folder = None,
    data_root: common.DataRoot = None,
    plugin: common.Plugins = None,
    as_json: common.Json = False,
    debug: common.Debug = False,
) -> None:
    """Compute the features of every image of some tasks, once; a run then never encodes them again."""
    with common.stdout_for_json(as_json):
        from hyperpelt import tasks
        from hyperpelt.data.seeing import Eye
        from hyperpelt.vision import FeatureStore, load_image_encoder

        common.load_named_plugins(plugin)
        quiet_transformers()
        chosen = [task for task in tasks.select(names) if "image" in task.modalities]
        if not chosen:
            raise UserError(f"None of the tasks {', '.join(names)} has images.")
        loaded = load_image_encoder(encoder, grid=grid, device=device)
        most = num_bytes(max_size, where="--max-size") if max_size else None
        store = FeatureStore(features_dir, loaded, max_bytes=most)
        eye = Eye(store, lambda: loaded, on_bad_image="skip" if skip_bad else "error")
        rows = [_row(task, part, eye, store, data_root, limit) for task in chosen for part in split or SPLITS]
    if as_json:
        sizes = {"bytes": store.num_bytes(), "max_bytes": store.max_bytes}
        common.print_json({"folder": str(store.folder), **sizes, "splits": rows})
        return
    common.print_table(rows, ("task", "split", "rows", "images", "encoded", "bad"), right=("rows", "images", "encoded"))
    common.note(f"{len(store):,} images, {store.told()}")


def _row(
    task: Task, split: str, eye: Eye, store: FeatureStore, data_root: Path | None, limit: int | None
) -> dict[str, Any]:
    """See one split; how many of its images were encoded now, and how many could not be used."""
    from hyperpelt.data.progress import shown

    examples = task.examples(split, data_root=data_root, limit=limit)
    name, before, bad = f"{task.name} {split}", store.misses, eye.num_bad
    rows = zip(examples.numbers, examples, strict=True)
    numbered = shown(rows, name, "rows", total=len(examples))
    images = sum(len(example.images) for _, example in eye.see(numbered, where=name))
    encoded = store.misses - before
    counts = {"rows": len(examples), "images": images, "encoded": encoded, "bad": eye.num_bad - bad}
    return {"task": task.name, "split": split, **counts}


@app.command("show")
def show_features(
    features_dir: Folder = None,
    as_json: common.Json = False,
    debug: common.Debug = False,
) -> None:
    """List the feature stores: whose features, how many images, how large."""
    with common.stdout_for_json(as_json):
        from hyperpelt.vision.store import default_folder
        from hyperpelt.vision.stores import list_stores

        rows = list_stores(features_dir)
    if as_json:
        common.print_json(rows)
        return
    _print(rows)
    common.note(f"In {features_dir or default_folder()}.")


@app.command("clear")
def clear_features(
    encoder: Annotated[
        str | None, typer.Option("--encoder", metavar="NAME|FINGERPRINT", help="Only features of this encoder.")
    ] = None,
    features_dir: Folder = None,
    as_json: common.Json = False,
    debug: common.Debug = False,
) -> None:
    """Remove features from disk; they are computed anew when they are needed."""
    with common.stdout_for_json(as_json):
        from hyperpelt.vision.stores import clear

        rows = clear(features_dir, encoder=encoder)
    if as_json:
        common.print_json(rows)
        return
    _print(rows)
    common.note(f"Removed {sum(row['images'] or 0 for row in rows):,} images' features.")


def _print(rows: list[dict[str, Any]]) -> None:
    shown = [
        row
        | {
            "grid": "x".join(map(str, row["grid"])),
            "size": as_text(row["bytes"]),
            "at most": as_text(row["max_bytes"]) if row["max_bytes"] else "-",
            "fingerprint": row["fingerprint"][:12],
        }
        for row in rows
    ]
    common.print_table(shown, COLUMNS, right=("dim", "images", "size", "at most"))
    for row in rows:
        if row["damage"]:
            common.note(row["damage"])
