"""One process or many: what training asks of `accelerate launch`, torchrun, or neither.

Every process holds all trained tensors (they are small) and computes its slice of each global batch.

- **DDP** (the default with several processes): Accelerate wraps the model; gradients are averaged during backward.
- **FSDP** (`accelerate launch --use_fsdp`): the layers of the frozen backbone, which is where the memory is, are
  sharded with PyTorch's `fully_shard`; trained tensors stay whole and their gradients are summed once a step.
  Accelerate 1.15 offers its own FSDP on accelerators only (its plugin raises on a machine without one), and would
  shard trained tensors too, which evaluation reads outside of forward; so the sharding is done here, alike everywhere.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor, nn

from hyperpelt.errors import UserError

if TYPE_CHECKING:
    from accelerate import Accelerator
    from transformers import PreTrainedModel

    from hyperpelt.model.tuned import TunedModel

Value = TypeVar("Value")


def _flag(name: str) -> bool:
    return os.environ.get(name, "").strip().lower() in ("1", "true", "yes")


@dataclass
class Processes:
    """The processes of a run. Built by `start_processes`; every method works with a single process too."""

    accelerator: Accelerator
    device: torch.device
    sharded: bool = False
    _control: Any = None  # a CPU group: agreeing on a number must not wait for the accelerator

    @property
    def rank(self) -> int:
        return self.accelerator.process_index

    @property
    def world(self) -> int:
        return self.accelerator.num_processes

    @property
    def is_main(self) -> bool:
        return self.accelerator.is_main_process

    def prepare(self, model: TunedModel, forward: nn.Module | None = None) -> nn.Module:
        """Put the model on its device, wrapped or sharded; call the result in place of the model. forward: what calls
        the model in its place."""
        if self.sharded:
            model.to(self.device)
            return _shard_backbone(model, self.device)
        whole = model if forward is None else forward
        if self.world == 1:
            model.to(self.device)
            return whole
        prepared = self.accelerator.prepare_model(whole)
        if prepared is not whole:
            prepared.broadcast_buffers = False  # they never change
        return prepared

    @property
    def loss_scale(self) -> float:
        """DDP averages gradients over processes where the loss of a global batch needs their sum."""
        return float(self.world) if self.world > 1 and not self.sharded else 1.0

    def backward(self, loss: Tensor) -> None:
        """Gradients of a micro-batch, under DDP those of all processes."""
        if self.world == 1:
            loss.backward()
        else:
            self.accelerator.backward(loss * self.loss_scale)

    def accumulating(self, model: nn.Module, *, last: bool) -> AbstractContextManager[None]:
        """Gradients travel with the last micro-batch of a step only."""
        return nullcontext() if last or self.sharded or self.world == 1 else self.accelerator.no_sync(model)

    def sum_gradients(self, parameters: Iterable[nn.Parameter]) -> None:
        """Under FSDP, sum the gradients of the (unsharded) trained tensors over processes, in one message."""
        if not self.sharded:
            return
        parameters = list(parameters)
        for parameter in parameters:
            if parameter.grad is None:
                parameter.grad = torch.zeros_like(parameter)
        flat = torch.cat([parameter.grad.flatten() for parameter in parameters if parameter.grad is not None])
        dist.all_reduce(flat)
        for parameter, part in zip(parameters, flat.split([p.numel() for p in parameters]), strict=True):
            parameter.grad = part.view_as(parameter)

    def add_up(self, tensors: list[Tensor]) -> None:
        """Each tensor becomes its sum over processes, in one message."""
        if self.world == 1 or not tensors:
            return
        flat = torch.cat([tensor.flatten() for tensor in tensors])
        dist.all_reduce(flat)
        for tensor, part in zip(tensors, flat.split([t.numel() for t in tensors]), strict=True):
            tensor.copy_(part.view_as(tensor))

    def sum(self, values: Tensor) -> Tensor:
        """The elementwise sum over processes of a CPU tensor."""
        if self.world > 1:
            dist.all_reduce(values, group=self._control)
        return values

    def largest(self, number: int) -> int:
        """The largest of a number over processes."""
        if self.world == 1:
            return number
        value = torch.tensor([number])
        dist.all_reduce(value, op=dist.ReduceOp.MAX, group=self._control)
        return int(value)

    def gather(self, value: Any) -> list[Any]:
        """Everyone's value, in the order of ranks; for small things of any type."""
        if self.world == 1:
            return [value]
        found: list[Any] = [None] * self.world
        dist.all_gather_object(found, value, group=self._control)
        return found

    def on_main(self, work: Callable[[], Value]) -> Value:
        """What the main process's `work` returns, to all of them; a UserError that it raises, all of them raise."""
        if self.world == 1:
            return work()
        value, problem = None, None
        if self.is_main:
            try:
                value = work()
            except UserError as error:
                problem = str(error)
        value, problem = self.gather((value, problem))[0]
        if problem is not None:
            raise UserError(problem)
        return value

    def wait(self) -> None:
        """Until every process is here."""
        if self.world > 1:
            dist.barrier(group=self._control)

    def close(self) -> None:
        """Leave the process group (a run under a launcher is one run)."""
        if self.world > 1 and dist.is_initialized():
            dist.barrier(group=self._control)
            dist.destroy_process_group()


def start_processes(*, use_cpu: bool = False) -> Processes:
    """Join the processes that the launcher started, if any.

    Raises UserError for what the launcher was told and this library does not do: fp16, DeepSpeed, Megatron-LM.
    """
    from accelerate import Accelerator
    from accelerate.state import is_initialized
    from accelerate.utils import DistributedDataParallelKwargs, GradientAccumulationPlugin

    _check_launcher()
    use_cpu = use_cpu or not torch.accelerator.is_available()
    launched = int(os.environ.get("WORLD_SIZE", "1")) > 1
    sharded = launched and _flag("ACCELERATE_USE_FSDP")
    # What this process has used Accelerate for before (a Trainer, another run) has settled device and precision for
    # good; a single process needs neither of it.
    settled = not launched and is_initialized()
    with _without("ACCELERATE_USE_FSDP"):  # the sharding is ours, see above
        accelerator = Accelerator(
            mixed_precision=None if settled else "no",  # the loop's own, see `hyperpelt.training.precision`
            cpu=use_cpu and not settled,
            # Accumulation is the training loop's own: its loss is normalised over the global batch.
            gradient_accumulation_plugin=GradientAccumulationPlugin(num_steps=1, sync_with_dataloader=False),
            kwargs_handlers=[DistributedDataParallelKwargs(gradient_as_bucket_view=True)],
        )
    control = dist.new_group(backend="gloo") if launched else None
    device = accelerator.device
    if settled and (device.type == "cpu") != use_cpu:
        device = torch.device("cpu") if use_cpu else torch.accelerator.current_accelerator() or device
    return Processes(accelerator, device, sharded=sharded, _control=control)


@contextmanager
def _without(*names: str) -> Iterator[None]:
    """The environment without some variables."""
    taken = {name: os.environ.pop(name) for name in names if name in os.environ}
    try:
        yield
    finally:
        os.environ.update(taken)


def _check_launcher() -> None:
    for name, label in (("ACCELERATE_USE_DEEPSPEED", "DeepSpeed"), ("ACCELERATE_USE_MEGATRON_LM", "Megatron-LM")):
        if _flag(name):
            raise UserError(
                f"{label} is not supported: only a small share of the tensors is trained, so there is little to "
                "partition. Launch with several processes (DDP), or with --use_fsdp to shard the frozen backbone."
            )
    asked = os.environ.get("ACCELERATE_MIXED_PRECISION", "").lower()
    if asked not in ("", "no", "bf16"):
        why = "overflows T5's activations" if asked == "fp16" else "is not supported"
        raise UserError(
            f"accelerate launch was told --mixed_precision {asked}, which {why}: launch with --mixed_precision bf16, "
            "or with no and precision=bf16 in the run."
        )


def _shard_backbone(model: TunedModel, device: torch.device) -> nn.Module:
    """Shard every layer of the frozen backbone over all processes; embeddings and trained tensors stay whole."""
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import CPUOffloadPolicy, OffloadPolicy, fully_shard

    mesh = init_device_mesh(device.type, (dist.get_world_size(),))
    trained = {parameter for parameter in model.parameters() if parameter.requires_grad}
    offload = CPUOffloadPolicy() if _flag("FSDP_OFFLOAD_PARAMS") else OffloadPolicy()
    for layer in layers_of(model.backbone):
        fully_shard(layer, mesh=mesh, ignored_params=trained, offload_policy=offload)
    return model


def layers_of(backbone: PreTrainedModel) -> list[nn.Module]:
    """What is sharded of a backbone."""
    names = set(backbone._no_split_modules or ())
    return [module for module in backbone.modules() if type(module).__name__ in names]
