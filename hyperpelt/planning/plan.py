"""From a run's settings to its plan: for its batch, lengths, precision and processes, and the memories asked about."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any

from hyperpelt.config import RunConfig
from hyperpelt.config.sizes import num_bytes
from hyperpelt.errors import UserError
from hyperpelt.methods import Method
from hyperpelt.planning.cards import Card, card
from hyperpelt.planning.fit import Spread, largest_batch
from hyperpelt.planning.settled import settle
from hyperpelt.planning.stand_in import ACCELERATOR, CPU
from hyperpelt.planning.step import Measured, Shape, StepCosts, costs_of
from hyperpelt.tasks.plugins import load_each

MEMORIES = ("16GB", "24GB", "40GB", "80GB", "141GB")


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What a run takes. **fits**: rows of the largest batch of a process, by memory. **notes**: what it leaves out."""

    config: RunConfig
    method: str
    costs: StepCosts
    spread: Spread
    fits: dict[str, int]
    card: Card | None
    notes: tuple[str, ...] = ()

    @property
    def seconds(self) -> float | None:
        """An estimate of a step, and no measurement: products at the card's stated FLOP/s, traffic at its bandwidth and
        messages over its link, each after the other; real steps reach a third to two thirds of what makers state."""
        if self.card is None:
            return None
        work = self.costs.work["step"]
        micro = self.config.gradient_accumulation_steps
        computed = work.flops / self.card.flops[self.config.precision] + work.traffic / self.card.bandwidth
        return computed * micro + self.spread.sent(self.costs) / self.card.link

    def to_dict(self) -> dict[str, Any]:
        """Plain data; bytes and FLOPs are whole numbers."""
        costs, shape = self.costs, self.costs.shape
        names = (
            "frozen",
            "trained",
            "values",
            "optimizer",
            "gradients",
            "kept",
            "logits",
            "step",
            "scoring",
            "writing",
        )
        return {
            "backbone": self.config.backbone,
            "method": self.method,
            "rows": shape.rows,
            "source": shape.source,
            "target": shape.target,
            "num_tasks": shape.num_tasks,
            "precision": self.config.precision,
            "quantization": self.config.quantization,
            "gradient_checkpointing": self.config.gradient_checkpointing,
            "processes": self.spread.processes,
            "fsdp": self.spread.fsdp,
            "bytes": {name: getattr(costs, name) for name in names},
            "peak": costs.peak,
            "held_a_process": self.spread.held(costs),
            "sent_a_step": self.spread.sent(costs),
            "work": {
                part: {"flops": work.flops, "attention_flops": work.attention_flops, "traffic": work.traffic}
                for part, work in costs.work.items()
            },
            "largest_batch": self.fits,
            "card": self.card.name if self.card else None,
            "estimated_seconds_a_step": self.seconds,
            "notes": list(self.notes),
        }


def plan_run(
    config: RunConfig,
    *,
    method: str | None = None,
    memory: Sequence[str] = MEMORIES,
    num_tasks: int | None = None,
    processes: int = 1,
    fsdp: bool = False,
    on: str = "h100",
) -> Plan:
    """The plan of a run, without weights, data or a device; nothing is written.

    - **method**: another than the run's; **num_tasks**: another number than the run names
    - **memory**: sizes such as 24GB that the largest batch is sought for
    - **on**: a card of `hyperpelt.planning.cards`; or `cpu`, whose code paths are then counted, and no time told

    Raises:
        UserError: an unknown card, task, method or backbone; a memory that is no size; what no run does.
    """
    if config.precision == "bf16-mixed":
        raise UserError("plan does not count bf16-mixed: plan precision=fp32, to which it adds bf16 copies of weights.")
    load_each(config.plugins)
    settled = settle(config, method=method, num_tasks=num_tasks)
    config, chosen, number = settled.config, settled.method, settled.num_tasks
    wanted = ("fp32" if on == "cpu" else "bf16") if config.precision == "auto" else config.precision  # raced for there
    config = config.model_copy(update={"precision": precision_of(chosen, wanted)})
    known = None if on == "cpu" else card(on)
    sizes = {size: num_bytes(size, where="--memory") for size in memory}
    spread = Spread(processes, fsdp)
    device = CPU if known is None else ACCELERATOR
    _check_quantization(config, chosen, fsdp)
    options: dict[str, Any] = {"precision": config.precision, "checkpointing": config.gradient_checkpointing}
    options |= {"quantization": config.quantization, "dropout": config.dropout}
    options |= {"visual": settled.visual, "blind": config.blind, "known": settled.known}
    with (
        _counting(chosen.name),
        Measured(config.backbone, chosen, num_tasks=number, device=device, **options) as measured,
    ):
        shape = _full_batch(config, number)
        if not measured.model.num_trainable():
            raise UserError(f"Method {chosen.name!r} trains nothing, so it has no step to plan.")
        costs = costs_of(measured, shape, optimizer=config.optimizer)

        @lru_cache
        def held(rows: int) -> int:
            if rows == shape.rows:
                return spread.held(replace(costs, scoring=0, writing=0))
            given = replace(shape, rows=rows)
            return spread.held(costs_of(measured, given, optimizer=config.optimizer, parts=False))

        start = max(1, min(number, 8))
        points = {"start": start, "other": shape.rows if shape.rows > start else None}
        fits = {size: largest_batch(held, limit, **points) for size, limit in sizes.items()}
    return Plan(
        config=config, method=chosen.name, costs=costs, spread=spread, fits=fits, card=known,
        notes=(*_notes(config, rounded=config.precision != wanted), *settled.notes),
    )  # fmt: skip


def _full_batch(config: RunConfig, num_tasks: int) -> Shape:
    rows, source, target = config.per_device_train_batch_size, config.max_source_length, config.max_target_length
    return Shape(rows=rows, source=source, target=target, num_tasks=num_tasks)


def _check_quantization(config: RunConfig, method: Method, fsdp: bool) -> None:
    """Raises UserError for what a run refuses beside packed weights."""
    if config.quantization and (method.unfreeze or any(part.tuner.replaces for part in method.parts)):
        raise UserError(f"Method {method.name!r} changes the backbone itself, which quantization rules out.")
    if config.quantization and fsdp:
        raise UserError("quantization: packed weights are not sharded; plan it without --fsdp, they are small.")


def precision_of(method: Method, precision: str) -> str:
    """fp32 for what trains the backbone itself, which a run refuses to do in bf16."""
    return "fp32" if precision == "bf16" and method.unfreeze else precision


@contextmanager
def _counting(name: str) -> Iterator[None]:
    try:
        yield
    except (NotImplementedError, RuntimeError) as problem:
        raise UserError(
            f"Method {name!r} cannot be planned over shapes alone ({type(problem).__name__}: "
            f"{str(problem).splitlines()[0]}): measure it with scripts/benchmark step."
        ) from problem


def _notes(config: RunConfig, *, rounded: bool) -> tuple[str, ...]:
    notes = []
    if rounded:
        notes.append("Counted in fp32: it trains the backbone itself, which bf16 would round after every step.")
    if config.loss != "lm":
        notes.append(f"Counted for loss: lm; {config.loss} runs the decoder over a row's choices too.")
    if config.batching == "one_task":
        notes.append("Counted for mixed batches; one_task makes one task's tensors a step, which is less.")
    return tuple(notes)
