"""`scripts/pretrain`: train, export, loss, evaluate, random. Under `torchrun` `train` uses every process."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated

import torch
import torch.distributed as dist
import typer

from hyperpelt.config.caching import user_cache
from hyperpelt.errors import UserError
from pretraining import runs
from pretraining.loop import Schedule, Settings
from pretraining.rows import Noise

app = typer.Typer(add_completion=False, no_args_is_help=True, pretty_exceptions_enable=False)
CACHE = user_cache() / "pretrain"


@app.callback()
def main() -> None:
    """Pretrain the small backbones that hyperpelt ships."""


@app.command()
def train(
    output: Annotated[Path, typer.Argument(help="Run folder; an existing one is resumed exactly.")],
    model: Annotated[str, typer.Option(help="mini-bart, mini-t5-encoder or mini-t5.")],
    text: Annotated[list[Path], typer.Option(help="Training text (.txt or .txt.xz); repeat for several.")],
    validation: Annotated[Path, typer.Option(help="Held-out text.")],
    steps: Annotated[int, typer.Option(help="Length of the schedule; a larger one on resume prolongs the plateau.")],
    decay_steps: Annotated[int, typer.Option(help="Final steps over which the learning rate falls to zero.")] = 400,
    warmup_steps: int = 100,
    learning_rate: float = 1e-3,
    tokens: Annotated[int, typer.Option(help="Source tokens a process and step.")] = 2048,
    lengths: Annotated[str, typer.Option(help="Window lengths in tokens, one drawn a batch.")] = "32,48,64,96",
    objectives: Annotated[str, typer.Option(help="Shares of rows, e.g. infill=0.75,judge=0.25.")] = "",
    draws: Annotated[int, typer.Option(help="mini-bart: words drawn for a sampled softmax, e.g. 4096; 0: all.")] = 0,
    announce_first: Annotated[bool, typer.Option(help="infill: a mask before the first span too.")] = False,
    encoder: Annotated[Path | None, typer.Option(help="mini-t5: checkpoint of a mini-t5-encoder run.")] = None,
    init: Annotated[Path | None, typer.Option(help="Earlier checkpoint, or exported folder, to start from.")] = None,
    seed: int = 0,
    precision: Annotated[str, typer.Option(help="auto, bf16 or fp32.")] = "auto",
    eval_steps: int = 200,
    save_steps: int = 200,
    log_steps: int = 10,
    keep: Annotated[str, typer.Option(help="Steps whose checkpoints stay, e.g. 800,1600.")] = "",
    workers: Annotated[int, typer.Option(help="Processes that make batches ahead; 8 or more on a GPU.")] = 0,
    stop_after_minutes: Annotated[float | None, typer.Option(help="Stop then; the same command goes on later.")] = None,
    stop_after_steps: Annotated[int | None, typer.Option(help="Stop then; the same command goes on later.")] = None,
    cache: Annotated[Path, typer.Option(help="Where tokenised text is kept.")] = CACHE,
) -> None:
    """Train, or resume, a backbone."""
    settings = Settings(
        schedule=Schedule(steps=steps, warmup_steps=warmup_steps, decay_steps=decay_steps, learning_rate=learning_rate),
        log_steps=log_steps,
        eval_steps=eval_steps,
        save_steps=save_steps,
        keep=parse_numbers(keep, "--keep") if keep else (),
        workers=workers,
        stop_after_minutes=stop_after_minutes,
        stop_after_steps=stop_after_steps,
    )
    plan = runs.Plan(
        model=model,
        text=tuple(map(str, text)),
        validation=str(validation),
        objectives=parse_shares(objectives) if objectives else runs.default_objectives(model),
        lengths=parse_numbers(lengths, "--lengths"),
        tokens=tokens,
        noise=Noise(announce_first=announce_first),
        seed=seed,
        precision=precision,
        draws=draws,
        init=str(init) if init else None,
        encoder=str(encoder) if encoder else None,
    )
    device = start_processes()
    runs.train(plan, settings, output, cache=cache, device=device)
    if dist.is_initialized():
        dist.destroy_process_group()


def start_processes() -> torch.device:
    """The device of this process; joins the group that `torchrun` started."""
    rank = int(os.environ.get("LOCAL_RANK", "0"))
    if torch.cuda.is_available():
        device = torch.device("cuda", rank)
        torch.cuda.set_device(device)
        torch.backends.cuda.matmul.allow_tf32 = True
    else:
        device = torch.device("cpu")
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        dist.init_process_group("nccl" if device.type == "cuda" else "gloo")
    return device


def parse_shares(text: str) -> dict[str, float]:
    """'infill=0.75,judge=0.25' -> shares."""
    try:
        return {name.strip(): float(share) for name, share in (part.split("=") for part in text.split(","))}
    except ValueError:
        raise UserError(f"Expected objectives as name=share,name=share, got {text!r}.") from None


def parse_numbers(text: str, option: str) -> tuple[int, ...]:
    """'32,48' -> (32, 48)."""
    parts = [part.strip() for part in text.split(",") if part.strip()]
    if not parts or not all(part.isdecimal() for part in parts):
        raise UserError(f"{option} takes whole numbers such as 32,48, got {text!r}.")
    return tuple(map(int, parts))


@app.command()
def export(
    run: Annotated[Path, typer.Argument(help="Run folder of `scripts/pretrain train`.")],
    output: Annotated[Path, typer.Argument(help="Asset folder, e.g. hyperpelt/assets/mini-bart.")],
    step: Annotated[int | None, typer.Option(help="Which checkpoint; the newest if not given.")] = None,
) -> None:
    """Write a checkpoint as the asset that ships (bf16 safetensors, config.json, training.json)."""
    from pretraining.export import export as write

    print(write(run, output, step=step))


@app.command()
def evaluate(
    name: Annotated[str, typer.Argument(help="mini-bart or mini-t5, as shipped in hyperpelt/assets.")],
    text: Annotated[list[Path], typer.Option(help="The training text (for the unigram model).")],
    validation: Annotated[Path, typer.Option(help="Held-out text.")],
    data_root: Annotated[Path, typer.Option(help="Folder with nyu-mll/glue.")],
    output: Annotated[Path, typer.Option(help="Folder of the JSON file and of backbones.md.")] = Path("docs/results"),
    tasks: Annotated[str, typer.Option(help="Tasks to tune on.")] = "glue/sst2,glue/mrpc,glue/qnli",
    method: str = "parallel-adapter",
    steps: Annotated[int, typer.Option(help="Tuning steps a task.")] = 200,
    rows: Annotated[int, typer.Option(help="Rows a tuning step.")] = 32,
    learning_rate: float = 1e-3,
    test_rows: Annotated[int, typer.Option(help="Test rows at most.")] = 500,
    seeds: str = "0",
    columns: Annotated[str, typer.Option(help="Whom to tune, e.g. shipped,random; everyone if empty.")] = "",
    batches: Annotated[int, typer.Option(help="Held-out batches an objective.")] = 32,
    cache: Annotated[Path, typer.Option(help="Where tokenised text is kept.")] = CACHE,
) -> None:
    """Measure a shipped backbone: held-out loss, and tuned accuracy beside a random one of the same shape."""
    from pretraining.evaluate import Tuning
    from pretraining.evaluate import evaluate as measure
    from pretraining.tables import markdown

    tuning = Tuning(method=method, steps=steps, rows=rows, learning_rate=learning_rate, test_rows=test_rows)
    plan = runs.shipped_plan(name, text=text, validation=validation)
    command = (
        f"scripts/pretrain evaluate {name} --text {' --text '.join(path.name for path in text)} --validation "
        f"{validation.name} --data-root DATA --tasks {tasks} --method {method} --steps {steps} --rows {rows} "
        f"--learning-rate {learning_rate} --test-rows {test_rows} --seeds {seeds} --batches {batches}"
    )
    measure(
        name,
        plan=plan,
        material=runs.load_material(plan, cache),
        task_names=tasks.split(","),
        tuning=tuning,
        seeds=parse_numbers(seeds, "--seeds"),
        batches=batches,
        columns=[column for column in columns.split(",") if column],
        data_root=data_root,
        output=output / f"backbone-{name}.json",
        command=command,
        report=lambda line: print(line, flush=True),
    )
    (output / "backbones.md").write_text(markdown(output), encoding="utf8")


@app.command("random")
def random_(
    name: Annotated[str, typer.Argument(help="mini-bart or mini-t5: the shape.")],
    output: Annotated[Path, typer.Argument(help="Folder to write; a run takes it as `backbone`.")],
    seed: int = 0,
) -> None:
    """Write the same shape with random weights, and its tokenizer: what a pretrained backbone is compared with."""
    from hyperpelt.backbones import load_tokenizer
    from pretraining.evaluate import random_backbone

    random_backbone(name, seed=seed).save_pretrained(output)
    load_tokenizer(name).save_pretrained(output)
