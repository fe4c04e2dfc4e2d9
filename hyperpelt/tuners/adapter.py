"""Bottleneck adapters: A(z) = s * (phi(z D + b_D) U + b_U), sequential or parallel, with or without a norm.

Sources: Houlsby et al. 2019 (arXiv 1902.00751): sequential, reads OP(x), at attention output and feed-forward.
Pfeiffer et al. 2020 (2005.00247): feed-forward only, reads OP(x) + h. He et al. 2021 (2110.04366): parallel, scaled.
HyperFormer (2106.04489): sequential with a conditional layer norm, y = OP + LN_{gamma,beta}(A(OP)).

Which of these it is, is a matter of what z is:

- `reads="input"`: what OP reads, the parallel form (the normed input on pre-norm models such as T5)
- `reads="output"`: what OP writes, the sequential form of Houlsby
- `reads="output+residual"`: OP(x) + h, the sequential form of Pfeiffer
- `reads="residual"`: the un-normed hidden state h in parallel, as some libraries do on T5

Start: U = 0 and b_U = 0, so a fresh adapter adds exactly nothing (with the conditional norm: gamma = beta = 0).
Reference: float64 transcription and `adapters` counts; T5-base, b=24, Houlsby: 1,807,488 parameters.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, ClassVar

import torch
from jaxtyping import Float
from torch import Tensor

from hyperpelt.errors import UserError, unknown
from hyperpelt.operations import Operation
from hyperpelt.tuners.base import ZEROS, Init, Site, Tensors, TensorSpec, Tuner, row_linear, tuner_type
from hyperpelt.tuners.remade import autocast, keep, kept, noted

READS = ("input", "output", "residual", "output+residual")
ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "relu": torch.relu,
    "gelu": torch.nn.functional.gelu,
    "gelu_new": lambda z: torch.nn.functional.gelu(z, approximate="tanh"),
    "silu": torch.nn.functional.silu,
    "tanh": torch.tanh,
    "identity": lambda z: z,
}
OUTPUT_KINDS = ("self_attention", "cross_attention", "feed_forward", "block")


def read(site: Site, what: str) -> Float[Tensor, "B S d"]:
    """The tensor z that a tuner reads at `site`; see the module's text."""
    if what == "input":
        return site.input
    assert site.output is not None
    if what == "output":
        return site.output
    assert site.residual is not None
    return site.residual if what == "residual" else site.output + site.residual


@tuner_type
@dataclass(frozen=True, kw_only=True)
class Adapter(Tuner):
    """Bottleneck adapter.

    - **bottleneck** b: width of the hidden layer
    - **reads**: `input` (parallel), `output` (sequential), `output+residual` (Pfeiffer's) or `residual` (un-normed)
    - **activation** phi
    - **scale** s: a fixed factor; with `learned_scale` its starting value (MAM: 4 on large data, or learned)
    - **norm**: a layer norm over the adapter's output whose gamma and beta are tensors too (HyperFormer)
    """

    type_name: ClassVar[str] = "adapter"
    bottleneck: int = 64
    reads: str = "output"
    activation: str = "relu"
    scale: float = 1.0
    learned_scale: bool = False
    norm: bool = False
    norm_eps: float = 1e-5

    def __post_init__(self) -> None:
        if self.reads not in READS:
            raise unknown("setting `reads` of an adapter", self.reads, READS)
        if self.activation not in ACTIVATIONS:
            raise unknown("activation of an adapter", self.activation, ACTIVATIONS)
        if self.bottleneck < 1:
            raise UserError(f"An adapter's bottleneck must be at least 1, got {self.bottleneck}.")

    @property
    def needs_residual(self) -> bool:
        return "residual" in self.reads

    def tensors(self, operation: Operation) -> dict[str, TensorSpec]:
        if operation.kind not in OUTPUT_KINDS:
            raise self.refuse(operation, "an attention, a feed-forward network or a block")
        d, e, b = operation.d_in, operation.d_out, self.bottleneck
        specs = {
            "down": TensorSpec((d, b), Init("uniform", (3 / d) ** 0.5)),
            "down_bias": TensorSpec((b,)),
            "up": TensorSpec((b, e)),
            "up_bias": TensorSpec((e,)),
        }
        if self.learned_scale:
            specs["scale"] = TensorSpec((1,), Init("constant", self.scale))
        if self.norm:
            # The norm rescales whatever U gives, so the start at nothing lies in gamma and beta instead.
            specs["up"] = TensorSpec((b, e), Init("uniform", (3 / b) ** 0.5))
            specs |= {"gamma": TensorSpec((e,), ZEROS), "beta": TensorSpec((e,), ZEROS)}
        return specs

    def __call__(self, site: Site, tensors: Tensors) -> Float[Tensor, "B S e"]:
        delta = self._onto(None, site, tensors)
        if self.norm:
            delta = _conditional_norm(delta, tensors["gamma"], tensors["beta"], self.norm_eps)
            if self.learned_scale:
                delta = delta * tensors["scale"].unsqueeze(1)
        return delta if self.learned_scale or self.scale == 1.0 else delta * self.scale

    def whole(self, site: Site, tensors: Tensors) -> Float[Tensor, "B S e"] | None:
        """The delta is added by the product that makes it, where nothing comes between.

        Not under autocast, whose products are narrower than what they would be added to.
        """
        if self.norm or (self.scale != 1.0 and not self.learned_scale) or site.output is None:
            return None
        return None if autocast(site.input) else self._onto(site.output, site, tensors)

    def _onto(self, output: Tensor | None, site: Site, tensors: Tensors) -> Float[Tensor, "B S e"]:
        """phi(z D + b_D) U + b_U, with a made scale, but without a norm."""
        hidden = ACTIVATIONS[self.activation](row_linear(read(site, self.reads), tensors["down"], tensors["down_bias"]))
        bias = tensors["up_bias"]
        if self.learned_scale and not self.norm:
            # Scaled where it is narrow: s (h U + b_U) = (s h) U + s b_U, and backward keeps the narrow h.
            scale = tensors["scale"].unsqueeze(1)
            hidden, bias = noted(hidden * scale, torch.mul, hidden, scale), bias * tensors["scale"]
        made = row_linear(hidden, tensors["up"], bias, onto=output)
        # Out of the narrow h in one product, so a norm need not keep what it reads.
        return noted(made, row_linear, hidden, tensors["up"], bias) if self.norm else made


def _conditional_norm(
    x: Float[Tensor, "B S e"], gamma: Float[Tensor, "b e"], beta: Float[Tensor, "b e"], eps: float
) -> Float[Tensor, "B S e"]:
    """LN_{gamma,beta}(x), of which x alone is kept, or what it is made of."""
    if not torch.compiler.is_compiling() and not autocast(x):
        return _ConditionalNorm.apply(x, gamma, beta, eps)
    if gamma.shape[0] == 1:
        return torch.nn.functional.layer_norm(x, x.shape[-1:], gamma.squeeze(0), beta.squeeze(0), eps)
    normed = torch.nn.functional.layer_norm(x, x.shape[-1:], eps=eps)
    return torch.addcmul(beta.unsqueeze(1), normed, gamma.unsqueeze(1))


class _ConditionalNorm(torch.autograd.Function):
    """beta + x_hat (.) gamma with a gamma and a beta for each row; x_hat is made again for backward, not kept.

    Where all rows share both, they are the kernel's own.
    """

    @staticmethod
    # pyrefly: ignore[bad-override]  (PyTorch's base takes anything)
    def forward(
        ctx: Any, x: Float[Tensor, "B S e"], gamma: Float[Tensor, "b e"], beta: Float[Tensor, "b e"], eps: float
    ) -> Float[Tensor, "B S e"]:
        shared = gamma.shape[0] == 1
        own = (gamma.squeeze(0), beta.squeeze(0)) if shared else (None, None)
        normed, mean, rstd = torch.native_layer_norm(x, x.shape[-1:], *own, eps)
        keep(ctx, x, gamma, beta if shared else None, mean, rstd)
        return normed if shared else torch.addcmul(beta.unsqueeze(1), normed, gamma.unsqueeze(1))

    @staticmethod
    # pyrefly: ignore[bad-override]  (PyTorch's base takes anything)
    def backward(ctx: Any, grad: Float[Tensor, "B S e"]) -> tuple[Tensor | None, ...]:
        x, gamma, beta, mean, rstd = kept(ctx)
        given = {"normalized_shape": x.shape[-1:], "mean": mean, "rstd": rstd}
        of_norm = partial(torch.ops.aten.native_layer_norm_backward, **given)
        if beta is not None:
            own = {"weight": gamma.squeeze(0), "bias": beta.squeeze(0)}
            of_x, of_gamma, of_beta = of_norm(grad, x, **own, output_mask=[True, True, True])
            return of_x, of_gamma.unsqueeze(0), of_beta.unsqueeze(0), None
        normed = (x - mean).mul_(rstd)
        of_x, *_ = of_norm(grad * gamma.unsqueeze(1), x, weight=None, bias=None, output_mask=[True, False, False])
        return of_x, normed.mul_(grad).sum(1), grad.sum(1), None
