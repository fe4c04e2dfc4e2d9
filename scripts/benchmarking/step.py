"""One training step: ours, peers and the limit, on the same batch.

With `compiled`, the limit and our methods stand there twice, eager and as `NAME compiled` (inductor, one graph), with
the seconds that compiling took.

The limit is the frozen backbone's forward plus the backward of its activations down to the embedded input (SDPA, same
batch): what any method must pay that tunes the first layer of a frozen backbone.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Sequence
from time import perf_counter
from typing import Any

import torch

from benchmarking import other, shapes
from benchmarking.timing import Step, clock, launches, peak_megabytes, rounds
from hyperpelt.model.tuned import TunedModel

PEERS = ("limit", "peft-lora", "peft-lora-all", "peft-ia3", "peft-prefix")
# Widths of the comparison that the limit's ratios were first measured with: 20 prefix rows.
SETTINGS: dict[str, dict[str, Any]] = {"hyperpelt": {"prefix_length": 24}, "hyperprefix": {"prefix_length": 24}}


KEPT = ("shape", "rows", "source", "target", "precision", "dropout", "device", "clock")  # of the setting, in each row


COMPILED = " compiled"  # how the name of a contestant ends whose step is compiled


def _limit(
    shape: str, options: dict[str, Any], batch: dict[str, torch.Tensor], compiled: bool
) -> tuple[Step, torch.nn.Module]:
    model = shapes.make(shape, **options)
    model.requires_grad_(False)
    run: Callable[..., Any] = torch.compile(model, fullgraph=True) if compiled else model
    inputs = {key: batch[key] for key in ("attention_mask", "labels")}

    def step() -> None:
        embedded = model.get_input_embeddings()(batch["input_ids"]).requires_grad_(True)
        run(inputs_embeds=embedded, **inputs, use_cache=False).loss.backward()

    return step, model


def _ours(
    name: str, shape: str, options: dict[str, Any], batch: dict[str, torch.Tensor], num_tasks: int, compiled: bool
) -> tuple[Step, torch.nn.Module]:
    tasks = [f"task-{i}" for i in range(num_tasks)]
    method = {"name": name, **SETTINGS.get(name, {})}
    model = TunedModel.build(shapes.make(shape, **options), method=method, tasks=tasks).train()
    run: Callable[..., Any] = torch.compile(model, fullgraph=True) if compiled else model

    def step() -> None:
        run(**batch).loss.backward()
        model.zero_grad(set_to_none=True)

    return step, model


def _peft(
    name: str, shape: str, options: dict[str, Any], batch: dict[str, torch.Tensor]
) -> tuple[Step, torch.nn.Module]:
    from peft import IA3Config, LoraConfig, PrefixTuningConfig, get_peft_model

    names = ["q", "v"] if shape.startswith("t5") else ["q_proj", "v_proj"]
    kind = {"task_type": "SEQ_2_SEQ_LM"}
    config = {
        "peft-lora": lambda: LoraConfig(r=8, target_modules=names, **kind),
        "peft-lora-all": lambda: LoraConfig(r=8, target_modules="all-linear", **kind),
        "peft-ia3": lambda: IA3Config(**kind),
        "peft-prefix": lambda: PrefixTuningConfig(num_virtual_tokens=24, **kind),
    }[name]()
    model = get_peft_model(shapes.make(shape, **options), config).train()
    inputs = {key: batch[key] for key in ("input_ids", "attention_mask", "labels")}

    def step() -> None:
        model(**inputs).loss.backward()
        model.zero_grad(set_to_none=True)

    return step, model


def measure(
    *,
    shape: str,
    methods: Sequence[str],
    rows: int,
    source: int,
    target: int,
    num_tasks: int,
    repeats: int,
    precision: str,
    compiled: bool,
    dropout: float | None = None,
    adapters: str | None = None,
) -> list[dict[str, Any]]:
    """One row a contestant: `method`, `seconds` (median), `ratio_to_limit` (of the medians), `ratio_of_best` (of the
    fastest rounds: other load only ever adds), `peak_mb`, `launches` (none where compiled), `trainable`, and the
    setting."""
    device = "cuda" if torch.cuda.is_available() else "cpu"
    sizes: dict[str, Any] = {"rows": rows, "source": source, "target": target, "num_tasks": num_tasks, "device": device}
    sizes["vocabulary"] = shapes.SHAPES[shape][1].get("vocab_size", 50265)
    batch = shapes.batch(**sizes)
    dtype = torch.bfloat16 if precision == "bf16" else torch.float32
    options = {"device": device, "dtype": dtype, "dropout": dropout}
    names = list(dict.fromkeys(["limit", *methods]))
    if compiled:
        peers = {*PEERS, *other.NAMES} - {"limit"}
        names = [each for name in names for each in ([name] if name in peers else [name, name + COMPILED])]
    made = {name: _contestant(name, shape, options, batch, num_tasks) for name in names if name not in other.NAMES}
    compiling = {name: _seconds(made[name][0]) for name in names if name.endswith(COMPILED)}
    setting = {**sizes, "shape": shape, "precision": precision, "dropout": dropout, "clock": clock()}
    with other.other(adapters, [name for name in names if name in other.NAMES], setting) as foreign:
        steps: dict[str, Step] = {name: step for name, (step, _) in made.items()}
        steps |= {} if foreign is None else foreign.steps([name for name in names if name not in made])
        times = rounds(steps, repeats=repeats)
        measured = {name: _size(*one, compiled=name in compiling) for name, one in made.items()}
        measured |= {name: foreign.ask(f"peak {name}") for name in names if foreign and name not in made}
    limit = times["limit"]
    return [
        {
            "method": name,
            "seconds": statistics.median(times[name]),
            "ratio_to_limit": statistics.median(times[name]) / statistics.median(limit),
            "ratio_of_best": min(times[name]) / min(limit),
            **measured[name],
            **{key: setting[key] for key in KEPT},
            "tasks": num_tasks,
            "compiled": name in compiling,
            "compile_seconds": compiling.get(name, 0.0),
        }
        for name in names
    ]


def _contestant(
    name: str, shape: str, options: dict[str, Any], batch: dict[str, torch.Tensor], num_tasks: int
) -> tuple[Step, torch.nn.Module]:
    compiled, name = name.endswith(COMPILED), name.removesuffix(COMPILED)
    if name == "limit":
        return _limit(shape, options, batch, compiled)
    if name in PEERS:
        return _peft(name, shape, options, batch)
    return _ours(name, shape, options, batch, num_tasks, compiled)


def _seconds(step: Step) -> float:
    """Of a first call, on the wall: compiling runs in processes of its own."""
    start = perf_counter()
    step()
    return perf_counter() - start


def _size(step: Step, model: torch.nn.Module, *, compiled: bool) -> dict[str, Any]:
    own = {p.untyped_storage().data_ptr() for p in [*model.parameters(), *model.buffers()]}
    trainable = sum(p.numel() for p in model.parameters() if p.requires_grad)
    counted = {"trainable": trainable, "launches": None if compiled else launches(step)}
    return {"peak_mb": peak_megabytes(step, own), **counted}
