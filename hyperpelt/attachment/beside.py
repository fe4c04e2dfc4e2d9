"""A network that runs beside the backbone: what it sees of one pass, and the hooks through which it does.

It reads what the backbone's layers wrote, and takes the place of what its decoder wrote; nothing of it enters the
backbone, through which therefore no gradient flows. What it made in the encoder travels beside the encoder's states,
[B S d + s], so that whoever picks, repeats or reorders these does the same to both. Its decoder's keys and values live
in the cache that generation reorders.

Legend: B rows, S positions, d width of the backbone, s of the side network.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

import torch
from jaxtyping import Float
from torch import Tensor, nn

from hyperpelt.backbones.decoder_cache import CACHE, cache_of

if TYPE_CHECKING:
    from hyperpelt.attachment.switch import Switch
    from hyperpelt.operations import Operation

OWN = "beside"  # the attribute of a cache that holds the side network's


@runtime_checkable
class Stack(Protocol):
    """One stack of a side network. **rungs**: the layers that it reads."""

    rungs: tuple[int, ...]

    def __call__(self, start: Tensor, written: Sequence[Tensor], **options: Any) -> Tensor: ...


@runtime_checkable
class Side(Protocol):
    """What a side network can do; `hyperpelt.weights.side.SideNetwork` is one."""

    def ladder(self, stack: str) -> Stack:
        """Its own `encoder` or `decoder`."""
        ...

    def empty_cache(self) -> Any:
        """For the keys and values of its decoder, which beams reorder with the backbone's."""
        ...

    def answer(self, states: Tensor, written: Tensor) -> Tensor:
        """What the head reads [B T d], of its own decoder's states [B T s] and what the backbone's wrote [B T d]."""
        ...


class Beside:
    """What a side network has seen of a pass so far."""

    def __init__(self, network: Side) -> None:
        self.network = network
        self.started: dict[str, Tensor] = {}
        self.written: dict[str, list[Tensor]] = {}
        self.states: Tensor | None = None

    def begin(self, stack: str, read: Float[Tensor, "B S d"]) -> None:
        """The backbone's first layer is about to read this."""
        self.started[stack] = read.detach()
        self.written[stack] = []  # by a display: compiling knows no list[Tensor]()

    def climb(self, operation: Operation, written: Float[Tensor, "B S d"]) -> None:
        """A layer wrote this."""
        if operation.layer in self.network.ladder(operation.stack).rungs:
            self.written[operation.stack].append(written.detach())

    def _run(self, stack: str, **options: Any) -> Tensor:
        return self.network.ladder(stack)(self.started.pop(stack), self.written.pop(stack), **options)

    def encoded(self, states: Float[Tensor, "B S d"], mask: Tensor | None) -> Float[Tensor, "B S w"]:
        """The encoder's states with the side network's beside them."""
        made = self._run("encoder", attention_mask=mask)
        return torch.cat([states.to(made.dtype), made], dim=-1)

    def parted(self, joined: Float[Tensor, "B S w"], width: int, dtype: torch.dtype) -> Float[Tensor, "B S d"]:
        """The encoder's states alone; the others are kept."""
        self.states = joined[..., width:]
        return joined[..., :width].detach().to(dtype)

    def decoded(self, written: Float[Tensor, "B T d"], given: Mapping[str, Any], cache: Any) -> Float[Tensor, "B T d"]:
        """What takes the place of what the decoder wrote. **given**: how it was called; **cache**: that it used."""
        assert self.states is not None, "the decoder was given what a side network made in the encoder"
        if cache is not None and getattr(cache, OWN, None) is None:
            setattr(cache, OWN, self.network.empty_cache())
        states = self._run(
            "decoder",
            attention_mask=given.get("attention_mask"),
            encoder_hidden_states=self.states,
            encoder_attention_mask=given.get("encoder_attention_mask"),
            use_cache=cache is not None,
            **{CACHE: None if cache is None else getattr(cache, OWN)},
        )
        return self.network.answer(states, written)


def install_beside(switch: Switch, blocks: Sequence[Operation]) -> list[Any]:
    """Hooks on the backbone's layers and stacks, which do nothing in a pass without a side network."""
    handles: list[Any] = []
    for block in blocks:
        module = switch.backbone.get_submodule(block.path)
        if block.layer == 0:
            handles.append(module.register_forward_pre_hook(_begin(switch, block)))
        handles.append(module.register_forward_hook(_climb(switch, block)))
    encoder, decoder = switch.backbone.get_encoder(), switch.backbone.get_decoder()
    handles.append(encoder.register_forward_hook(_encoded(switch), with_kwargs=True))
    handles.append(decoder.register_forward_pre_hook(_parted(switch), with_kwargs=True, prepend=True))
    handles.append(decoder.register_forward_hook(_decoded(switch), with_kwargs=True))
    return handles


def _seen(switch: Switch) -> Beside | None:
    return None if switch.running is None else switch.running.beside


def _begin(switch: Switch, block: Operation) -> Callable[..., None]:
    def hook(_module: nn.Module, args: tuple[Any, ...]) -> None:
        beside = _seen(switch)
        if beside is not None:
            beside.begin(block.stack, args[0])

    return hook


def _climb(switch: Switch, block: Operation) -> Callable[..., None]:
    def hook(_module: nn.Module, _args: tuple[Any, ...], output: Any) -> None:
        beside = _seen(switch)
        if beside is not None:
            beside.climb(block, output[0] if isinstance(output, tuple) else output)

    return hook


def _encoded(switch: Switch) -> Callable[..., None]:
    def hook(_module: nn.Module, _args: tuple[Any, ...], kwargs: Mapping[str, Any], output: Any) -> None:
        beside = _seen(switch)
        if beside is not None:
            output.last_hidden_state = beside.encoded(output.last_hidden_state, kwargs.get("attention_mask"))

    return hook


def _parted(switch: Switch) -> Callable[..., Any]:
    def hook(_module: nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Any:
        beside, states = _seen(switch), kwargs.get("encoder_hidden_states")
        if beside is None or states is None:
            return None
        backbone = switch.backbone
        own = beside.parted(states, backbone.config.d_model, backbone.dtype)
        return args, {**kwargs, "encoder_hidden_states": own}

    return hook


def _decoded(switch: Switch) -> Callable[..., None]:
    def hook(_module: nn.Module, _args: tuple[Any, ...], kwargs: Mapping[str, Any], output: Any) -> None:
        beside = _seen(switch)
        if beside is not None:
            cache = cache_of(output)
            output.last_hidden_state = beside.decoded(output.last_hidden_state, kwargs, cache)

    return hook
