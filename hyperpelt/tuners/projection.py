"""Tuners of the projections: LoRA, (IA)^3 scales, biases, and shifts of the layer norms.

- **LoRA** (Hu et al. 2021, arXiv 2106.09685, eq. 3): W' = W + (alpha/r) A B, so OP(x) + (alpha/r) x A B; B = 0 at
  start, A as the authors' code draws it (the paper: a Gaussian).
- **(IA)^3** (Liu et al. 2022, 2205.05638, section 3.3): l (.) OP(x) at k, v and at the hidden layer of the feed-forward
  network; l = 1 at start. As a tuner: OP(x) + (l - 1) (.) OP(x), and l - 1 is what is kept: it starts at zero, where
  weight decay pulls it and a hypernetwork's small first outputs leave it.
- **BitFit** (Ben Zaken et al. 2021, 2106.10199): OP(x) + b. T5 has no biases, so they are added.
- **Norm**: OP(x) + delta (.) x_hat (+ beta), x_hat the normed input: training the layer norms without touching the
  backbone. For T5 x_hat = x / rms(x); for BART (x - mean) / std.

All start at exactly nothing. T5-base: LoRA q,v r=8 884,736; (IA)^3 129,024; biases 202,752; norms 47,616.
References: peft for LoRA, (IA)^3 and layer-norm tuning; requires_grad on BART's own biases for BitFit.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import Any, ClassVar

import torch
from jaxtyping import Float
from torch import Tensor

from hyperpelt.errors import UserError
from hyperpelt.operations import NORMS, PROJECTIONS, Operation
from hyperpelt.tuners.base import ZEROS, Init, Site, Tensors, TensorSpec, Tuner, row_linear, tuner_type
from hyperpelt.tuners.remade import noted


@tuner_type
@dataclass(frozen=True, kw_only=True)
class LoRA(Tuner):
    """Low-rank delta at a projection. **rank** r, **alpha**: the delta is scaled by alpha / r (alpha=None: by 1)."""

    type_name: ClassVar[str] = "lora"
    linear: ClassVar[bool] = True
    rank: int = 8
    alpha: float | None = None

    def __post_init__(self) -> None:
        if self.rank < 1:
            raise UserError(f"LoRA's rank must be at least 1, got {self.rank}.")

    def tensors(self, operation: Operation) -> dict[str, TensorSpec]:
        if operation.kind not in PROJECTIONS:
            raise self.refuse(operation, f"a projection ({', '.join(PROJECTIONS)})")
        # kaiming_uniform(a=sqrt(5)) of the original code is a uniform of bound 1/sqrt(d_in).
        down = TensorSpec((operation.d_in, self.rank), Init("uniform", operation.d_in**-0.5))
        return {"down": down, "up": TensorSpec((self.rank, operation.d_out))}

    def __call__(self, site: Site, tensors: Tensors) -> Float[Tensor, "B S e"]:
        delta = row_linear(row_linear(site.input, tensors["down"]), tensors["up"])
        return delta if self.alpha is None else delta * (self.alpha / self.rank)


@tuner_type
@dataclass(frozen=True, kw_only=True)
class Scale(Tuner):
    """(IA)^3: multiplies what the operation writes (at `hidden`: what enters wo) by l = 1 + shift, a trained vector."""

    type_name: ClassVar[str] = "scale"

    def tensors(self, operation: Operation) -> dict[str, TensorSpec]:
        if operation.kind not in (*PROJECTIONS, "hidden"):
            raise self.refuse(operation, "a projection or the hidden layer of a feed-forward network")
        return {"shift": TensorSpec((operation.d_out,), ZEROS)}

    def __call__(self, site: Site, tensors: Tensors) -> Float[Tensor, "B S e"]:
        assert site.output is not None
        return site.output * tensors["shift"].unsqueeze(1)


@tuner_type
@dataclass(frozen=True, kw_only=True)
class Bias(Tuner):
    """A trained bias. At norms it is attached only where the model has a bias (BART, not T5)."""

    type_name: ClassVar[str] = "bias"

    def tensors(self, operation: Operation) -> dict[str, TensorSpec]:
        if operation.kind not in (*PROJECTIONS, *NORMS):
            raise self.refuse(operation, "a projection or a norm")
        if operation.kind in NORMS and not operation.has_bias:
            return {}
        return {"bias": TensorSpec((operation.d_out,), ZEROS)}

    def __call__(self, site: Site, tensors: Tensors) -> Float[Tensor, "b 1 e"]:
        return tensors["bias"].unsqueeze(1)


@tuner_type
@dataclass(frozen=True, kw_only=True)
class Norm(Tuner):
    """Shift of a layer norm's scale, and of its bias where it has one."""

    type_name: ClassVar[str] = "norm"

    def tensors(self, operation: Operation) -> dict[str, TensorSpec]:
        if operation.kind not in NORMS:
            raise self.refuse(operation, "a norm")
        specs = {"weight": TensorSpec((operation.d_out,), ZEROS)}
        return specs | ({"bias": TensorSpec((operation.d_out,), ZEROS)} if operation.has_bias else {})

    def __call__(self, site: Site, tensors: Tensors) -> Float[Tensor, "B S e"]:
        delta = normed(site.input, site.operation) * tensors["weight"].unsqueeze(1)
        return delta + tensors["bias"].unsqueeze(1) if "bias" in tensors else delta

    def whole(self, site: Site, tensors: Tensors) -> Float[Tensor, "B S e"] | None:
        """(w + delta) (.) x_hat + (b + beta): a gradient flows through one norm instead of two.

        Not where each row has a delta of its own; w + delta is summed in float32, as bfloat16 would swallow a small
        delta, and a centred norm takes no scale but of its own precision.
        """
        frozen, shift = site.frozen.get("weight"), tensors["weight"]
        if frozen is None or shift.shape[0] > 1 or (frozen.dtype == torch.bfloat16 and site.operation.norm_centred):
            return None
        narrow = frozen.dtype if frozen.dtype == torch.bfloat16 else None
        wide = frozen.dtype if narrow is None else torch.float32
        weight = frozen.to(wide) + shift.squeeze(0).to(wide)
        if not site.operation.norm_centred:
            form = _rms_norm if torch.compiler.is_compiling() else _RMSNorm.apply
            return form(site.input, weight, site.operation.norm_eps, narrow)
        bias = site.frozen["bias"] + tensors["bias"].squeeze(0) if "bias" in tensors else site.frozen.get("bias")
        compute = partial(_layer_norm, site.operation.norm_eps)
        return noted(compute(site.input, weight, bias), compute, site.input, weight, bias)


def _layer_norm(eps: float, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    return torch.nn.functional.layer_norm(x, weight.shape, weight, bias, eps)


def _rms_norm(x: Float[Tensor, "B S d"], weight: Float[Tensor, " d"], eps: float, narrow: torch.dtype | None) -> Tensor:
    """w (.) x / rms(x) as T5 computes it, bit for bit.

    - **narrow**: what a backbone in bfloat16 rounds to before and after the product, which is exact in between
    """
    return _scaled(x * _over_rms(x, eps), weight, narrow)


def _over_rms(x: Float[Tensor, "B S d"], eps: float) -> Float[Tensor, "B S 1"]:
    """1 / rms(x), in float32."""
    return torch.rsqrt(x.float().pow(2).mean(-1, keepdim=True) + eps)


def _scaled(x_hat: Float[Tensor, "B S d"], weight: Float[Tensor, " d"], narrow: torch.dtype | None) -> Tensor:
    return weight * x_hat if narrow is None else (weight * x_hat.to(narrow)).to(narrow)


class _RMSNorm(torch.autograd.Function):
    """`_rms_norm`; kept for backward is x alone, which the backbone has anyway, and a number a position."""

    @staticmethod
    # pyrefly: ignore[bad-override]  (PyTorch's base takes anything)
    def forward(ctx: Any, x: Float[Tensor, "B S d"], weight: Float[Tensor, " d"], eps: float, narrow: Any) -> Tensor:
        rsqrt = _over_rms(x, eps)
        ctx.save_for_backward(x, rsqrt, weight)
        return _scaled(x * rsqrt, weight, narrow)

    @staticmethod
    # pyrefly: ignore[bad-override]  (PyTorch's base takes anything)
    def backward(ctx: Any, grad: Float[Tensor, "B S d"]) -> tuple[Tensor | None, Tensor, None, None]:
        x, rsqrt, weight = ctx.saved_tensors
        x_hat = x * rsqrt  # at least float32
        product = grad * x_hat
        of_weight = product.flatten(0, -2).sum(0)
        if not ctx.needs_input_grad[0]:
            return None, of_weight, None, None
        mean = (product @ weight).unsqueeze(-1) / x.shape[-1]
        return torch.addcmul(grad * weight, x_hat, mean, value=-1).mul(rsqrt).to(x.dtype), of_weight, None, None


def normed(x: Float[Tensor, "B S d"], operation: Operation) -> Float[Tensor, "B S d"]:
    """x_hat of the norm `operation`: RMS-normed on T5, standardised on BART; statistics in float32."""
    if operation.norm_centred:
        return torch.nn.functional.layer_norm(x, x.shape[-1:], eps=operation.norm_eps)
    return (x * _over_rms(x, operation.norm_eps)).to(x.dtype)
