"""A ladder side network: a narrow copy of the backbone's own architecture that reads what the backbone's layers wrote.

Ladder side-tuning (Sung, Cho & Bansal 2022, arXiv 2206.06522). With s = d / reduction, for the layers that have a rung,

    h_i = Block_i(mu_i h_{i-1} + (1 - mu_i) Down_i(H_i)),     mu_i = sigmoid(alpha_i / 0.1), alpha_i = 0 at start
    h_0 = Down(what the backbone's first layer reads);        what is answered from: Up(norm(h))

in both stacks, H_i [B S d] being what layer i of the frozen backbone wrote. With a last gate g it is
g Up(norm(h)) + (1 - g) H, so that a closed one is the backbone bit for bit. The blocks, their masks, position biases
and caches are those of transformers, made from a narrower configuration; what embeds tokens and places is left out.

Legend: B rows, S positions, d width of the backbone, s of the side network.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from transformers import DynamicCache, EncoderDecoderCache, PreTrainedModel

from hyperpelt.backbones.families import Family, family_of
from hyperpelt.config.setting_types import check_at_least, check_settings
from hyperpelt.errors import UserError
from hyperpelt.weights.base import TensorSource

STACKS = ("encoder", "decoder")
SIDE = "side"  # its name among a model's sources


@dataclass(frozen=True, kw_only=True)
class SideConfig:
    """- **reduction**: how many times narrower than the backbone
    - **skip**: every so many layers, from the first on, one has no rung; 0: all have. A stack of one layer keeps it
    - **temperature**: of the gates; **last_gate**: alpha of a gate between both outputs at the start, None: the side's
    """

    reduction: int = 8
    skip: int = 4
    temperature: float = 0.1
    last_gate: float | None = None

    def __post_init__(self) -> None:
        check_at_least(1, "a side network", reduction=self.reduction)
        check_at_least(0, "a side network", skip=self.skip)
        if self.skip == 1:
            raise UserError("A side network that skips every layer (skip=1) has none: give 0 or at least 2.")

    def rungs(self, num_layers: int) -> list[int]:
        """The layers, counted from 0, that the side network reads and has a layer of its own for."""
        if not self.skip or num_layers == 1:
            return list(range(num_layers))
        return [layer for layer in range(num_layers) if layer % self.skip]

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> SideConfig:
        return cls(**check_settings("a side network", data, cls))


class Nowhere(nn.Module):
    """In the place of embedded positions, which what comes from the backbone has already."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("nothing", torch.zeros(1), persistent=False)

    def forward(self, *_args: Any, **_kwargs: Any) -> Float[Tensor, " 1"]:
        return self.nothing


class Rung(nn.Module):
    """A layer of the side network; it reads a mixture of what the one before it and a layer of the backbone wrote."""

    def __init__(self, layer: nn.Module, width: int, narrow: int, temperature: float) -> None:
        super().__init__()
        self.layer, self.down, self.temperature = layer, nn.Linear(width, narrow), temperature
        self.gate = nn.Parameter(torch.zeros(1))
        self.written: Tensor | None = None  # by the backbone's layer; for the time of a pass

    def forward(self, states: Float[Tensor, "B S s"], *args: Any, **kwargs: Any) -> Any:
        assert self.written is not None, "a ladder hands each rung what it reads"
        mu = torch.sigmoid(self.gate / self.temperature)
        mixed = mu * states + (1 - mu) * self.down(self.written.to(mu.dtype))
        return self.layer(mixed, *args, **kwargs)


class Ladder(nn.Module):
    """One stack of the side network. **stack**: of transformers; **rungs**: the layers that it reads."""

    def __init__(self, stack: Any, layers: str, rungs: Sequence[int], width: int, temperature: float) -> None:
        super().__init__()
        narrow = stack.config.d_model
        self.rungs, self.first = tuple(rungs), nn.Linear(width, narrow)
        each = [Rung(layer, width, narrow, temperature) for layer in stack.get_submodule(layers)]
        setattr(stack, layers, nn.ModuleList(each))
        self.stack, self.layers = stack, layers

    @property
    def steps(self) -> list[Rung]:
        return [rung for rung in self.stack.get_submodule(self.layers) if isinstance(rung, Rung)]

    def forward(
        self, start: Float[Tensor, "B S d"], written: Sequence[Float[Tensor, "B S d"]], **options: Any
    ) -> Float[Tensor, "B S s"]:
        """**start**: what the backbone's first layer read; **written**: by its layers with a rung; **options**: of the
        stack."""
        for rung, states in zip(self.steps, written, strict=True):
            rung.written = states
        embedded = self.first(start.to(self.first.weight.dtype))
        made = self.stack(inputs_embeds=embedded, **options).last_hidden_state
        for rung in self.steps:
            rung.written = None
        return made


class SideNetwork(TensorSource):
    """The side network of a model, one for all its tasks."""

    type_name = SIDE

    def __init__(self, backbone: PreTrainedModel, config: SideConfig, *, seed: int = 0) -> None:
        super().__init__([])
        self.family = family = family_of(backbone.config.model_type)
        self.config, self.width = config, int(backbone.config.d_model)
        depths = {name: int(getattr(backbone.config, key)) for name, key in family.depths.items()}
        rungs = {name: config.rungs(depth) for name, depth in depths.items()}
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            small: Any = type(backbone)(_narrow(backbone.config, family, config, rungs)).float()
            stacks = {"encoder": small.get_encoder(), "decoder": small.get_decoder()}
            self.ladders = nn.ModuleDict()
            for name, stack in stacks.items():
                _strip(stack, family)
                self.ladders[name] = Ladder(stack, family.layers, rungs[name], self.width, config.temperature)
            self.up = nn.Linear(stacks["decoder"].config.d_model, self.width)
        self.last_gate = None if config.last_gate is None else nn.Parameter(torch.tensor([config.last_gate]))
        self.requires_grad_(True)

    def task_parameters(self) -> Iterator[tuple[nn.Module, str]]:
        """None is a single task's."""
        return iter(())

    def add_task(self, mix: Float[Tensor, " T"]) -> None:
        """Nothing to make room for: every task uses the same network."""

    def ladder(self, stack: str) -> Ladder:
        found = self.ladders[stack]
        assert isinstance(found, Ladder)
        return found

    def stacks(self) -> list[PreTrainedModel]:
        """The encoder and the decoder."""
        return [self.ladder(name).stack for name in STACKS]

    def attend_as(self, implementation: str | None) -> None:
        """Use the attention (and masks) that transformers knows by this name."""
        if implementation is not None:
            for stack in self.stacks():
                stack.set_attn_implementation(implementation)

    def empty_cache(self) -> EncoderDecoderCache:
        """For the keys and values of its own decoder."""
        config = self.ladder("decoder").stack.config
        return EncoderDecoderCache(DynamicCache(config=config), DynamicCache(config=config))

    def answer(self, states: Float[Tensor, "B T s"], written: Float[Tensor, "B T d"]) -> Float[Tensor, "B T d"]:
        """What the head reads. **written**: by the backbone's decoder."""
        made = self.up(states)
        if self.last_gate is not None:
            gate = torch.sigmoid(self.last_gate / self.config.temperature)
            made = gate * made + (1 - gate) * written.to(made.dtype)
        return made.to(written.dtype)


def _narrow(config: Any, family: Family, side: SideConfig, rungs: Mapping[str, Sequence[int]]) -> Any:
    """The backbone's configuration, narrower and with as many layers as there are rungs."""
    small = copy.deepcopy(config)
    for key in family.widths:
        width = getattr(config, key)
        if width % side.reduction:
            raise UserError(
                f"A side network {side.reduction} times narrower needs a {key} that it divides, got {width}."
            )
        setattr(small, key, width // side.reduction)
    for stack, key in family.depths.items():
        setattr(small, key, len(rungs[stack]))
    heads = getattr(small, "encoder_attention_heads", 0)
    if heads and small.d_model % heads:
        raise UserError(
            f"A side network of width {small.d_model} cannot be split into the backbone's {heads} heads: choose a "
            "smaller `reduction`."
        )
    small.vocab_size = 1 + (config.pad_token_id or 0)  # its embeddings are thrown away
    return small


def _strip(stack: Any, family: Family) -> None:
    """Take out what embeds tokens and places: what the side network reads comes from the backbone."""
    stack.embed_tokens = nn.Identity()
    if hasattr(stack, "embed_positions"):
        stack.embed_positions = Nowhere()
    if family.embedding_norm is not None and hasattr(stack, family.embedding_norm):
        setattr(stack, family.embedding_norm, nn.Identity())
