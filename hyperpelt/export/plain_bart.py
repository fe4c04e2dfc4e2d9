"""mini-bart as a BART that transformers builds: the same function, with the epsilon that its layer norms have there.

transformers' BART has layer norms with PyTorch's epsilon of 1e-5, and MiniLM's were trained with 1e-12
(`hyperpelt.backbones.mini_bart`). For a number c,

    LN(c x; eps) = LN(x; eps / c^2)

so a network whose layer norms all see c times their input behaves as one with an epsilon of 1e-5 / c^2. BART is
post-norm: what enters a norm is the last norm's output plus a branch. Multiply what goes into the residual stream
(embeddings, norms, the branches' outputs) by c, divide what reads it (queries, keys, values, fc1) by c, and let the
last norm before the tied head divide, since the head's rows are c times as large. With c = 4096 the epsilon is 6e-13,
and scaling by a power of two rounds nothing.
"""

from __future__ import annotations

import torch
from torch import nn
from transformers import BartConfig, BartForConditionalGeneration, PreTrainedModel

from hyperpelt.backbones.moving import moved

C = 4096.0
READS = ("q_proj", "k_proj", "v_proj", "fc1")
ADDS = ("out_proj", "fc2")


@torch.no_grad()
def plain_bart(backbone: PreTrainedModel) -> BartForConditionalGeneration:
    """A BART of transformers' own class that computes what a `MiniBart` does, to rounding. Shares no tensors."""
    settings = {
        key: value for key, value in backbone.config.to_dict().items() if key not in ("layer_norm_eps", "architectures")
    }
    model = moved(BartForConditionalGeneration(BartConfig(**settings)), backbone.dtype).eval()
    model.load_state_dict(backbone.state_dict())
    model.generation_config = backbone.generation_config
    last = f"decoder.layers.{backbone.config.decoder_layers - 1}.final_layer_norm"
    model.model.shared.weight.mul_(C)
    for name, module in model.model.named_modules():
        kind = name.rpartition(".")[2]
        if kind in READS:
            module.weight.div_(C)
        elif kind in ADDS or isinstance(module, nn.LayerNorm):
            factor = 1 / C if name == last else C
            module.weight.mul_(factor)
            module.bias.mul_(factor)
        elif kind == "embed_positions":
            module.weight.mul_(C)
    return model
