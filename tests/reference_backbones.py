"""T5 and BART once more, in float64 with plain matrix products: what tuned models are compared with.

Written from the papers (T5: arXiv 1910.10683, BART: 1910.13461) and sharing no code with the library or with
transformers: weights come from a state dict, everything else is here. A tuner is transcribed by a subclass that
overrides one equation of `Reference`; the names it is called with are those of the operations, e.g.
`decoder.1.cross_attention`. See `comparison.py` for how the two are put side by side.

Legend: B rows, S positions, Q queries, K keys, D width, H heads, k width of a head.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Mapping

import torch
from torch import Tensor
from transformers import PreTrainedModel

SITES = ("self_attention", "cross_attention", "feed_forward")
TensorsByOperation = Mapping[str, Mapping[str, Tensor]]


def softmax(scores: Tensor) -> Tensor:
    weights = (scores - scores.amax(-1, keepdim=True)).exp()
    return weights / weights.sum(-1, keepdim=True)


def gelu(z: Tensor) -> Tensor:
    return z * 0.5 * (1 + torch.erf(z / math.sqrt(2)))


def gelu_tanh(z: Tensor) -> Tensor:
    return z * 0.5 * (1 + torch.tanh(math.sqrt(2 / math.pi) * (z + 0.044715 * z**3)))


def linear(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """x W^T + b with W as checkpoints keep it, [out, in]."""
    return torch.einsum("...i,oi->...o", x, weight) + (0 if bias is None else bias)


class Reference:
    """One of the four backbones; `tensors` are those of a tuner that a subclass transcribes."""

    def __init__(
        self, backbone: PreTrainedModel, tensors: TensorsByOperation | None = None, **settings: object
    ) -> None:
        self.config = backbone.config
        self.is_t5 = self.config.model_type == "t5"
        self.pre_norm = self.config.model_type != "bart"
        self.weights = {name: value.detach().double() for name, value in copy.deepcopy(backbone.state_dict()).items()}
        self.tensors = tensors or {}
        self.mask: Tensor | None = None
        vars(self).update(settings)

    # The equations that tuners change

    def block_input(self, name: str, h: Tensor, ids: Tensor) -> Tensor:
        """What block `name` reads; `ids` are the tokens of its stack."""
        return h

    def block(self, name: str, read: Tensor, written: Tensor) -> Tensor:
        return written

    def sublayer(self, name: str, x: Tensor, h: Tensor, out: Tensor) -> Tensor:
        """What joins the residual h, where OP read x and wrote `out`."""
        return out

    def attend(self, name: str, x: Tensor, q: Tensor, k: Tensor, v: Tensor, bias: Tensor) -> Tensor:
        """Attention of each head [B H Q k]; `bias` holds position bias and -inf where a key is invisible."""
        return torch.einsum("bhqn,bhnd->bhqd", softmax(torch.einsum("bhqd,bhnd->bhqn", q, k) + bias), v)

    # The backbone

    def linear(self, path: str, x: Tensor) -> Tensor:
        return linear(x, self.weights[f"{path}.weight"], self.weights.get(f"{path}.bias"))

    def norm(self, path: str, x: Tensor) -> Tensor:
        scale = self.weights[f"{path}.weight"]
        if self.is_t5:
            # T5 takes the variance in float32 whatever the model's dtype; only so can float64 agree to 1e-10.
            variance = x.float().pow(2).mean(-1, keepdim=True)
            return scale * x * torch.rsqrt(variance + self.config.layer_norm_epsilon)
        centred = x - x.mean(-1, keepdim=True)
        return scale * centred / (centred.pow(2).mean(-1, keepdim=True) + 1e-5).sqrt() + self.weights[f"{path}.bias"]

    def attention(self, name: str, paths: Mapping[str, str], x: Tensor, states: Tensor, bias: Tensor) -> Tensor:
        heads = self.num_heads(name)

        def split(t: Tensor) -> Tensor:
            return t.reshape(*t.shape[:2], heads, -1).transpose(1, 2)

        q, k, v = (split(self.linear(paths[p], t)) for p, t in (("q", x), ("k", states), ("v", states)))
        q = q if self.is_t5 else q / math.sqrt(q.shape[-1])
        joined = self.attend(name, x, q, k, v, bias).transpose(1, 2).reshape(*x.shape[:2], -1)
        return self.linear(paths["o"], joined)

    def feed_forward(self, base: str, x: Tensor) -> Tensor:
        if not self.is_t5:
            return self.linear(f"{base}fc2", gelu(self.linear(f"{base}fc1", x)))
        if f"{base}wi.weight" in self.weights:
            return self.linear(f"{base}wo", torch.clamp(self.linear(f"{base}wi", x), min=0))
        hidden = gelu_tanh(self.linear(f"{base}wi_0", x)) * self.linear(f"{base}wi_1", x)
        return self.linear(f"{base}wo", hidden)

    def num_heads(self, name: str) -> int:
        config = self.config
        if self.is_t5:
            return config.num_heads
        return config.encoder_attention_heads if name.startswith("encoder") else config.decoder_attention_heads

    def projections(self) -> dict[str, str]:
        """Operation name -> path of its weight, for every projection."""
        found = {}
        for stack in ("encoder", "decoder"):
            for layer in range(self.num_layers(stack)):
                for site, _, attention, base in self.paths(stack, layer):
                    inner = {n: n for n in ("wi", "wi_0", "wi_1", "wo")} if self.is_t5 else {"wi": "fc1", "wo": "fc2"}
                    chosen = {n: f"{base}{p}" for n, p in inner.items()} if site == "feed_forward" else attention
                    there = {n: p for n, p in chosen.items() if f"{p}.weight" in self.weights}
                    found |= {f"{stack}.{layer}.{site}.{n}": p for n, p in there.items()}
        return found

    def num_layers(self, stack: str) -> int:
        if not self.is_t5:
            return getattr(self.config, f"{stack}_layers")
        return self.config.num_layers if stack == "encoder" else self.config.num_decoder_layers

    def position_bias(self, stack: str, queries: int) -> Tensor:
        """T5's bias [H Q Q] of bucketed distances; zero for BART."""
        if not self.is_t5:
            return torch.zeros(1, queries, queries, dtype=torch.float64)
        table = self.weights[f"{stack}.block.0.layer.0.SelfAttention.relative_attention_bias.weight"]
        buckets, furthest = self.config.relative_attention_num_buckets, self.config.relative_attention_max_distance
        index = torch.empty(queries, queries, dtype=torch.long)
        for i in range(queries):
            for j in range(queries):
                distance, total, offset = j - i, buckets, 0
                if stack == "encoder":
                    total //= 2
                    offset, distance = (total if distance > 0 else 0), abs(distance)
                else:
                    distance = max(-distance, 0)
                near = total // 2
                if distance >= near:
                    far = near + int(math.log(distance / near) / math.log(furthest / near) * (total - near))
                    distance = min(far, total - 1)
                index[i, j] = offset + distance
        return table[index].permute(2, 0, 1)

    def paths(self, stack: str, layer: int) -> list[tuple[str, str, dict[str, str], str]]:
        """(site, path of its norm, paths of its projections, base of its feed-forward) in the order they run."""
        found = []
        for place, site in enumerate(SITES[:: 1 if stack == "decoder" else 2]):
            if self.is_t5:
                base = f"{stack}.block.{layer}.layer.{place}"
                names = {"self_attention": "SelfAttention", "cross_attention": "EncDecAttention"}
                module, norm = f"{base}.{names.get(site, 'DenseReluDense')}.", f"{base}.layer_norm"
                found.append((site, norm, {p: f"{module}{p}" for p in "qkvo"}, module))
                continue
            base = f"model.{stack}.layers.{layer}."
            module = {"self_attention": "self_attn", "cross_attention": "encoder_attn"}.get(site, "")
            norm = f"{base}{module}_layer_norm" if module else f"{base}final_layer_norm"
            projections = {p: f"{base}{module}.{p}_proj" for p in "qkv"} | {"o": f"{base}{module}.out_proj"}
            found.append((site, norm, projections, base))
        return found

    def stack(self, stack: str, h: Tensor, ids: Tensor, biases: Mapping[str, Tensor], states: Tensor | None) -> Tensor:
        for layer in range(self.num_layers(stack)):
            h = self.block_input(f"{stack}.{layer}.block", h, ids)
            read = h
            for site, norm, projections, base in self.paths(stack, layer):
                name = f"{stack}.{layer}.{site}"
                x = self.norm(norm, h) if self.pre_norm else h
                if site == "feed_forward":
                    out = self.feed_forward(base, x)
                else:
                    read_by_keys = states if site == "cross_attention" else x
                    out = self.attention(name, projections, x, read_by_keys, biases[site])
                h = h + self.sublayer(name, x, h, out)
                h = h if self.pre_norm else self.norm(norm, h)
            h = self.block(f"{stack}.{layer}.block", read, h)
        final = f"{stack}.final_layer_norm" if self.is_t5 else f"model.{stack}.layer_norm"
        return self.norm(final, h) if f"{final}.weight" in self.weights else h

    def typed(self, ids: Tensor) -> Tensor:
        """Tokens to vectors, before positions."""
        if self.is_t5:
            return self.weights["shared.weight"][ids]
        scale = math.sqrt(self.config.d_model) if self.config.scale_embedding else 1.0
        return self.weights["model.shared.weight"][ids] * scale

    def embedded(self, stack: str, vectors: Tensor) -> Tensor:
        """Vectors of tokens to what the first block reads."""
        if self.is_t5:
            return vectors
        base = f"model.{stack}"
        positions = self.weights[f"{base}.embed_positions.weight"][2 : 2 + vectors.shape[1]]
        return self.norm(f"{base}.layernorm_embedding", vectors + positions)

    def encoded(self, vectors: Tensor, ids: Tensor, mask: Tensor) -> Tensor:
        self.mask = mask.bool()
        unseen = torch.where(self.mask, 0.0, -torch.inf).double()[:, None, None, :]
        biases = {"self_attention": self.position_bias("encoder", mask.shape[1]) + unseen}
        return self.stack("encoder", self.embedded("encoder", vectors), ids, biases, None)

    def logits(self, ids: Tensor, mask: Tensor, decoder_ids: Tensor) -> Tensor:
        """[B T V] of a whole pass."""
        return self.decoded(self.encoded(self.typed(ids), ids, mask), decoder_ids)

    def decoded(self, states: Tensor, decoder_ids: Tensor) -> Tensor:
        assert self.mask is not None
        length = decoder_ids.shape[1]
        future = torch.full((length, length), -torch.inf, dtype=torch.float64).triu(1)
        unseen = torch.where(self.mask, 0.0, -torch.inf).double()[:, None, None, :]
        biases = {"self_attention": self.position_bias("decoder", length) + future, "cross_attention": unseen}
        h = self.stack("decoder", self.embedded("decoder", self.typed(decoder_ids)), decoder_ids, biases, states)
        if self.is_t5:
            h = h * self.config.d_model**-0.5 if self.config.scale_decoder_outputs else h
            return linear(h, self.weights["lm_head.weight"])
        return linear(h, self.weights["model.shared.weight"]) + self.weights["final_logits_bias"]
