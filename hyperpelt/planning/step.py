"""One step of a method on a backbone, measured over shapes.

Legend: B rows, S source length, T target length, U distinct tasks of a batch.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from math import prod
from typing import Any

import torch
from torch import Tensor, nn
from transformers.modeling_outputs import BaseModelOutput

from hyperpelt.backbones.decoder_cache import CACHE, cache_of
from hyperpelt.backbones.quantised import bytes_packed, to_pack
from hyperpelt.data.host import OnHost, Targets
from hyperpelt.methods import Method
from hyperpelt.model.tuned import TunedModel
from hyperpelt.planning.kept import bytes_of, watched
from hyperpelt.planning.live import Live
from hyperpelt.planning.shapes import shape_of
from hyperpelt.planning.stand_in import ACCELERATOR, CPU, attention_of, empty, stood_in
from hyperpelt.planning.work import Work, counted
from hyperpelt.training.distributed import layers_of
from hyperpelt.training.setup import drop
from hyperpelt.vision.spec import VisualSpec


@dataclass(frozen=True, kw_only=True)
class Shape:
    """What a step is over: B rows of S and T tokens, full to the last, of which as many tasks as can be are mixed."""

    rows: int
    source: int
    target: int
    num_tasks: int


@dataclass(frozen=True, kw_only=True)
class StepCosts:
    """Bytes, unless said otherwise.

    - **frozen**, **trained**: what no step changes, and what the method trains; **values**: how many those are
    - **sharded**: what FSDP parts of the frozen, which are the backbone's layers; **largest_layer**: of one of them
    - **optimizer**, **gradients**: of what is trained
    - **kept**: what forward keeps for backward, logits of real targets included; **logits**: those alone
    - **step**, **scoring**, **writing**: the most that is alive at once beside all of the above but what is kept
    - **work**: of the whole step and its parts
    """

    shape: Shape
    frozen: int
    trained: int
    values: int
    optimizer: int
    gradients: int
    kept: int
    logits: int
    step: int
    scoring: int
    writing: int
    sharded: int
    largest_layer: int
    work: dict[str, Work] = field(default_factory=dict)

    @property
    def standing(self) -> int:
        """What is there between steps."""
        return self.frozen + self.trained + self.optimizer

    @property
    def peak(self) -> int:
        """The most that a training run holds at once."""
        return self.standing + max(self.step, self.scoring, self.writing)


class Measured:
    """A model of shapes, and its inputs.

    - **known**: tasks beside those that are trained, which are then added to it: their embeddings alone are trained
    - **dropout**: of the frozen backbone, None: its own; **visual**: the features that are read, None: the method's
      own; **blind**: no images are
    """

    def __init__(
        self, backbone: str, method: Method, *, num_tasks: int, precision: str, device: torch.device,
        checkpointing: bool = False, quantization: str | None = None, dropout: float | None = None,
        visual: VisualSpec | None = None, blind: bool = False, known: int = 0,
    ) -> None:  # fmt: skip
        names = [f"task-{number}" for number in range(known + num_tasks)]
        with torch.device("meta"):
            shape = shape_of(backbone, precision)
            self.model = TunedModel(shape, method, names, calibrate=False, visual=visual).train()
            for network in self.model.described():
                network.words.tell(torch.empty_like(network.words.vectors))
        if known:
            self.model.train_only("embedding", names[known:])
        if dropout is not None:
            drop(self.model, dropout)
        self.device, self.num_tasks, self.known, self.blind = device, num_tasks, known, blind
        # Packed weights take less, but a matrix at a time is there unpacked.
        self.spared = self.unpacked = 0
        if quantization is not None:
            packed = [linear for _, linear in to_pack(self.model.backbone)]
            sizes = [(bytes_of([linear.weight]), bytes_packed(linear, quantization)) for linear in packed]
            self.spared = sum(whole - small for whole, small in sizes)
            self.unpacked = max(whole for whole, _ in sizes)
        self.mode = stood_in(self.model, device)
        if checkpointing:
            self.model.gradient_checkpointing_enable()

    def __enter__(self) -> Measured:
        return self

    def __exit__(self, *_: object) -> None:
        self.model.detach()

    def ids(self, rows: int, length: int) -> Tensor:
        return empty(self.mode, torch.empty(rows, length, dtype=torch.long, device="meta"), self.device)

    def inputs(self, shape: Shape) -> dict[str, Any]:
        """A batch of full rows whose tasks go round."""
        tasks = self.known + torch.arange(shape.rows) % self.num_tasks
        given: dict[str, Any] = {
            "input_ids": self.ids(shape.rows, shape.source),
            "attention_mask": self.ids(shape.rows, shape.source),
            "labels": self.ids(shape.rows, shape.target),
            "task_ids": OnHost(tasks),
            "targets": Targets(None),
            "keep_logits": False,
        }
        if self.model.visual is not None and not self.blind:  # an image a row
            spec = self.model.visual
            like = torch.empty(shape.rows, spec.cells, spec.dim, device="meta")
            given |= {"visual": empty(self.mode, like, self.device), "visual_rows": OnHost(torch.arange(shape.rows))}
        return given

    def own(self) -> list[Tensor]:
        return [*self.model.parameters(), *self.model.buffers()]

    def train(self, shape: Shape) -> tuple[int, int, Work]:
        """Of a training step: bytes kept for backward, the most alive at once, and its work."""
        given = self.inputs(shape)
        with attention_of(self.device) as played, self._live(given) as live, counted(played) as told:
            with watched(self.own()) as saved:
                loss = self.model(**given).loss
                kept = saved()
            loss.backward()
            del loss
            self._forget()
        return kept, live.peak, told()

    def _forget(self) -> None:
        for parameter in self.model.parameters():
            parameter.grad = None

    def _live(self, given: dict[str, Any]) -> Live:
        return Live([*self.own(), *(value for value in given.values() if isinstance(value, Tensor))])

    def alive(self, run: Callable[[], object], given: dict[str, Any]) -> int:
        """The most bytes alive at once during `run`."""
        with attention_of(self.device), self._live(given) as live:
            run()
        return live.peak

    def score(self, shape: Shape, choices: int = 2) -> int:
        """The most bytes alive while `choices` candidates of each row are scored."""
        given = self.inputs(shape)
        number = shape.rows * choices
        labels = torch.arange(number * shape.target).reshape(number, shape.target)  # none begins as another does
        owners = torch.arange(number) // choices
        seen = {"visual": given["visual"], "visual_rows": given["visual_rows"].values} if "visual" in given else {}
        ids, tasks = (given["input_ids"], given["attention_mask"]), given["task_ids"].values

        def run() -> None:
            with self.model.evaluating():
                self.model.token_log_probs(*ids, tasks, labels, owners, **seen)

        return self.alive(run, given)

    def write(self, shape: Shape) -> int:
        """The most bytes alive while the last of T tokens is written, greedily, from a cache."""
        given, model = self.inputs(shape), self.model
        mask, tasks = given["attention_mask"], given["task_ids"].values
        images = model._images(given.get("visual"), given.get("visual_rows"), shape.rows)

        @torch.no_grad()
        def run() -> None:
            with model.evaluating(), model.running(tasks, given["input_ids"], mask, images) as running:
                inputs, joined = model.embedded(running, given["input_ids"], mask)
                before = self.ids(shape.rows, max(1, shape.target - 1))
                options = {"attention_mask": joined, "use_cache": True}
                first = model.backbone(**inputs, decoder_input_ids=before, **options)
                states = BaseModelOutput(last_hidden_state=first.encoder_last_hidden_state)
                cache, last = cache_of(first), self.ids(shape.rows, 1)
                del first
                model.backbone(encoder_outputs=states, decoder_input_ids=last, **{CACHE: cache}, **options)

        return self.alive(run, given)

    def parts(self, shape: Shape, whole: Work) -> dict[str, Work]:
        """A step's work by part: the backbone alone, the weight sources, and the rest, which is the tuners'."""
        given = self.inputs(shape)
        backbone = self._work_of(partial(self._bare, given))
        tasks = torch.arange(min(self.num_tasks, shape.rows)) + self.known
        tasks = empty(self.mode, tasks.to("meta"), self.device)
        sources = self._work_of(partial(self._made, tasks))
        return {"step": whole, "backbone": backbone, "sources": sources, "tuners": whole - backbone - sources}

    def _work_of(self, run: Callable[[], object]) -> Work:
        with attention_of(self.device) as played, counted(played) as told:
            run()
        return told()

    def _bare(self, given: dict[str, Any]) -> None:
        """The frozen backbone alone: forward, and the gradient of its inputs."""
        backbone = self.model.backbone
        with torch.no_grad():
            embedded = backbone.get_input_embeddings()(given["input_ids"])
            words = backbone.get_input_embeddings()(given["labels"])
        inputs = {"inputs_embeds": embedded.requires_grad_(), "decoder_inputs_embeds": words.requires_grad_()}
        mask = given["attention_mask"]
        backbone(**inputs, attention_mask=mask, use_cache=False).logits.float().sum().backward()

    def _made(self, tasks: Tensor) -> None:
        made = [values.sum() for values in self.model.weights_of(tasks).values() if values.requires_grad]
        if made:
            torch.stack(made).sum().backward()
        self._forget()


def optimizer_bytes(shapes: list[torch.Size], optimizer: str) -> int:
    """What an optimiser remembers: AdamW two values each and a counter a tensor, Adafactor sums of rows and columns."""
    if optimizer == "adafactor":
        sums = [prod(s[:-1]) + prod(s[:-2]) * s[-1] if len(s) > 1 else prod(s) for s in shapes]
        return sum(4 * number + 4 for number in sums)
    return sum(8 * prod(shape) + 4 for shape in shapes)


def costs_of(measured: Measured, shape: Shape, *, optimizer: str = "adamw", parts: bool = True) -> StepCosts:
    """What a step of `shape` costs. **parts**: also what it takes by part, and what scoring and writing hold."""
    model = measured.model
    trained = [parameter for _, parameter in model.trainable_parameters()]
    ours = {id(parameter) for parameter in trained}
    kept, most, whole = measured.train(shape)
    head = model.backbone.get_output_embeddings()
    assert isinstance(head, nn.Linear), "every family promised has one"
    layers = [bytes_of(p for p in layer.parameters() if id(p) not in ours) for layer in layers_of(model.backbone)]
    return StepCosts(
        shape=shape,
        frozen=bytes_of(tensor for tensor in measured.own() if id(tensor) not in ours) - measured.spared,
        trained=bytes_of(trained),
        values=model.num_trainable(),
        optimizer=optimizer_bytes([parameter.shape for parameter in trained], optimizer),
        gradients=bytes_of(trained),
        kept=kept,
        logits=4 * shape.rows * shape.target * head.out_features,
        step=most + measured.unpacked,
        scoring=measured.score(shape) + measured.unpacked if parts else 0,
        writing=measured.write(shape) + measured.unpacked if parts else 0,
        sharded=sum(layers),
        largest_layer=max(layers, default=0),
        work=measured.parts(shape, whole) if parts else {"step": whole},
    )


def measure(
    backbone: str,
    method: Method,
    shape: Shape,
    *,
    precision: str = "fp32",
    on_cpu: bool = False,
    checkpointing: bool = False,
    optimizer: str = "adamw",
) -> StepCosts:
    """`costs_of` a method on a backbone. **on_cpu**: by the code paths of a CPU, else of an accelerator."""
    device = CPU if on_cpu else ACCELERATOR
    options = {"num_tasks": shape.num_tasks, "precision": precision, "checkpointing": checkpointing}
    with Measured(backbone, method, device=device, **options) as measured:
        return costs_of(measured, shape, optimizer=optimizer)
