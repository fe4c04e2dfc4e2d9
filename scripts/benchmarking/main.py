"""The command line of `scripts/benchmark`."""

from __future__ import annotations

from typing import Annotated

import typer

from benchmarking.printing import show
from hyperpelt.errors import UserError, unknown

MEMORY_COLUMNS = [
    "method", "precision", "standing_planned", "standing", "standing_ratio", "step_planned", "step", "step_ratio",
]  # fmt: skip
DATA_COLUMNS = ["method", "seconds", "peak_mb", "ratio_to_limit"]
app = typer.Typer(add_completion=False, no_args_is_help=True, pretty_exceptions_enable=False)


def _known_shape(name: str) -> str:
    from benchmarking.shapes import SHAPES

    if name not in SHAPES:
        raise unknown("shape", name, SHAPES)
    return name


def _known_precision(name: str) -> str:
    if name not in ("fp32", "bf16"):
        raise unknown("precision", name, ["fp32", "bf16"])
    return name


# Options that several parts share.
Shape = Annotated[
    str,
    typer.Option(help="t5-tiny, t5-small, t5-base, t5-large, bart-base or mini-bart", callback=_known_shape),
]
Backbone = Annotated[str, typer.Option(help="embedded name, folder or hub id")]
Precision = Annotated[str, typer.Option(help="fp32 or bf16, of the backbone", callback=_known_precision)]
Rows = Annotated[int, typer.Option(min=1, help="rows of the batch")]
Source = Annotated[int, typer.Option(min=1, help="source tokens a row")]
Target = Annotated[int, typer.Option(min=1, help="target tokens a row")]
Tasks = Annotated[int, typer.Option(min=1, help="tasks; a batch mixes as many as it has rows")]
Repeats = Annotated[int, typer.Option(min=1, help="timed rounds; the median is shown")]
Encoder = Annotated[str, typer.Option(help="image encoder whose features are read")]
Grid = Annotated[int, typer.Option(min=1, help="cells a side")]
DataRoot = Annotated[str | None, typer.Option(help="local mirror of the data sets")]
Json = Annotated[bool, typer.Option("--json", help="JSON on standard output")]


@app.callback()
def parts(
    clock: Annotated[str, typer.Option(help="wall, or cpu: processor time, for a machine that is not quiet")] = "wall",
) -> None:
    """Measure hyperpelt against named peers and limits, in one run."""
    from benchmarking.timing import set_clock

    set_clock(clock)


@app.command()
def step(
    shape: Shape = "t5-small",
    methods: Annotated[
        str,
        typer.Option(
            help="names of methods, and peers: peft-lora, peft-lora-all, peft-ia3, peft-prefix; with --adapters also "
            "adapters-mam, adapters-pfeiffer"
        ),
    ] = ("hyperpelt,hyperformer++,prefix-tuning,lora,ia3,full,peft-lora,peft-lora-all,peft-ia3,peft-prefix"),
    rows: Rows = 16,
    source: Source = 128,
    target: Target = 8,
    tasks: Tasks = 8,
    repeats: Repeats = 5,
    precision: Precision = "fp32",
    compiled: Annotated[
        bool, typer.Option("--compile", help="also the limit and our steps compiled, beside eager")
    ] = False,
    dropout: Annotated[float | None, typer.Option(help="of every backbone, instead of its own")] = None,
    adapters: Annotated[
        str | None, typer.Option(help="interpreter of an environment with adapters 1.3 (pip install torch adapters)")
    ] = None,
    as_json: Json = False,
) -> None:
    """A training step against the frozen backbone's forward and input-gradient backward (the limit)."""
    from benchmarking.step import measure

    result = measure(
        shape=shape,
        methods=[name.strip() for name in methods.split(",")],
        rows=rows,
        source=source,
        target=target,
        num_tasks=tasks,
        repeats=repeats,
        precision=precision,
        compiled=compiled,
        dropout=dropout,
        adapters=adapters,
    )
    columns = ["method", "trainable", "seconds", "ratio_to_limit", "ratio_of_best", "peak_mb", "launches"]
    show(result, as_json, columns + ["compile_seconds"] * compiled)


@app.command()
def memory(
    shape: Shape = "t5-small",
    methods: Annotated[str, typer.Option(help="names of methods")] = "hyperpelt,hyperblock,hyperformer++,lora,full",
    rows: Rows = 16,
    source: Source = 128,
    target: Target = 8,
    tasks: Tasks = 8,
    precision: Precision = "fp32",
    checkpointing: Annotated[bool, typer.Option("--checkpointing", help="activations made again in backward")] = False,
    as_json: Json = False,
) -> None:
    """MiB that `hyperpelt plan` tells for a training step, against what this machine's allocator gave out."""
    from benchmarking.memory import measure

    names = [name.strip() for name in methods.split(",")]
    sizes = {"rows": rows, "source": source, "target": target, "num_tasks": tasks}
    found = measure(shape=shape, names=names, precision=precision, checkpointing=checkpointing, **sizes)
    show(found, as_json, MEMORY_COLUMNS)


@app.command()
def mixture(
    backbone: Backbone = "mini-bart",
    tasks: Annotated[str, typer.Option(help="tasks of the mixture")] = "glue/*",
    rows: Rows = 32,
    steps: Annotated[int, typer.Option(min=1, help="steps a round")] = 50,
    length: Annotated[int, typer.Option(min=1, help="sources are cut at so many tokens")] = 128,
    train_limit: Annotated[int, typer.Option(min=1, help="rows of each task at most")] = 5_000,
    data_root: DataRoot = None,
    repeats: Repeats = 3,
    as_json: Json = False,
) -> None:
    """Rows a second on real text, end to end, against transformers' Trainer with PEFT's LoRA."""
    from benchmarking.mixture import measure

    result = measure(
        backbone=backbone,
        tasks=tasks,
        rows=rows,
        steps=steps,
        length=length,
        data_root=data_root,
        repeats=repeats,
        train_limit=train_limit,
    )
    show(result, as_json, ["method", "rows_per_second", "ratio_to_random", "ratio_to_grouped"])


@app.command()
def scale(
    shape: Shape = "t5-small",
    method: Annotated[str, typer.Option(help="a method whose weights a hypernetwork makes")] = "hyperpelt",
    counts: Annotated[str, typer.Option(help="numbers of tasks")] = "1,8,64,512,4096",
    rows: Rows = 16,
    source: Source = 64,
    target: Target = 8,
    repeats: Repeats = 5,
    as_json: Json = False,
) -> None:
    """Step time, generation alone and memory as the number of tasks grows."""
    from benchmarking.scale import measure

    result = measure(
        shape=shape, method=method, counts=_numbers(counts), rows=rows, source=source, target=target, repeats=repeats
    )
    show(result, as_json, list(result[0]))


def _numbers(text: str) -> list[int]:
    """'1,8,64' -> [1, 8, 64]."""
    parts = [part.strip() for part in text.split(",")]
    if not all(part.isdecimal() and int(part) for part in parts):
        raise UserError(f"--counts are numbers of tasks such as 1,8,64, got {text!r}.")
    return [int(part) for part in parts]


@app.command()
def score(
    backbone: Backbone = "mini-bart",
    tasks: Annotated[str, typer.Option(help="tasks with choices")] = "glue/mnli,super_glue/boolq",
    limit: Annotated[int, typer.Option(min=1, help="rows of each task")] = 256,
    batch_size: Annotated[int, typer.Option(min=1, help="rows (ours) or requests (the loop) at a time")] = 32,
    data_root: DataRoot = None,
    repeats: Repeats = 3,
    as_json: Json = False,
) -> None:
    """Choice scoring on real rows against one encoder-decoder pass a choice."""
    from benchmarking.score import measure

    result = measure(
        backbone=backbone,
        tasks=tasks.split(","),
        limit=limit,
        batch_size=batch_size,
        data_root=data_root,
        repeats=repeats,
    )
    show(result, as_json, list(result[0]))


@app.command()
def generate(
    shape: Shape = "t5-small",
    method: Annotated[str, typer.Option(help="any method that can be baked")] = "hyperpelt",
    rows: Rows = 16,
    source: Source = 64,
    target: Annotated[int, typer.Option(min=1, help="tokens written a row")] = 24,
    repeats: Repeats = 5,
    as_json: Json = False,
) -> None:
    """Tokens a second, baked and live, against the bare backbone; a batch of eight tasks against eight batches."""
    from benchmarking.generate import measure

    result = measure(shape=shape, method=method, rows=rows, source=source, target=target, repeats=repeats)
    show(result, as_json, list(result[0]))


@app.command()
def start(
    repeats: Repeats = 5,
    as_json: Json = False,
) -> None:
    """Seconds of `import hyperpelt` and of `hyperpelt --help`, against `import torch`."""
    from benchmarking.start import measure

    show(measure(repeats=repeats), as_json, ["method", "seconds", "ratio_to_limit"])


@app.command()
def vision(
    backbone: Backbone = "mini-bart",
    encoder: Encoder = "mini-vision",
    grid: Grid = 4,
    rows: Rows = 32,
    source: Source = 24,
    target: Target = 4,
    tasks: Tasks = 8,
    repeats: Repeats = 5,
    as_json: Json = False,
) -> None:
    """A training step with images and without, against the same method on text alone."""
    from benchmarking.vision import measure_steps

    sizes = {"rows": rows, "source": source, "target": target, "num_tasks": tasks}
    result = measure_steps(backbone=backbone, encoder=encoder, grid=grid, repeats=repeats, **sizes)
    show(result, as_json, ["method", "trainable", "seconds", "ratio_to_text"])


@app.command()
def features(
    encoder: Encoder = "mini-vision",
    grid: Grid = 4,
    images: Annotated[int, typer.Option(min=1, help="pictures of the suite")] = 512,
    batch: Annotated[int, typer.Option(min=1, help="pictures encoded, and features read, at a time")] = 32,
    as_json: Json = False,
) -> None:
    """Images a second: encoded, encoded and kept in the feature store, and read from it."""
    from benchmarking.vision import measure_features

    result = measure_features(encoder=encoder, grid=grid, images=images, batch=batch)
    show(result, as_json, ["method", "images_per_second", "ratio_to_encode", "bytes_per_image"])


@app.command()
def data(
    backbone: Backbone = "mini-bart",
    rows: Annotated[int, typer.Option(min=1, help="rows of the training file")] = 500_000,
    steps: Annotated[int, typer.Option(min=1, help="steps of the run")] = 200,
    batch: Annotated[int, typer.Option(min=1, help="rows a step")] = 32,
    as_json: Json = False,
) -> None:
    """Processor seconds and memory of a run before its first step over a large JSONL file; by the cpu clock always."""
    from benchmarking.data import measure

    show(measure(rows=rows, steps=steps, batch=batch, backbone=backbone), as_json, DATA_COLUMNS)
