"""What `hyperpelt plan` says of a training step, beside what the step really takes: an accelerator's allocator, or a
CPU's, asked while real weights are trained.

Everything in bytes of one process; AdamW. What is there between steps is told apart from what a step adds.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import nn

from hyperpelt import methods
from hyperpelt.data.host import OnHost, Targets
from hyperpelt.model.tuned import TunedModel
from hyperpelt.planning.plan import precision_of
from hyperpelt.planning.shapes import shape_of
from hyperpelt.planning.stand_in import ACCELERATOR, CPU
from hyperpelt.planning.step import Measured, Shape, StepCosts, costs_of

MB = 2**20


def measure(
    *,
    shape: str,
    names: Sequence[str],
    rows: int,
    source: int,
    target: int,
    num_tasks: int,
    precision: str,
    checkpointing: bool,
) -> list[dict[str, Any]]:
    """One row a method: `standing` (bytes of weights and the optimiser's state) and `step` (the most that the allocator
    gives out beside them), each as planned, as taken (MiB), and as a ratio. What trains the backbone itself is measured
    in fp32, as it would run."""
    sizes = Shape(rows=rows, source=source, target=target, num_tasks=num_tasks)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    found = []
    for name in names:
        options = {"precision": precision_of(methods.get(name), precision), "checkpointing": checkpointing}
        costs = _planned(shape, name, sizes, device, **options)
        standing, step = _taken(shape, name, sizes, device, **options)
        found.append(
            {
                "method": name,
                "standing_planned": costs.standing / MB,
                "standing": standing / MB,
                "standing_ratio": costs.standing / standing,
                "step_planned": costs.step / MB,
                "step": step / MB,
                "step_ratio": costs.step / step,
                "shape": shape,
                "rows": rows,
                "source": source,
                "target": target,
                "tasks": num_tasks,
                "device": device.type,
                **options,
            }
        )
    return found


def _planned(shape: str, name: str, sizes: Shape, device: torch.device, **options: Any) -> StepCosts:
    played = CPU if device.type == "cpu" else ACCELERATOR
    with Measured(shape, methods.get(name), num_tasks=sizes.num_tasks, device=played, **options) as measured:
        return costs_of(measured, sizes, parts=False)


def _taken(
    shape: str, name: str, sizes: Shape, device: torch.device, *, precision: str, checkpointing: bool
) -> tuple[int, int]:
    """(bytes between steps, the most that a step adds to them) of real training steps."""
    outline = shape_of(shape, precision)
    with device:  # random weights, where they are used
        backbone = type(outline)(outline.config)
    nn.Module.to(backbone, next(outline.parameters()).dtype)
    tasks = [f"task-{number}" for number in range(sizes.num_tasks)]
    model = TunedModel.build(backbone, method=name, tasks=tasks).train()
    if checkpointing:
        model.gradient_checkpointing_enable()
    trained = [parameter for _, parameter in model.trainable_parameters()]
    optimizer = torch.optim.AdamW(trained, lr=1e-4)
    batch = _batch(sizes, outline.config.vocab_size, device)

    def step() -> None:
        model(**batch).loss.backward()

    for _ in range(2):  # the optimiser's state, and an accelerator's workspaces, are there
        step()
        optimizer.step()
        model.zero_grad(set_to_none=True)
    standing = _bytes([*model.parameters(), *model.buffers(), *_state(optimizer)])
    return standing, _most_on_cuda(step) if device.type == "cuda" else _most_on_a_cpu(step)


def _batch(sizes: Shape, vocabulary: int, device: torch.device) -> dict[str, Any]:
    generator = torch.Generator().manual_seed(0)

    def ids(length: int) -> torch.Tensor:
        return torch.randint(3, vocabulary, (sizes.rows, length), generator=generator).to(device)

    inputs = ids(sizes.source)
    mask = torch.ones_like(inputs)
    mask[0, -2:] = 0  # as a batch is: not all rows are equally long
    tasks = OnHost(torch.arange(sizes.rows) % sizes.num_tasks)
    rest = {"task_ids": tasks, "targets": Targets(None), "keep_logits": False}
    return {"input_ids": inputs, "attention_mask": mask, "labels": ids(sizes.target), **rest}


def _state(optimizer: torch.optim.Optimizer) -> list[torch.Tensor]:
    return [value for state in optimizer.state.values() for value in state.values() if isinstance(value, torch.Tensor)]


def _bytes(tensors: Sequence[torch.Tensor]) -> int:
    return sum({t.untyped_storage().data_ptr(): t.untyped_storage().nbytes() for t in tensors}.values())


def _most_on_cuda(step: Callable[[], None]) -> int:
    before = torch.cuda.memory_allocated()
    torch.cuda.reset_peak_memory_stats()
    step()
    return torch.cuda.max_memory_allocated() - before


def _most_on_a_cpu(step: Callable[[], None]) -> int:
    """By the events of PyTorch's allocator."""
    with torch.profiler.profile(profile_memory=True) as profiler:
        step()
    made: Any = profiler.profiler  # typed as if it might not have run
    events = [event for event in made.kineto_results.events() if event.name() == "[memory]"]
    now = peak = 0
    for event in sorted(events, key=lambda event: event.start_ns()):
        now += event.nbytes()
        peak = max(peak, now)
    return peak
