"""mini-t5's encoder learns to give MiniLM's hidden states.

A T5 encoder of MiniLM's shape starts as a copy of MiniLM (`copied_encoder`) and is trained on plain text, each token an
example: its loss is the relative squared error and one minus the cosine between a linear map of its state and MiniLM's,
after the last layer and, with a weight, after each layer below. T5 has no scale in its attention, so queries are
divided by the square root of a head's width; biases and position embeddings have no place and are learnt around.

The maps begin as the identity. They stay behind: a decoder that was trained over MiniLM's states takes the last one
into its cross-attention's keys and values (`starts`).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel, T5Config, T5EncoderModel
from transformers.models.bart.modeling_bart import BartEncoder

from hyperpelt.backbones.mini_bart import mini_bart_config
from hyperpelt.backbones.mini_t5 import EMBEDDINGS, mean_position_embeddings
from hyperpelt.backbones.minilm import LAYER_NORM_EPS, minilm_state
from hyperpelt.backbones.moving import moved
from pretraining.batches import Batch

_EPS = 1e-6
# T5's name inside a block -> BART's inside a layer.
_COPIED = {
    "layer.0.SelfAttention.q": "self_attn.q_proj",
    "layer.0.SelfAttention.k": "self_attn.k_proj",
    "layer.0.SelfAttention.v": "self_attn.v_proj",
    "layer.0.SelfAttention.o": "self_attn.out_proj",
    "layer.1.DenseReluDense.wi": "fc1",
    "layer.1.DenseReluDense.wo": "fc2",
}


def copied_encoder(config: T5Config, minilm: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """An encoder's first weights, under T5's names: MiniLM's matrices, norms of one, no position bias.

    Args:
        minilm: an encoder's tensors under BART's names (`minilm_state`), of `config`'s width and depth.
    """
    state = {EMBEDDINGS: mean_position_embeddings(dict(minilm))}
    for block in range(config.num_layers):
        for name, source in _COPIED.items():
            state[f"encoder.block.{block}.{name}.weight"] = minilm[f"encoder.layers.{block}.{source}.weight"].clone()
        state[f"encoder.block.{block}.layer.0.SelfAttention.q.weight"] *= config.d_kv**-0.5
        for layer in (0, 1):
            state[f"encoder.block.{block}.layer.{layer}.layer_norm.weight"] = torch.ones(config.d_model)
    bias = torch.zeros(config.relative_attention_num_buckets, config.num_heads)
    state["encoder.block.0.layer.0.SelfAttention.relative_attention_bias.weight"] = bias
    state["encoder.final_layer_norm.weight"] = torch.ones(config.d_model)
    return state


class Imitator(nn.Module):
    """A T5 encoder with a linear map of each layer's states to the teacher's."""

    def __init__(self, config: T5Config, encoder: PreTrainedModel) -> None:
        super().__init__()
        self.encoder = encoder
        self.maps = nn.ParameterList(torch.eye(config.d_model) for _ in range(config.num_layers))

    def forward(self, source: Tensor, mask: Tensor | None) -> list[Tensor]:
        """Mapped states [B, S, D] after each layer; the last are the encoder's output."""
        states = self.encoder(input_ids=source, attention_mask=mask, output_hidden_states=True).hidden_states[1:]
        below = [state * torch.rsqrt(state.pow(2).mean(-1, keepdim=True) + _EPS) for state in states[:-1]]
        return [state @ matrix.T for state, matrix in zip([*below, states[-1]], self.maps, strict=True)]


@dataclass
class MiniT5Encoder:
    """What is trained: the encoder and its maps, beside the frozen teacher. `below`: the lower layers' weight."""

    config: T5Config
    model: Imitator
    teacher: BartEncoder
    below: float = 1.0

    @classmethod
    def fresh(cls, config: T5Config, *, below: float = 1.0, teacher: BartEncoder | None = None) -> MiniT5Encoder:
        """A copy of MiniLM, or of `teacher`."""
        teacher = minilm_encoder() if teacher is None else teacher
        copied = copied_encoder(config, bart_names(teacher))
        encoder = T5EncoderModel(config)
        encoder.load_state_dict(copied | {"encoder.embed_tokens.weight": copied[EMBEDDINGS]}, strict=True)
        encoder.eval().get_input_embeddings().requires_grad_(False)
        return cls(config, Imitator(config, encoder), teacher, below)

    def to(self, device: torch.device) -> None:
        moved(self.model, device)
        moved(self.teacher, device)

    def trained(self) -> Iterator[tuple[str, nn.Parameter]]:
        return ((name, parameter) for name, parameter in self.model.named_parameters() if parameter.requires_grad)

    def state(self) -> dict[str, Tensor]:
        return {name: parameter.detach() for name, parameter in self.trained()}

    def load(self, state: dict[str, Tensor]) -> None:
        with torch.no_grad():
            for name, parameter in self.trained():
                parameter.copy_(state[name])

    def compare(self, batch: Batch) -> tuple[list[Tensor], list[Tensor]]:
        """Relative squared errors and cosines [B, S] of each layer's states, in float32."""
        mask = None if batch.full else batch.source_mask
        with torch.no_grad():
            taught = self.teacher(input_ids=batch.source, attention_mask=mask, output_hidden_states=True)
        errors: list[Tensor] = []
        cosines: list[Tensor] = []
        for learnt, target in zip(self.model(batch.source, mask), taught.hidden_states[1:], strict=True):
            learnt, target = learnt.float(), target.float()
            size = target.pow(2).sum(-1)
            errors.append((learnt - target).pow(2).sum(-1) / size)
            cosines.append((learnt * target).sum(-1) * torch.rsqrt(learnt.pow(2).sum(-1) * size + _EPS))
        return errors, cosines

    def token_losses(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """Losses [N] of the batch's source tokens and their weights [N], all one."""
        errors, cosines = self.compare(batch)
        layers = [error + 1.0 - cosine for error, cosine in zip(errors, cosines, strict=True)]
        loss = layers[-1]
        if self.below and len(layers) > 1:
            loss = loss + self.below * torch.stack(layers[:-1]).mean(0)
        losses = loss[batch.source_mask.bool()]
        return losses, torch.ones_like(losses)


def minilm_encoder() -> BartEncoder:
    """MiniLM's encoder, frozen, as mini-bart holds it."""
    state = minilm_state()
    with torch.device("meta"):
        encoder = BartEncoder(mini_bart_config())
    own = {name.removeprefix("encoder."): tensor for name, tensor in state.items() if name.startswith("encoder.")}
    encoder.load_state_dict(own | {"embed_tokens.weight": state[EMBEDDINGS]}, strict=True, assign=True)
    for module in encoder.modules():
        if isinstance(module, nn.LayerNorm):
            module.eps = LAYER_NORM_EPS
    return encoder.eval().requires_grad_(False)


def bart_names(encoder: BartEncoder) -> dict[str, Tensor]:
    """An encoder's tensors as `minilm_state` names them."""
    state = {f"encoder.{name}": tensor for name, tensor in encoder.state_dict().items()}
    return state | {EMBEDDINGS: encoder.embed_tokens.weight.detach()}
